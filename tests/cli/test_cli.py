"""The command line: every command with good and bad input; a mistake is one message and code 2."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import time

import jax
import pytest
import yaml

import fewshot_jax as fsj
from fewshot_jax.cli.main import COMMANDS, interrupt, interruptible, main

VALUES = {
    "data": {"groups": 8, "texts_per_class": 8, "split_by": "group", "fractions": [0.5, 0.25, 0.25]},
    "episodes": {"ways": 3, "shots": 1, "queries": 2, "within_group": True},
    "tokenizer": {"kind": "word", "max_length": 12, "buckets": [12]},
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "inner": {"steps": 1, "rate": 0.4},
    "outer": {"steps": 2, "tasks": 1},
    "evaluation": {
        "every": 2,
        "validation_episodes": 2,
        "episodes": 4,
        "ways": 3,
        "shots": [1, 2],
        "queries": 2,
        "tasks": 2,
    },
    "baselines": {"steps": 2, "rates": [0.01], "episodes": 2},
}
FLOORS = (
    *("TF-IDF centroid", "untrained, prototypes", "multi-task, prototypes"),
    *("untrained, fine-tuned", "multi-task, fine-tuned"),
)
EXAMPLES = "text,label\nbook tickets,booking\nbook maps,booking\ncancel lunch,cancelling\ncancel keys,cancelling\n"


def call(arguments):
    """(exit code, stdout, stderr) of a command; any other exception than SystemExit gets through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with overridden fields, and what its training printed."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.yaml").write_text(yaml.safe_dump(VALUES))
    overrides = ["--inner.steps", "3", "--learner.name", "protonet", "--evaluation.shots", "1", "--outer.rate", "2e-3"]
    result = call(["train", folder / "config.yaml", "--run-dir", folder / "run", "--quiet", "--json", *overrides])
    return folder / "run", result


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "examples.csv").write_text(EXAMPLES)
    files = ["--data", folder / "examples.csv", "--output", folder / "model"]
    code, out, err = call(["adapt", trained[0], *files, "--save", "adapted"])
    assert code == 0, err
    assert "cross-validated, 2 folds" in out and "Saved: the adapted model" in " ".join(out.split())
    return folder / "model"


def test_train_with_json_prints_the_evaluation_and_nothing_else(trained):
    run, (code, out, err) = trained
    assert code == 0, err
    printed = json.loads(out)
    assert printed == json.loads((run / "evaluation.json").read_text())
    assert list(printed["accuracy"]) == ["protonet", *FLOORS, "chance"]


def test_dotted_flags_override_the_file_and_land_in_the_runs_config(trained):
    config = fsj.read_config(trained[0] / "config.yaml")
    assert config.inner.steps == 3
    assert config.learner.name == "protonet"
    assert config.evaluation.shots == (1,)
    assert config.outer.rate == 2e-3
    assert config.model.width == 16, "what is not overridden is the file's"


def test_evaluate_prints_a_table(trained):
    code, out, err = call(["evaluate", trained[0], "--episodes", "3", "--shots", "1", "2", "--quiet"])
    assert code == 0, err
    for word in (
        "protonet",
        *FLOORS,
        "chance",
        "1-shot",
        "2-shot",
        "3 episodes",
        "33.3",
    ):
        assert word in out


def test_evaluate_with_json(trained):
    code, out, err = call(["evaluate", trained[0], "--episodes", "3", "--shots", "2", "--json", "--quiet"])
    assert code == 0, err
    assert err == ""
    assert list(json.loads(out)["accuracy"]["protonet"]) == ["2"]


def change_config(run, **sections):
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    for name, fields in sections.items():
        values[name].update(fields)
    path.write_text(yaml.safe_dump(values))


def test_several_runs_go_into_one_table_if_their_episodes_are_the_same(trained, tmp_path):
    run, _ = trained
    for name in ("one", "other", "foreign"):
        shutil.copytree(run, tmp_path / name)
        change_config(tmp_path / name, baselines={"fine_tuning": False, "multi_task": False})
    flags = ["--episodes", "3", "--shots", "1", "--quiet"]
    code, out, err = call(["evaluate", tmp_path / "one", tmp_path / "other", *flags, "--json"])
    assert code == 0, err
    assert [row["run"] for row in json.loads(out)] == ["one", "other"]
    shutil.copytree(tmp_path / "one", tmp_path / "again" / "one")
    code, out, err = call(["evaluate", tmp_path / "one", tmp_path / "again" / "one", *flags])
    assert code == 0, err
    assert all(name in out for name in ("protonet (one)", "protonet (again/one)")), "no row replaces another"
    change_config(tmp_path / "foreign", evaluation={"queries": 1})
    words = [tmp_path / "foreign", "its test episodes are not those of", "evaluation.queries: 2 -> 1"]
    assert_mistake(["evaluate", tmp_path / "one", tmp_path / "foreign", *flags], *words)
    assert_mistake(["evaluate"], "evaluate")


