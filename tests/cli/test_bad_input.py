"""Malformed files, configs, runs and models: each works, or ends with code 2 and a message with place and remedy."""

import codecs
import contextlib
import csv
import io
import json
import re
import shutil

import pytest
import yaml

from fewshot_jax.adaptation.classifier import load
from fewshot_jax.cli.main import main
from tests.small_run import RUN, merged, saved_run

LONG = "x" * 100_000
FOUR = "book tickets,booking\nbook maps,booking\ncancel lunch,cancelling\ncancel keys,cancelling\n"
GOOD = f"text,label\n{FOUR}"
LINES = [{"text": text, "label": label} for text, label in (line.split(",") for line in FOUR.splitlines())]


def jsonl(*rows):
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


# What cannot be used: name of the case: (file's name, content, words of the message).
REFUSED = {
    "torn UTF-16": ("a.csv", codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le")[:-1], ["UTF-16", "CSV UTF-8"]),
    "UTF-16 without a mark": ("a.csv", GOOD.encode("utf-16-le"), ["line 1", "NUL byte", "re-encode"]),
    "latin-1": ("a.tsv", GOOD.replace(",", "\t").replace("maps", "caf\xe9").encode("latin-1"), ["line 3", "not UTF-8"]),
    "latin-1 JSONL": ("a.jsonl", b'{"text": "caf\xe9", "label": "a"}\n', ["line 1", "not UTF-8"]),
    "an open quote": ("a.csv", GOOD + '"cancel rooms,cancelling\nbook rooms,booking\n', ["line 6", "double quote"]),
    "a quote in a value": ("a.csv", GOOD + '"say "hi" now",booking\n', ["line 6", "double the quotes"]),
    "a repeated column": ("a.csv", "text,label,text\na,b,c\n", ["line 1", "repeats 'text'", "own name"]),
    "a missing cell": ("a.csv", GOOD + "cancel rooms\n", ["line 6", "1 columns where the header has 2", "fill in"]),
    "a cell too many": ("a.csv", GOOD + "please, cancel,cancelling\n", ["line 6", "3 columns", "double quotes around"]),
    "a misspelt column": ("a.csv", GOOD.replace("label", "lable"), ["'lable'", "'label'", "--label-field"]),
    "no header": ("a.csv", FOUR, ["'book tickets', 'booking'", "text", "label"]),
    "bars in a CSV": ("a.csv", GOOD.replace(",", "|"), ["line 1", "one column", "'|'"]),
    "commas in a TSV": ("a.tsv", GOOD, ["line 1", "one column", "name the file .csv"]),
    "another delimiter than its first line says": ("a.csv", "sep=;\n" + GOOD, ["line 2", "','", "'sep=;'"]),
    "one class": ("a.csv", "text,label\na,b\nc,b\nd,b\n", ["one label only ('b')", "two"]),
    "one example": ("a.csv", "text,label\na,b\n", ["one label only ('b')", "two"]),
    "an empty file": ("a.csv", "", ["file is empty", "at least one row"]),
    "an empty JSONL": ("a.jsonl", " \n\n", ["file is empty", "at least one row"]),
    "a header alone": ("a.tsv", "text\tlabel\n", ["only a header", "Add at least one row"]),
    "a NUL byte": ("a.csv", GOOD.replace("maps", "ma\0ps"), ["line 3", "NUL byte", "Remove"]),
    "a NUL byte in JSONL": ("a.jsonl", jsonl(*LINES) + "\0", ["line 5", "NUL byte", "Remove"]),
    "a broken line": (
        "a.jsonl",
        jsonl(*LINES, '{"text": "a", "label"'),
        ["line 5", "broken JSON", "one object per line"],
    ),
    "an array": ("a.jsonl", jsonl(*LINES, ["a", "b"]), ["line 5", "a list where an object", "one object per line"]),
    "an array of all": ("a.jsonl", json.dumps(LINES), ["line 1", "a list where an object", "one object per line"]),
    "a JSON array": ("a.json", json.dumps(LINES), ["a list where SQuAD's object", ".jsonl"]),
    "a nested text": ("a.jsonl", jsonl(*LINES, {"text": {"en": "a"}, "label": "b"}), ["line 5", "'text' is an object"]),
    "a nested label": ("a.jsonl", jsonl(*LINES, {"text": "a", "label": ["b"]}), ["line 5", "'label' is a list"]),
    "a null label": ("a.jsonl", jsonl(*LINES, {"text": "a", "label": None}), ["line 5", "'label' is null"]),
    "a deep nest": ("a.jsonl", jsonl(*LINES, '{"text": ' + "[" * 100_000), ["line 5", "broken JSON"]),
    "a huge number": (
        "a.jsonl",
        jsonl(*LINES, '{"text": "a", "label": ' + "9" * 5000 + "}"),
        ["line 5", "broken JSON"],
    ),
    "an empty text": ("a.csv", GOOD + '"  ",booking\n', ["line 6", "'text' is empty", "remove the line"]),
    "an empty label": ("a.csv", GOOD + "book it,\n", ["line 6", "'label' is empty", "remove the line"]),
    "a value beyond csv's limit": ("a.csv", GOOD + "y" * 200_000 + ",booking\n", ["line 6", "131,072", ".jsonl"]),
    "a torn gzip": ("a.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0", ["gzip", "Compress it again"]),
    "another type": ("a.xlsx", b"PK\x03\x04", ["cannot read files of type '.xlsx'", "'CSV UTF-8'"]),
    "no type": ("examples", GOOD, ["cannot read files of type ''", ".csv"]),
    "the columns of a translation": ("a.csv", "source,target\na,b\n", ["translation", "MODEL"]),
}
# What is unusual and right: name of the case: (file's name, content, texts, labels).
TEXTS, LABELS = [row["text"] for row in LINES], [row["label"] for row in LINES]
TAKEN = {
    "a byte order mark": ("a.csv", codecs.BOM_UTF8 + GOOD.encode(), TEXTS, LABELS),
    "newlines in a quoted cell": (
        "a.csv",
        GOOD.replace("book maps", '"book\r\nmaps, ""two"""'),
        [TEXTS[0], 'book\r\nmaps, "two"', *TEXTS[2:]],
        LABELS,
    ),
    "another column": ("a.csv", GOOD.replace("\n", ",more\n"), TEXTS, LABELS),
    "labels 0 and '0'": (
        "a.jsonl",
        jsonl(*({"text": text, "label": label} for text, label in zip(TEXTS, [0, "0", "1", 1], strict=True))),
        TEXTS,
        ["0", "0", "1", "1"],
    ),
    "a long text": ("a.csv", GOOD.replace("book maps", LONG), [TEXTS[0], LONG, *TEXTS[2:]], LABELS),
    "formulas": (
        "a.csv",
        GOOD.replace("book maps", "=cmd|' /C calc'!A0").replace(",cancelling", ",@SUM(A1)"),
        [TEXTS[0], "=cmd|' /C calc'!A0", *TEXTS[2:]],
        ["booking", "booking", "@SUM(A1)", "@SUM(A1)"],
    ),
    "semicolons": ("a.csv", GOOD.replace(",", ";"), TEXTS, LABELS),
    "semicolons and commas": (
        "a.csv",
        GOOD.replace(",", ";").replace("book maps", "maps, please"),
        [TEXTS[0], "maps, please", *TEXTS[2:]],
        LABELS,
    ),
    "quotes and semicolons": ("a.csv", '\n"text";"label"\n' + GOOD.replace(",", ";").partition("\n")[2], TEXTS, LABELS),
    "old Mac newlines": ("a.csv", GOOD.replace("\n", "\r"), TEXTS, LABELS),
    "upper case": ("A.CSV", GOOD, TEXTS, LABELS),
    "UTF-16 little endian": ("a.csv", codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le"), TEXTS, LABELS),
    "UTF-16 big endian": ("a.csv", codecs.BOM_UTF16_BE + GOOD.encode("utf-16-be"), TEXTS, LABELS),
    "Excel's Unicode text": ("a.csv", GOOD.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"), TEXTS, LABELS),
    "JSONL in UTF-16": ("a.jsonl", jsonl(*LINES).encode("utf-16"), TEXTS, LABELS),
    "tabs in a CSV": ("a.csv", GOOD.replace(",", "\t"), TEXTS, LABELS),
    "a first line with the delimiter": ("a.csv", "sep=;\r\n" + GOOD.replace(",", ";"), TEXTS, LABELS),
    "a first line with a tab": ("a.csv", "sep=\t\n" + GOOD.replace(",", "\t"), TEXTS, LABELS),
    "a first line with a bar": ("a.csv", '"SEP=|"\n' + GOOD.replace(",", "|"), TEXTS, LABELS),
    "empty columns at the end": ("a.csv", GOOD.replace("\n", ",,\n"), TEXTS, LABELS),
    "empty rows at the end": ("a.csv", GOOD + ",\n  ,\n\n", TEXTS, LABELS),
    "an empty row before the header and one inside": ("a.csv", ";\n" + GOOD.replace(",", ";") + ";\n", TEXTS, LABELS),
    "a sheet of all of it": (
        "a.csv",
        codecs.BOM_UTF8 + ("sep=;\n" + GOOD.replace(",", ";").replace("\n", ";;\n") + ";;;\n").encode(),
        TEXTS,
        LABELS,
    ),
    "commas in the empty row before the header": ("a.csv", ",,\n" + GOOD.replace("\n", ",\n"), TEXTS, LABELS),
    "empty columns inside": (
        "a.csv",
        "".join(f",{line}\n" for line in GOOD.replace(",", ",,").splitlines()),
        TEXTS,
        LABELS,
    ),
    "empty columns in the header alone": ("a.csv", GOOD.replace("label\n", "label,,\n", 1), TEXTS, LABELS),
}


def call(*arguments):
    """(exit code, stdout, stderr) of a command; any other exception than SystemExit gets through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


def assert_refused(arguments, *words):
    """Code 2 and one message that has the words; nothing was written to stdout but a report."""
    code, out, err = call(*arguments)
    assert code == 2, (out, err)
    message = err[err.index("error: ") :]
    assert err.count("error: ") == 1
    assert "Traceback" not in err + out
    assert len(message) < 2000
    for word in words:
        assert str(word) in message
    return err


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("bad"), RUN)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    path = written(folder, "a.csv", GOOD)
    code, _, err = call("adapt", run, "--data", path, "--output", folder / "model", "--folds", 0)
    assert code == 0, err
    return folder / "model"


NO_TEXT = ["no column 'text'", "Rename"]


@pytest.mark.parametrize("case", REFUSED)
def test_validate_refuses_a_malformed_file_with_place_and_remedy(case, tmp_path):
    name, content, words = REFUSED[case]
    path = written(tmp_path, name, content)
    pairs = case == "the columns of a translation"  # which are right, unless it is to be a file of labels
    application = ["--application", "text_classification"] if pairs else []
    assert_refused(["data", "validate", path, *application], path, *(NO_TEXT if pairs else words))


@pytest.mark.parametrize("case", REFUSED)
def test_adapt_refuses_a_malformed_file_with_place_and_remedy(case, run, tmp_path):
    name, content, words = REFUSED[case]
    path = written(tmp_path, name, content)
    assert_refused(["adapt", run, "--data", path, "--output", tmp_path / "model"], *words)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("case", REFUSED)
def test_train_refuses_a_malformed_file_with_place_and_remedy(case, tmp_path):
    name, content, words = REFUSED[case]
    path, config = written(tmp_path, name, content), tmp_path / "config.yaml"
    values = merged(RUN, data={"source": "files", "path": str(path), "split_by": "label"})
    config.write_text(yaml.safe_dump({**values, "episodes": {"ways": 2, "shots": 1, "queries": 1}}))
    words = {
        "one class": ["train split", "1 label to", "data.fractions"],  # too few for the splits
        "one example": ["train split", "1 label to", "data.fractions"],
        "a JSON array": ["'.json'", ".jsonl"],
        "the columns of a translation": NO_TEXT,
        "no header": [f"{path}, line 1", "no column", "Rename"],
        "a misspelt column": [f"{path}, line 1", "no column", "Rename"],
    }.get(case, words)
    assert_refused(["train", config, "--run-dir", tmp_path / "run"], *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", TAKEN)
def test_an_unusual_file_is_read_as_it_is_meant(case, tmp_path):
    name, content, texts, labels = TAKEN[case]
    path = written(tmp_path, name, content)
    code, out, err = call("data", "preview", path, "--rows", 9, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    code, out, err = call("data", "validate", path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["usable"]


@pytest.mark.parametrize("case", ["labels 0 and '0'", "a long text", "formulas"])
def test_an_unusual_file_makes_a_model(case, run, tmp_path):
    name, content, _, labels = TAKEN[case]
    path = written(tmp_path, name, content)
    code, _, err = call("adapt", run, "--data", path, "--output", tmp_path / "model", "--folds", 0)
    assert code == 0, err
    assert sorted(load(tmp_path / "model").labels) == sorted(set(labels))


@pytest.mark.parametrize("case", TAKEN)
def test_an_unusual_file_gets_a_label_for_each_text(case, model, tmp_path):
    name, content, texts, _ = TAKEN[case]
    path, output = written(tmp_path, name, content), tmp_path / "out.jsonl"
    code, _, err = call("predict", model, "--input", path, "--output", output)
    assert code == 0, err
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["predicted_label"] is not None]  # others are of blank rows inside
    assert [row["text"].strip() for row in rows] == texts


NO_LABELS = ("label", "one class", "one example", "translation", "JSON array")
ENOUGH_TO_PREDICT = ("a misspelt column", "an empty text")  # the text is there, or need not be
TO_PREDICT = [case for case in REFUSED if case not in ENOUGH_TO_PREDICT and not any(word in case for word in NO_LABELS)]


@pytest.mark.parametrize("case", TO_PREDICT)
def test_a_malformed_file_to_predict_is_refused(case, model, tmp_path):
    name, content, words = REFUSED[case]
    path, output = written(tmp_path, name, content), tmp_path / "out.csv"
    words = {"no type": ["''"], "a huge number": ["line 5", "broken JSON"], "no header": NO_TEXT}.get(case, words)
    assert_refused(["predict", model, "--input", path, "--output", output], *words)
    assert not output.exists()


@pytest.mark.parametrize("case", ENOUGH_TO_PREDICT)
def test_what_cannot_be_trained_on_may_be_enough_to_predict(case, model, tmp_path):
    name, content, _ = REFUSED[case]
    path, output = written(tmp_path, name, content), tmp_path / "out.jsonl"
    code, _, err = call("predict", model, "--input", path, "--output", output)
    assert code == 0, err
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["predicted_label"] in ("booking", "cancelling") for row in rows] == [
        bool(row["text"].strip()) for row in rows
    ]
    assert sum(bool(row["text"].strip()) for row in rows) >= 4


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_row_without_a_text_gets_no_label(suffix, model, tmp_path):
    path, output = written(tmp_path, "a.csv", "id;text\n1;book it\n2; \n3;cancel it\n4;\n"), tmp_path / f"out.{suffix}"
    code, _, err = call("predict", model, "--input", path, "--output", output)
    assert code == 0
    assert err == "note: 2 texts empty, the first in row 2: without a label\n"
    if suffix == "csv":
        rows = list(csv.DictReader(output.open(encoding="utf-8")))
    else:
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["predicted_label"] in ("booking", "cancelling") for row in rows] == [True, False, True, False]
    empty = "" if suffix == "csv" else None
    assert {(row["predicted_label"], row["probability"]) for row in rows[1::2]} == {(empty, empty)}
    output.unlink()
    written(tmp_path, "a.csv", "id,text\n1, \n2,\n")
    assert_refused(["predict", model, "--input", path, "--output", output], path, "empty in every row", "--text-field")
    assert not output.exists()


def test_predictions_for_formulas_and_long_texts_are_one_row_each(model, tmp_path):
    import csv

    name, content, texts, _ = TAKEN["formulas"]
    path, output = written(tmp_path, name, content.replace("book tickets", LONG)), tmp_path / "out.csv"
    code, _, err = call("predict", model, "--input", path, "--output", output)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(output.read_text(encoding="utf-8"), newline="")))
    assert len(rows) == len(texts)
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values()), "no cell is run"
    assert rows[1]["text"].lstrip("'") == texts[1]
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)


def test_a_directory_in_the_place_of_a_file(run, model, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    folder = tmp_path / "folder.csv"
    assert_refused(["data", "validate", folder], folder, "directory", "Name a file in it")
    assert_refused(["adapt", run, "--data", folder, "--output", tmp_path / "m"], folder, "directory", "Name a file")
    output = ["--output", tmp_path / "out.csv"]
    assert_refused(["predict", model, "--input", folder, *output], folder, "directory", "Name a file")
    (tmp_path / "c.yaml").mkdir()
    assert_refused(["train", tmp_path / "c.yaml", "--run-dir", tmp_path / "run"], "c.yaml", "give a YAML file")


# The text of a config and words of the message.
BAD_CONFIGS = {
    "a word for a number": ("outer: {steps: many}", ["outer.steps", "expected int", "'many'"]),
    "a fraction for a whole number": ("episodes: {ways: 2.5}", ["episodes.ways", "expected int", "2.5"]),
    "a truth value for a number": ("outer: {rate: true}", ["outer.rate", "expected float", "True"]),
    "a word for a truth value": ("episodes: {within_group: 'yes'}", ["episodes.within_group", "expected bool"]),
    "a number for a list": ("evaluation: {shots: 5}", ["evaluation.shots", "expected a list", "5"]),
    "a list in a list": ("evaluation: {shots: [[1]]}", ["evaluation.shots[0]", "expected int"]),
    "a list for a section": ("inner: [1, 2]", ["inner", "should be a mapping"]),
    "a word for a section": ("data: files", ["data", "should be a mapping"]),
    "nothing in a section": ("model:", ["model is empty", "leave it out"]),
    "a list": ("- 1\n- 2\n", ["the file should be a mapping"]),
    "a word": ("quickstart", ["the file should be a mapping"]),
    "nothing": ("# empty\n", ["the file is empty", "give it a field"]),
    "a misspelt section": ("episode: {ways: 3}", ["unknown field 'episode'", "did you mean 'episodes'?"]),
    "a misspelt field": ("episodes: {way: 3}", ["unknown field 'episodes.way'", "did you mean 'ways'?"]),
    "a number for a name": ("3: {ways: 3}", ["unknown field '3'"]),
    "a name twice": ("seed: 1\nseed: 2\n", ["line 2", "'seed' stands twice"]),
    "an unknown learner": ("learner: {name: mmal}", ["learner.name", "'mmal'", "'maml'"]),
    "an unknown application": ("application: classify", ["application", "'classify'", "'text_classification'"]),
    "a model that is not there": ("model: {pretrained: no-such-model}", ["no-such-model", "model.pretrained"]),
    "tabs": ("outer:\n\tsteps: 3\n", ["line 2", "not valid YAML"]),
    "not finite": ("outer: {rate: .nan}", ["outer.rate", "nan"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_wrong_config_names_file_and_field(case, tmp_path):
    text, words = BAD_CONFIGS[case]
    path = written(tmp_path, "config.yaml", text)
    place = [] if "model" in case else [path]
    assert_refused(["train", path, "--run-dir", tmp_path / "run"], *place, *words)
    assert_refused(["data", "preview", path], *place, *words)
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_no_text(tmp_path):
    path = written(tmp_path, "config.yaml", b"seed: \xff\xfe")
    assert_refused(["train", path, "--run-dir", tmp_path / "run"], path, "not UTF-8")
    path = written(tmp_path, "nul.yaml", b"seed: 1\0")
    assert_refused(["train", path, "--run-dir", tmp_path / "run"], path, "not valid YAML")


def test_a_model_that_is_not_there(tmp_path):
    data = written(tmp_path, "a.csv", GOOD)
    for name in (tmp_path / "none", data):
        assert_refused(["adapt", name, "--data", data, "--output", tmp_path / "m"], name)
        assert_refused(["predict", name, "--input", data, "--output", tmp_path / "out.csv"], name)
        assert_refused(["evaluate", name], name)
        assert_refused(["export", name, "--output", tmp_path / "m"], name)


FILES_OF_A_RUN = ("config.yaml", "tokenizer/tokenizer.json", "labels.json", "data.json", "result.json")
FILES_OF_A_MODEL = ("model.json", "model.safetensors", "tokenizer.json")
FAULTS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "of other content": lambda path: path.write_bytes(b'["not", "this"]'),
}


def assert_refused_or_done(arguments, place):
    """Done, or refused with the place; nothing else gets through."""
    code, out, err = call(*arguments)
    assert code in (0, 2), err
    assert "Traceback" not in out + err
    if code == 2:
        assert err.count("error: ") == 1
        assert str(place) in err
    return code


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES_OF_A_RUN)
def test_a_half_written_run_is_told_by_its_file(name, fault, run, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    assert (broken / name).exists()
    FAULTS[fault](broken / name)
    data = written(tmp_path, "a.csv", GOOD)
    codes = [
        assert_refused_or_done(arguments, broken)
        for arguments in (
            ["adapt", broken, "--data", data, "--output", tmp_path / "m", "--folds", 0],
            ["export", broken, "--output", tmp_path / "out"],
            ["evaluate", broken, "--episodes", 2, "--quiet"],
        )
    ]
    if name in ("config.yaml", "tokenizer/tokenizer.json"):
        assert codes == [2, 2, 2]
    if name in ("data.json", "labels.json", "result.json") and fault == "truncated":
        assert 2 in codes


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "of other content"])
def test_a_half_written_checkpoint_is_named(fault, run, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    files = [path for path in (broken / "checkpoints").rglob("*") if path.is_file()]
    assert files
    data = written(tmp_path, "a.csv", GOOD)
    for path in sorted(files)[:6]:
        kept = path.read_bytes()
        FAULTS[fault](path)
        arguments = ["adapt", broken, "--data", data, "--output", tmp_path / "m", "--folds", 0]
        code = assert_refused_or_done(arguments, broken)
        assert code == 2 or path.read_bytes() == kept, f"{path.name} is not what was written, and was read"
        path.write_bytes(kept)
    shutil.rmtree(broken / "checkpoints")
    assert_refused(arguments, broken, "no checkpoint")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES_OF_A_MODEL)
def test_a_half_written_model_is_told(name, fault, model, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    FAULTS[fault](broken / name)
    data = written(tmp_path, "a.csv", GOOD)
    assert_refused(["predict", broken, "--input", data, "--output", tmp_path / "out.csv"], broken)
    assert not (tmp_path / "out.csv").exists()


def test_messages_are_sentences_without_the_names_of_exceptions(tmp_path):
    for name, content, _ in REFUSED.values():
        err = call("data", "validate", written(tmp_path, name, content))[2]
        assert not re.search(r"\b[A-Z]\w+(Error|Exception)\b", err)
