"""What a name means, from wherever it is read."""

import json

import jax
import numpy as np
import pytest
from gguf import GGUFWriter

import fewshot_jax as fsj
from fewshot_jax.adaptation.start import start_of_default
from fewshot_jax.errors import UserError
from fewshot_jax.models.sources.describe import licence_of
from fewshot_jax.models.sources.names import ModelFiles, find_files, lasting_name, short_name
from tests.models.huggingface.tiny import tiny
from tests.models.sources.test_package import packaged, site  # noqa: F401


def test_the_default_model_is_the_encoder_that_adapt_starts_from():
    pretrained, start = fsj.load_pretrained("default"), start_of_default()
    ids = np.array([[2, 884, 29, 813], [2, 7, 5, 0]])
    mask = (ids > 0).astype(np.int32)
    ours = pretrained.module.apply({"params": pretrained.params}, ids, mask).last_hidden_state
    encoder = start.meta_params["params"]["features"]["encoder"]
    theirs = start.model.module.apply({"params": encoder}, ids, mask).last_hidden_state
    np.testing.assert_allclose(ours[mask > 0], theirs[mask > 0], atol=1e-5)
    assert pretrained.tokenizer.get_vocab() == start.model.codec.tokenizer.get_vocab()


def test_a_directory_wins_over_a_model_of_the_hub(tmp_path, monkeypatch):
    fsj.save_pretrained(tmp_path / "org" / "name", tiny("bert", None))
    monkeypatch.chdir(tmp_path)
    assert find_files("org/name").kind == "directory"
    assert lasting_name("org/name") == str(tmp_path / "org" / "name")
    assert jax.tree.leaves(fsj.load_pretrained("org/name").params)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["notes.txt"], r"holds notes\.txt, which is no model; give a Hugging Face"),
        (["config.yaml", "data.json"], "is a run of 'fewshot-jax train'; 'fewshot-jax export RUN --output DIR' writes"),
        (["model.json"], r"is a model that adapt made, which fsj\.load and 'fewshot-jax predict' read"),
        (["config.yaml"], "has no model yet; let 'fewshot-jax pretrain' finish"),
        (["a.gguf"], r"holds a\.gguf, and no config\.json; give the file: .*a\.gguf"),
    ],
)
def test_a_directory_that_holds_no_model_says_what_to_give(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        find_files(tmp_path)


def test_a_file_is_a_model_only_if_it_is_gguf(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"is a file, and no \.gguf file; give the directory of the model"):
        find_files(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no such file"):
        find_files(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "target.spm", "merges.txt"])
def test_another_tokenizer_is_another_model(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    hashes = []
    for content in ("one", "two"):
        (tmp_path / name).write_text(content)
        hashes.append(find_files(tmp_path).hash())
    assert hashes[0] != hashes[1]


def test_each_part_of_a_split_file_tells_the_model(tmp_path):
    def write(part, number):
        writer = GGUFWriter(tmp_path / f"m-0000{part}-of-00002.gguf", "llama")
        writer.add_uint16("split.count", 2)
        writer.add_tensor(f"weights.{part}", np.full(4, number, np.float32))
        for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
            getattr(writer, step)()

    write(1, 0.0)
    hashes = []
    for number in (1.0, 2.0):
        write(2, number)
        hashes.append(find_files(tmp_path / "m-00001-of-00002.gguf").hash())
    assert hashes[0] != hashes[1]


def test_readers_see_short_names():
    assert short_name("org/name@" + "1" * 40) == "org/name"
    assert short_name("/long/path/to/model") == "model"
    assert short_name("package:tiny") == "package:tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r": no such directory \(the name is empty\); give a Hugging Face"),
        (
            "https://huggingface.co/org/name/tree/main",
            r"\(a model of the hub is given without its server: 'org/name'\)",
        ),
        ("bert-base-uncased", r"\(a model of the hub has its organisation before it, such as google-bert/"),
        ("defualt", r"\(did you mean 'default'\?\)"),
        ("tiny_model", r"\(did you mean 'package:tiny_model'\?\)"),
        ("package:tiny-modle", r"no such package is installed \(did you mean package:tiny-model\?\)"),
        ("package:tiny_model@1.2", "names a version; give the package alone"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_what_may_be_meant(packaged, name, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        find_files(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, r"config\.json: num_hidden_layers=1000000000: expected at most 1000"),
        ({"layer_norm_eps": float("nan")}, r"config\.json: layer_norm_eps=nan: expected a finite number"),
    ],
)
def test_numbers_that_no_model_has_are_refused_before_anything_is_made(tmp_path, change, message):
    fsj.save_pretrained(tmp_path, tiny("bert", None))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        fsj.load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense:\n- mit\n---\n", "mit"),
        ("\ufeff---\nlicense: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ("---\nlanguage: en\n---\nlicense: of something else\n", None),
        ("license: mit\n", None),
    ],
)
def test_a_licence_is_that_of_the_first_lines_of_a_card(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert licence_of(ModelFiles(name=str(tmp_path), path=tmp_path, kind="directory")) == licence