def test_env(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["jax"] == jax.__version__
    assert found["compilation cache"] == jax.config.jax_compilation_cache_dir
    assert main(["env"]) == 0
    assert re.search(rf"^jax +{re.escape(jax.__version__)}$", capsys.readouterr().out, re.MULTILINE)


def read(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_predict_writes_label_and_probability_beside_the_input(model, tmp_path, suffix):
    given = tmp_path / "new.csv"
    given.write_text('id,text,note\n7,"book tickets, please",é\n8,cancel lunch,""\n', encoding="utf-8")
    code, out, err = call(["predict", model, "--input", given, "--output", tmp_path / f"out{suffix}"])
    assert code == 0, err
    assert "2 texts" in out
    rows = read(tmp_path / f"out{suffix}")
    assert [list(row) for row in rows] == [["id", "text", "note", "predicted_label", "probability"]] * 2
    inputs = [{name: row[name] for name in ("id", "text", "note")} for row in rows]
    assert inputs == read(given)
    expected = fsj.load(model).predict([row["text"] for row in rows])
    assert [row["predicted_label"] for row in rows] == [prediction.label for prediction in expected]
    for row, prediction in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(prediction.probability, abs=1e-4)


def test_predict_takes_plain_text_and_another_text_field(model, tmp_path):
    (tmp_path / "new.txt").write_text("book tickets\ncancel lunch\n")
    (tmp_path / "new.jsonl").write_text('{"utterance": "book tickets"}\n{"utterance": "cancel lunch"}\n')
    assert call(["predict", model, "--input", tmp_path / "new.txt", "--output", tmp_path / "a.csv"])[0] == 0
    flags = ["--output", tmp_path / "b.csv", "--text-field", "utterance"]
    assert call(["predict", model, "--input", tmp_path / "new.jsonl", *flags])[0] == 0
    one, other = read(tmp_path / "a.csv"), read(tmp_path / "b.csv")
    assert [row["predicted_label"] for row in one] == [row["predicted_label"] for row in other]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_exits_with_0_and_explains(arguments):
    code, out, _ = call(arguments)
    assert code == 0
    assert "usage" in out.lower()
    if len(arguments) == 1:
        assert all(name in out for name in COMMANDS)


def test_the_help_of_train_shows_the_fields_of_the_config():
    _, out, _ = call(["train", "--help"])
    for flag in ("--run-dir", "--inner.steps", "--outer.rate", "--data.path", "--evaluation.shots"):
        assert flag in out


def test_the_version():
    from importlib.metadata import version

    code, out, _ = call(["--version"])
    assert (code, out.strip()) == (0, version("fewshot-jax"))


def assert_mistake(arguments, *words):
    """Code 2 and one message that has the words."""
    code, out, err = call(arguments)
    assert code == 2
    assert err.startswith("error: "), err
    assert err.count("error:") == 1
    assert "Traceback" not in err + out
    for word in words:
        assert str(word) in err


def test_no_command_prints_the_usage():
    code, out, err = call([])
    assert code == 2
    assert "usage" in out + err


def test_an_unknown_command():
    assert_mistake(["trian"], "unknown command 'trian'", "did you mean 'train'?")
    assert_mistake(["zzzzz"], "unknown command 'zzzzz'", *COMMANDS)


def test_an_unknown_field_of_the_config(config, tmp_path):
    config.write_text("inner:\n  step: 3\n")
    arguments = ["train", config, "--run-dir", tmp_path / "run"]
    assert_mistake(arguments, config, "unknown field 'inner.step'", "did you mean 'steps'?")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (["--inner.step", "3"], ["--inner.step", "--inner.steps"]),
        (["--inner.steps", "many"], ["--inner.steps", "many"]),
        (["--learner.name", "mmal"], ["learner.name", "maml"]),
    ],
)
def test_a_wrong_flag_is_named_with_the_nearest_one(config, tmp_path, flag, words):
    code, out, err = call(["train", config, "--run-dir", tmp_path / "run", *flag])
    assert code == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err + out
    assert not (tmp_path / "run").exists()


