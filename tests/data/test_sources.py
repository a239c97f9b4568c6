"""A source of data from outside the package, named in a config as package.module:function."""

import sys

import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.labelled_texts import read_data
from fewshot_jax.applications.table import build_application
from fewshot_jax.cli.arguments import parse_run
from fewshot_jax.cli.train import Arguments
from fewshot_jax.config import DataConfig
from fewshot_jax.config.sources import SOURCE_RECORDS
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.sources import SOURCES, examples_of_source

CODE = """
import fewshot_jax as fsj


def labelled(options):
    return [fsj.Record(f"text {i} of {label}", label) for label in options["labels"] for i in range(3)]


def pairs(options):
    return [fsj.Example(f"w{i} {task}", f"v{i}", task) for task in options["tasks"] for i in range(4)]


def plain(options):
    return {"text": "label"}


def rows(options):
    return [fsj.Record("a", "b"), ("c", "d")]


def nothing(options):
    return []


def hollow(options):
    return [fsj.Example("a", " ")]


def refuses(options):
    raise ValueError("labels: expected a list of names")
"""
TINY = {
    "tokenizer": {"kind": "word", "max_length": 8, "buckets": [8], "target_max_length": 4, "target_buckets": [4]},
    "model": {"width": 8, "layers": 1, "heads": 2, "mlp_width": 8},
    "episodes": {"shots": 1, "queries": 2},
    "evaluation": {"shots": [1], "queries": 2},
}


@pytest.fixture(autouse=True)
def own_sources(tmp_path, monkeypatch):
    (tmp_path / "own_sources.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_sources", raising=False)


def test_the_table_and_the_config_have_the_same_sources():
    assert SOURCES.keys() == SOURCE_RECORDS.keys()


def test_its_options_reach_it_and_its_records_are_read_as_those_of_files():
    data = DataConfig(source="own_sources:labelled", options={"labels": ["a", " b"]})
    records = read_data(data, 0)
    assert [record.label for record in records] == ["a"] * 3 + ["b"] * 3, "names are made normal"


def test_its_pairs_are_divided_by_task_and_tie_the_run_to_them():
    def application(**options):
        data = {"source": "own_sources:pairs", "options": {"tasks": list("uvwxy"), **options}}
        return build_application(from_dict({"application": "translation", "data": data, **TINY}))

    made = application()
    assert {name: len(tasks) for name, tasks in made.labels().items()} == {"train": 3, "validation": 1, "test": 1}
    assert made.fingerprint() == application().fingerprint()
    assert made.fingerprint() != application(tasks=list("uvwxz")).fingerprint()


@pytest.mark.parametrize(
    ("read", "function", "message"),
    [
        (read_data, "plain", r"returned dict; expected a list of Record"),
        (read_data, "rows", r"item 1 is of type tuple; the application reads fewshot_jax.Record"),
        (examples_of_source, "rows", r"item 0 is of type Record; the application reads fewshot_jax.Example"),
        (read_data, "nothing", r"returned no items; expected at least one Record"),
        (
            examples_of_source,
            "hollow",
            r"item 0: target is ' '; expected a text, so fill it in, or leave the example out",
        ),
        (read_data, "refuses", r"labels: expected a list of names \(see data.options\)"),
        (read_data, "lost", r"own_sources has no function 'lost'; expected one of labelled, pairs"),
    ],
)
def test_what_is_wrong_with_it_is_one_sentence_with_its_name(read, function, message):
    with pytest.raises(fsj.UserError, match=message) as error:
        read(DataConfig(source=f"own_sources:{function}"), 0)
    assert str(error.value).startswith(f"data.source=own_sources:{function}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["path", "files"])
def test_a_path_beside_it_is_refused(field):
    with pytest.raises(fsj.UserError, match=rf"data.{field}=.*own_sources:labelled reads data.options alone"):
        from_dict({"data": {"source": "own_sources:labelled", field: "x" if field == "path" else ["x"]}})


def test_flags_override_names_and_the_options_that_a_config_has(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("data: {source: 'own_sources:labelled', options: {groups: 3, deep: {share: 0.5}}}\n")
    given = [str(path), "--run-dir", "run", "--learner.name", "a.b:c", "--data.options.groups", "4"]
    settings = parse_run(Arguments, "train", given).settings
    assert settings.learner.name == "a.b:c"
    assert settings.data.options == {"groups": 4, "deep": {"share": 0.5}}
    with pytest.raises(SystemExit, match="2"):
        parse_run(Arguments, "train", [*given[:3], "--learner.name", "protnet"])
    assert "did you mean 'protonet'?" in capsys.readouterr().err
