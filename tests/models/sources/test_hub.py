"""Models of the hub: what is fetched, what is not, and what each mistake says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

import fewshot_jax as fsj
from fewshot_jax.errors import UserError
from fewshot_jax.models.sources.hub import fetch
from fewshot_jax.models.sources.names import find_files
from tests.applications.test_text_model import words
from tests.models.huggingface.tiny import tiny
from tests.models.sources.hub_server import Hub, serving

MAIN, TAGGED = "1" * 40, "2" * 40
NEVER = ("pytorch_model.bin", "modeling_own.py", "onnx/model.onnx", "onnx/config.json", "model.fp16.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny BERT with a tokenizer, and what lies beside one on the hub."""
    directory = tmp_path_factory.mktemp("model")
    fsj.save_pretrained(directory, tiny("bert", None))
    words().save_pretrained(str(directory))
    (directory / "1_Pooling").mkdir()
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    for name in ("1_Pooling/config.json", *NEVER):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("{}")
    return directory


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """The server, and an empty cache."""
    with serving(Hub(models={"org/tiny": model})) as hub:
        ask(monkeypatch, hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield hub


def ask(monkeypatch, endpoint):
    """What HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template)


def offline(monkeypatch):
    """Nothing listens there."""
    ask(monkeypatch, "http://127.0.0.1:9")


def without(model, tmp_path, *names, **more):
    """A copy of the model that lacks some files and has others."""
    copy = shutil.copytree(model, tmp_path / "copy")
    for name in names:
        (copy / name).unlink()
    for name, content in more.items():
        (copy / name.replace("__", ".")).write_text(content)
    return copy


def test_a_model_of_the_hub_is_the_model_of_its_directory(hub, model):
    ours, theirs = fsj.load_pretrained("org/tiny"), fsj.load_pretrained(model)
    assert (ours.name, ours.revision) == (f"org/tiny@{MAIN}", MAIN)
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    for path in ("token_embedding", "encoder"):
        assert str(ours.params[path]) == str(theirs.params[path])


def test_only_what_is_needed_is_fetched(hub):
    directory = fetch("org/tiny")
    assert hub.fetched().isdisjoint(NEVER)
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json", "README.md"} <= hub.fetched()
    assert not any((directory / name).exists() for name in NEVER)


def test_a_second_use_needs_no_network(hub, monkeypatch):
    first = fetch("org/tiny")
    offline(monkeypatch)
    assert fetch("org/tiny") == first
    assert find_files("org/tiny").revision == MAIN


def test_a_commit_in_the_cache_is_asked_for_nowhere(hub):
    fetch("org/tiny", "v1")
    hub.asked.clear()
    assert fetch("org/tiny", TAGGED).name == TAGGED
    assert hub.asked == []


def test_a_branch_is_the_commit_of_today(hub):
    assert fetch("org/tiny").name == MAIN
    hub.refs["main"] = "3" * 40
    assert fetch("org/tiny").name == "3" * 40


def test_config_and_tokenizer_come_without_the_weights(hub):
    fetch("org/tiny", weights=False)
    assert "model.safetensors" not in hub.fetched()
    fetch("org/tiny")
    assert "model.safetensors" in hub.fetched()


def test_the_hash_of_a_model_tells_its_files(hub, model, tmp_path):
    assert find_files("org/tiny").hash() != find_files(without(model, tmp_path, "README.md", x__json="1")).hash()


def test_a_cache_laid_out_by_hand_is_read(model, tmp_path, monkeypatch):
    home = tmp_path / "cache" / "models--org--tiny"
    shutil.copytree(model, home / "snapshots" / MAIN)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(MAIN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    offline(monkeypatch)
    assert fetch("org/tiny") == home / "snapshots" / MAIN


def test_a_download_that_breaks_off_is_named_and_goes_on_later(hub, monkeypatch):
    hub.broken.add("model.safetensors")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="org/tiny"):
        fetch("org/tiny")
    offline(monkeypatch)
    with pytest.raises(UserError, match=r"not whole in the cache.*lacks model\.safetensors.*models get org/tiny"):
        fetch("org/tiny")
    hub.broken.clear()
    ask(monkeypatch, hub.endpoint)
    assert fsj.load_pretrained("org/tiny").params


@pytest.fixture
def described(hub, model, tmp_path):
    """The model on the hub says that a vector is the state of the first token."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    hub.models["org/tiny"] = without(model, tmp_path, modules__json=json.dumps(modules))
    (hub.models["org/tiny"] / "1_Pooling/config.json").write_text('{"pooling_mode": "cls"}')


def test_what_another_program_left_out_of_the_cache_is_fetched(described):
    for name in ("config.json", "model.safetensors"):  # as transformers' AutoModel does
        hf_hub_download("org/tiny", name, revision=MAIN, cache_dir=constants.HF_HUB_CACHE)
    pretrained = fsj.load_pretrained(f"org/tiny@{MAIN}")
    assert pretrained.vectors.shape.pooling == ("cls",)
    assert pretrained.tokenizer is not None


def test_a_small_file_that_did_not_come_is_fetched_later(hub, described, monkeypatch):
    hub.broken.add("modules.json")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("org/tiny", name, revision=MAIN, cache_dir=constants.HF_HUB_CACHE)
    with pytest.raises(UserError, match="org/tiny"):
        fetch("org/tiny")
    endpoint = hub.endpoint
    offline(monkeypatch)
    for name in ("org/tiny", f"org/tiny@{MAIN}"):
        with pytest.raises(UserError, match="not whole in the cache, which lacks some of its files"):
            fsj.load_pretrained(name)
    hub.broken.clear()
    ask(monkeypatch, endpoint)
    assert fsj.load_pretrained(f"org/tiny@{MAIN}").vectors.shape.pooling == ("cls",)


def test_a_shard_that_is_missing_is_named(model, tmp_path, monkeypatch):
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    copy = without(model, tmp_path, "model.safetensors")
    (copy / "model.safetensors.index.json").write_text(index)
    (copy / "model-00001-of-00002.safetensors").write_text("")
    home = tmp_path / "cache" / "models--org--tiny"
    shutil.copytree(copy, home / "snapshots" / MAIN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    offline(monkeypatch)
    with pytest.raises(UserError, match=r"lacks model-00002-of-00002\.safetensors"):
        fetch("org/tiny", MAIN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/other", r"org/other: no such directory here, and no such model at http://127.*check the name.*HF_TOKEN"),
        ("org/closed", r"org/closed: is gated; ask for access at .*/org/closed, then log in"),
        ("org/tiny@v9", r"org/tiny@v9: the model has no revision 'v9'; it has main, v1"),
        ("org/../tiny", r"no such directory; give .*'org/name'"),
        ("../org/tiny", r"no such directory; give .*'org/name'"),
        ("org/tiny@../x", r"no such directory; give"),
        ("bert-base-uncased", r"bert-base-uncased: no such directory .*; give .*'org/name'"),
        ("defualt", r"did you mean 'default'\?"),
    ],
)
def test_a_wrong_name_is_one_message(hub, model, name, message):
    hub.models["org/closed"] = model
    hub.gated.add("org/closed")
    with pytest.raises(UserError, match=message) as caught:
        fsj.load_pretrained(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lacks", "has", "message"),
    [
        (["model.safetensors"], {}, r"no safetensors, only pytorch_model\.bin; pickles are not read.*refs/pr/N"),
        (["model.safetensors", "pytorch_model.bin"], {"q4__gguf": ""}, r"1 \.gguf file and no.*hf download org/bad q4"),
        (["model.safetensors", "pytorch_model.bin"], {"adapter_config__json": ""}, "holds an adapter of peft"),
        (
            ["model.safetensors", "pytorch_model.bin"],
            {"adapter_config__json": "", "adapter_model__safetensors": ""},
            "holds an adapter of peft",
        ),
        (["model.safetensors"], {"model.fp16__safetensors": ""}, r"holds model\.fp16\.safetensors, and no model\.safe"),
        (["model.safetensors", "pytorch_model.bin"], {}, "holds no weights in safetensors"),
        ([], {"config__json": '{"model_type": "own", "auto_map": {}}'}, "'own'"),
        ([], {"modules__json": '[{"type": "own.Module", "path": ""}]'}, r"'own\.Module' is not supported"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_before_its_weights_come(hub, model, tmp_path, lacks, has, message):
    hub.models["org/bad"] = without(model, tmp_path, *lacks, "model.fp16.safetensors", **has)
    with pytest.raises(UserError, match=message):
        fetch("org/bad")
    assert hub.fetched() <= {"config.json", "modules.json", "1_Pooling/config.json"}


def test_without_a_network_and_a_cache_both_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    offline(monkeypatch)
    with pytest.raises(UserError, match=r"not in the cache \(.*cache\), and http://127\.0\.0\.1:9 cannot be asked"):
        fsj.load_pretrained("org/tiny")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot be fetched into the cache .*cache.*set HF_HOME"):
        fetch("org/tiny")


def test_a_cache_that_is_a_file_is_named(hub, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cannot be fetched into the cache .*cache.*set HF_HOME"):
        fetch("org/tiny")


def test_the_command_line_follows_the_settings_of_the_hub(hub, tmp_path):
    settings = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "fewshot_jax", "models", "get", "org/tiny", "--json"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["revision"] == MAIN
    again = subprocess.run(command, env={**settings, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == json.loads(done.stdout)
    missing = subprocess.run(
        [*command[:-2], "org/other"],
        env={**settings, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 2
    assert "HF_HUB_OFFLINE is set" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1
    assert not (Path.cwd() / "org").exists()