def test_a_flag_out_of_range(config, tmp_path):
    code, out, err = call(["train", config, "--run-dir", tmp_path / "run", "--episodes.ways", "0"])
    assert code == 2
    assert "episodes.ways=0: expected at least 2" in out + err
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_a_missing_argument(config, trained):
    code, out, err = call(["train", config])
    assert code == 2
    assert "run-dir" in out + err
    code, out, err = call(["adapt", trained[0]])
    assert code == 2
    assert "data" in out + err
    assert_mistake(["train"], "CONFIG")


def test_a_missing_or_broken_config(tmp_path):
    flags = ["--run-dir", tmp_path / "run"]
    assert_mistake(["train", tmp_path / "absent.yaml", *flags], "absent.yaml", "no such config file")
    (tmp_path / "broken.yaml").write_text("inner:\n  rate: [1\nouter: 2\n")
    assert_mistake(["train", tmp_path / "broken.yaml", *flags], "broken.yaml", "line 3", "not valid YAML")


# (name, content, words of the message)
BAD_FILES = [
    ("absent.csv", None, ["no such file"]),
    ("empty.csv", b"", ["empty"]),
    ("header.csv", b"text,label\n", ["no rows"]),
    ("broken.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a", \n', ["line 2", "broken JSON"]),
    ("column.csv", b"text,lable\na,b\n", ["line 1", "no column 'label'", "Did you mean 'lable'?"]),
    ("latin.csv", b"text,label\ncaf\xe9,b\n", ["line 2", "not UTF-8"]),
    ("data.xlsx", b"PK", ["cannot read files of type '.xlsx'"]),
]
IDS = [name for name, _, _ in BAD_FILES]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=IDS)
def test_a_bad_file_of_examples(trained, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ["adapt", trained[0], "--data", tmp_path / name, "--output", tmp_path / "model"]
    assert_mistake(arguments, tmp_path / name, *words)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=IDS)
