"""``fewshot-jax models``: what is at hand, what a model is."""

import json

import pytest

import fewshot_jax as fsj
from fewshot_jax.cli.main import main
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.sources.names import find_files
from tests.models.huggingface.tiny import tiny
from tests.models.sources.test_package import install, packaged, site  # noqa: F401


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_list_names_what_is_at_hand_and_the_families(packaged, capsys):  # noqa: F811
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["families"] == list(FAMILIES)
    rows = {one["name"]: one for one in found["models"]}
    assert rows["default"]["problem"] is None and rows["default"]["family"] == "xlm-roberta-xl"
    assert rows["package:tiny_model"]["licence"] == "MIT (of the package)"
    assert main(["models"]) == 0
    assert "package:tiny_model (1.2)" in capsys.readouterr().out


def test_a_model_is_shown_with_its_sizes(packaged, capsys):  # noqa: F811
    assert main(["models", "show", "package:tiny-model", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    parameters = sum(leaf.size for leaf in _leaves())
    assert (shown["parameters"], shown["bytes_to_load"]) == (parameters, 4 * parameters)
    assert (shown["family"], shown["positions"], shown["layers"], shown["width"]) == ("bert", 32, 3, 16)
    assert shown["bytes_to_adapt"] > shown["bytes_to_load"]
    assert shown["sha256"] == find_files("package:tiny-model").hash()
    assert main(["models", "show", "package:tiny-model"]) == 0
    assert f"{parameters:,} (3 layers of width 16, 40 token ids)" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_one_row_of_the_list(site, capsys):  # noqa: F811
    install(site, "damaged", {"damaged/model.gguf": "GGUF"})
    assert main(["models", "--json"]) == 0
    rows = {one["name"]: one for one in json.loads(capsys.readouterr().out)["models"]}
    assert "not a GGUF file, or truncated" in rows["package:damaged"]["problem"]
    assert rows["default"]["problem"] is None


@pytest.mark.parametrize(
    ("name", "given", "shown"),
    [
        ("t5", {"n_positions": 512}, {"positions": 512}),
        ("bert", {"architectures": ["BertForTokenClassification"]}, {"head": None, "layers": 3}),
    ],
)
def test_what_only_the_config_states_is_shown(name, given, shown, tmp_path, capsys):
    fsj.save_pretrained(tmp_path, tiny(name, None))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **given}))
    assert main(["models", "show", str(tmp_path), "--json"]) == 0
    assert shown.items() <= json.loads(capsys.readouterr().out).items()


def _leaves():
    import jax

    return jax.tree.leaves(tiny("bert", "pooler").params)


def test_a_model_that_is_here_is_where_it_is(packaged, capsys):  # noqa: F811
    assert main(["models", "get", "package:tiny-model"]) == 0
    assert capsys.readouterr().out == f"package:tiny-model: {packaged}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shw", "default"], "unknown command 'models shw'"),
        (["show", "absent"], "absent: no such directory"),
        (["get", "package:absent"], "package:absent: no such package is installed"),
    ],
)
def test_mistakes_are_one_message(arguments, message, capsys):
    assert main(["models", *arguments]) == 2
    assert message in capsys.readouterr().err