def test_a_bad_file_to_train_on(config, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ["train", config, "--run-dir", tmp_path / "run", "--data.source", "files", "--data.path"]
    assert_mistake([*arguments, tmp_path / name], tmp_path / name, *words)
    assert not (tmp_path / "run").exists()


def write_classes(path, sizes):
    rows = [f"text number {i} of {name},{name}" for name, size in sizes.items() for i in range(size)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


def train_on_file(config, path, *flags):
    source = ["--data.source", "files", "--data.path", path, "--data.split_by", "label"]
    return ["train", config, "--run-dir", path.parent / "run", *source, "--episodes.no-within_group", *flags]


def test_a_class_with_too_few_examples(config, tmp_path):
    sizes = {f"c{i:02d}": 9 for i in range(20)}
    path = write_classes(tmp_path / "data.csv", {**sizes, "c07": 1})
    assert_mistake(
        train_on_file(config, path), "split: class 'c07' has 1 examples", "add examples, drop the class, or lower"
    )


def test_fewer_classes_than_ways(config, tmp_path):
    path = write_classes(tmp_path / "data.csv", {f"c{i}": 9 for i in range(10)})
    words = ["test split: 2 classes, but episodes have 3 ways", "evaluation.ways"]
    assert_mistake(train_on_file(config, path), *words)


def test_a_run_directory_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    assert_mistake(["train", config, "--run-dir", tmp_path / "file" / "run"], "file/run", "cannot write", "--run-dir")


def test_a_run_directory_of_another_config(config, trained):
    arguments = ["train", config, "--run-dir", trained[0], "--outer.steps", "9"]
    assert_mistake(arguments, trained[0], "outer.steps: 2 -> 9")


@pytest.mark.parametrize("flags", [["--episodes", "1"], ["--shots", "0"]])
def test_evaluate_with_numbers_out_of_range(trained, flags):
    assert_mistake(["evaluate", trained[0], *flags], flags[0], "expected")


def test_evaluate_with_more_shots_than_there_are_texts(trained):
    words = ["test split: class", "has 8 examples", "evaluation.shots"]
    assert_mistake(["evaluate", trained[0], "--shots", "7", "--quiet"], *words)


def test_evaluate_and_adapt_of_what_is_no_run(tmp_path):
    assert_mistake(["evaluate", tmp_path], tmp_path, "is not a run directory")
    assert_mistake(["evaluate", tmp_path / "absent"], "absent", "does not exist")
    (tmp_path / "examples.csv").write_text(EXAMPLES)
    flags = ["--data", tmp_path / "examples.csv", "--output", tmp_path / "model"]
    assert_mistake(["adapt", tmp_path / "absent", *flags], "absent", "no such directory", "'default'")


def test_adapt_warns_of_unknown_words_and_of_an_unfinished_run(trained, tmp_path):
    (tmp_path / "strange.csv").write_text("text,label\nqux zork,a\nflimp grault,b\n")
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    arguments = ["--data", tmp_path / "strange.csv", "--output", tmp_path / "model"]
    code, out, err = call(["adapt", tmp_path / "run", *arguments])
    assert code == 0
    assert re.search(r"2 examples of 2 classes, and labels [012] of them right", out)
    assert "is unfinished" in err
    assert "knows 0% of the words" in err


def test_adapt_to_one_label_or_over_a_model(trained, model, tmp_path):
    (tmp_path / "one.csv").write_text("text,label\na,b\nc,b\n")
    arguments = ["adapt", trained[0], "--data", tmp_path / "one.csv", "--output"]
    assert_mistake([*arguments, tmp_path / "model"], "one label only ('b')")
    assert_mistake([*arguments, model], model, "not an empty directory", "--output")
    assert_mistake([*arguments, tmp_path / "one.csv" / "model"], "one.csv is not a writable directory", "--output")


def test_predict_with_wrong_paths(trained, model, tmp_path):
    (tmp_path / "new.csv").write_text("text\nbook tickets\n")
    given = ["--input", tmp_path / "new.csv"]
    assert_mistake(["predict", model, *given, "--output", tmp_path / "out.xlsx"], "'.xlsx'", ".csv, .tsv or .jsonl")
    assert_mistake(["predict", model, *given, "--output", tmp_path / "new.csv"], "is the input as well")
    assert_mistake(["predict", tmp_path, *given, "--output", tmp_path / "o.csv"], tmp_path, "no adapted model")
    assert_mistake(["predict", trained[0], *given, "--output", tmp_path / "o.csv"], "is a run of 'fewshot-jax train'")
    output = ["--output", tmp_path / "absent" / "out.csv"]
    assert_mistake(["predict", model, *given, *output], "absent/out.csv", "there is no directory")
    given[1] = tmp_path / "sub" / ".." / "new.csv"
    (tmp_path / "sub").mkdir()
    assert_mistake(["predict", model, *given, "--output", tmp_path / "new.csv"], "is the input as well")
    (tmp_path / "o.csv").write_text("mine")
    assert_mistake(["predict", model, *given, "--output", tmp_path / "o.csv"], "already exists", "--force")
    assert (tmp_path / "o.csv").read_text() == "mine"
    assert call(["predict", model, *given, "--output", tmp_path / "o.csv", "--force"])[0] == 0
    assert "predicted_label" in (tmp_path / "o.csv").read_text()
    wrong = ["--input", tmp_path / "absent.csv", "--output", tmp_path / "p.csv"]
    assert_mistake(["predict", model, *wrong], "absent.csv", "no such file")
    assert (tmp_path / "new.csv").read_text() == "text\nbook tickets\n"


def test_a_programming_error_is_not_dressed_as_a_users_mistake(monkeypatch):
    from fewshot_jax.cli import env

    def broken(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(env, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["env"])


def test_an_interruption_is_130(monkeypatch, capsys):
    from fewshot_jax.cli import env

    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "run", interrupted)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_python_dash_m_is_the_same_command():
    import subprocess
    import sys

    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "fewshot_jax", "trian"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown command 'trian'; did you mean 'train'?\n"


def test_an_interruption_inside_the_callback_of_the_garbage_collector_comes_again(default_interrupt):
    """Where Python would print it and go on."""

    def _xla_gc_callback():
        signal.raise_signal(signal.SIGINT)
        return "went on"

    with interruptible():
        assert signal.getsignal(signal.SIGINT) is interrupt
        assert _xla_gc_callback() == "went on"
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
