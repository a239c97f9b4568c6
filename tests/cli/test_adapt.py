"""From a file of examples to labels, by the encoder that ships with the package."""

import csv
import importlib
import io
import json
import os
import shutil
import sys
import warnings

import pytest

import fewshot_jax as fsj
from fewshot_jax.adaptation.scaling import NONE
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict, to_dict
from fewshot_jax.notes import Note

EXAMPLES = """text,label
i want my money back,refund
please refund the order,refund
give me a refund,refund
where is my parcel,delivery
the parcel is late,delivery
track my delivery,delivery
"""


def call(arguments, capsys):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default")
    (folder / "examples.csv").write_text(EXAMPLES)
    arguments = ["adapt", "default", "--data", folder / "examples.csv", "--output", folder / "model", "--quiet"]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_the_model_is_one_directory_with_a_card(folder):
    names = {path.name for path in (folder / "model").iterdir()}
    assert {"model.safetensors", "model.json", "README.md", "examples.jsonl"} <= names
    card = (folder / "model/README.md").read_text()
    assert "most frequent label" in card and "`refund` (3)" in card
    said = json.loads((folder / "model/model.json").read_text())["cross_validation"]
    assert said["folds"] == 3 and set(said["per class"]) == {"refund", "delivery"}


def test_json_is_what_the_model_file_says(folder, tmp_path, capsys):
    arguments = ["adapt", "default", "--data", folder / "examples.csv", "--output", tmp_path / "m", "--json"]
    code, out, err = call(arguments, capsys)
    assert code == 0 and "fold 1 of 3" in err
    assert json.loads(out) == json.loads((tmp_path / "m/model.json").read_text())["cross_validation"]


@pytest.mark.parametrize("save", ["adapted", "simple"])
def test_a_class_added_later_needs_its_examples_alone(save, folder, tmp_path, capsys):
    first = tmp_path / "first"
    given = ["--data", folder / "examples.csv", "--output", first, "--save", save, "--folds", "0"]
    assert call(["adapt", "default", *given], capsys)[0] == 0
    more = "".join(f'{{"text": "{text}", "label": "praise"}}\n' for text in ("lovely shop", "best service"))
    (tmp_path / "more.jsonl").write_text(more)
    given = ["--data", tmp_path / "more.jsonl", "--output", tmp_path / "second", "--save", save, "--folds", "0"]
    code, out, err = call(["adapt", first, *given], capsys)
    assert code == 0, err
    assert "8 examples of 3 classes" in out
    model = fsj.load(tmp_path / "second")
    assert model.labels == ["delivery", "praise", "refund"]
    assert [one.label for one in model.predict(["best lovely service", "refund the money"])] == ["praise", "refund"]


def test_stdin_to_stdout_and_none_of_these(folder, capsys, monkeypatch):
    for given in ("where is my parcel\nmoney back\n", '{"text": "money back", "id": 7}\n'):
        stream = io.TextIOWrapper(io.BytesIO(given.encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        code, out, _ = call(["predict", folder / "model", "--threshold", "1.0"], capsys)
        rows = [json.loads(line) for line in out.splitlines()]
        assert code == 0 and len(rows) == given.count("\n")
        assert all(row["predicted_label"] == NONE and 0.5 <= row["probability"] <= 1 for row in rows)
    assert rows[0]["id"] == 7


def test_what_a_spreadsheet_would_run_is_written_as_text(folder, tmp_path, capsys):
    (tmp_path / "new.csv").write_text('text,amount\n"=1+1",-3\n')
    given = ["--input", tmp_path / "new.csv", "--output", tmp_path / "out.csv"]
    assert call(["predict", folder / "model", *given], capsys)[0] == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["text"] == "'=1+1" and row["amount"] == "-3"


def test_one_example_of_a_class_is_adapted_to_and_nothing_is_claimed(tmp_path, capsys):
    (tmp_path / "few.csv").write_text("text,label\nmy parcel,delivery\na refund,refund\nmoney back,refund\n")
    code, out, err = call(["adapt", "default", "--data", tmp_path / "few.csv", "--output", tmp_path / "m"], capsys)
    assert code == 0 and "nothing is cross-validated" in err and "cross-validated, " not in out
    assert not (tmp_path / "m/README.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds 1"),
        (["--folds", "-2"], "expected at least 2 folds"),
        (["--repeats", "0"], "--repeats 0"),
        (["--text-field", "body"], "body"),
    ],
)
def test_wrong_flags_are_named(arguments, message, folder, tmp_path, capsys):
    given = ["--data", folder / "examples.csv", "--output", tmp_path / "m"]
    code, _, err = call(["adapt", "default", *given, *arguments], capsys)
    assert code == 2 and message in err and "Traceback" not in err


def test_texts_with_line_separators_and_repeated_ones_are_added_to(folder, tmp_path, capsys):
    rows = [{"text": "pay\u2028now please", "label": "payment"}, {"text": "a bill to pay", "label": "payment"}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    for output, data in (("one", tmp_path / "more.jsonl"), ("two", folder / "examples.csv")):
        before = folder / "model" if output == "one" else tmp_path / "one"
        given = ["--data", data, "--output", tmp_path / output, "--folds", "0", "--save", "simple"]
        code, out, err = call(["adapt", before, *given], capsys)
        assert code == 0 and "8 examples of 3 classes" in out, err
    assert "skipped 6 duplicate examples" in err


def test_a_text_that_is_cut_and_a_label_that_means_something_else_are_told(folder, tmp_path, capsys):
    (tmp_path / "long.csv").write_text(EXAMPLES + f"{'word ' * 60},refund\n")
    given = ["--data", tmp_path / "long.csv", "--output", tmp_path / "m", "--folds", "0"]
    code, _, err = call(["adapt", "default", *given], capsys)
    assert code == 0 and "1 text longer than 24 tokens" in err
    (tmp_path / "none.csv").write_text(EXAMPLES + "a text,none of these\n")
    code, _, err = call(["adapt", "default", "--data", tmp_path / "none.csv", "--output", tmp_path / "n"], capsys)
    assert code == 2 and "give the class another name" in err


def test_fields_that_the_output_adds_are_looked_for_in_every_row(folder, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text('{"text": "a"}\n{"text": "b", "predicted_label": "mine"}\n')
    given = ["--input", tmp_path / "new.jsonl", "--output", tmp_path / "out.jsonl"]
    code, _, err = call(["predict", folder / "model", *given], capsys)
    assert code == 2 and "predicted_label" in err


def test_csv_on_stdin_is_read_as_such_and_mistakes_name_stdin(folder, capsys, monkeypatch):
    for given, wanted in (("id,text\n7,money back\n", 0), ('{"txt": "money back"}\n', 2)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        code, _, err = call(["predict", folder / "model"], capsys)
        assert code == wanted
    assert err.startswith("error: stdin, line 1")
    rows = (
        b"id,text\n7,money back\n",
        b"\n id , text \n7,money back\n",
        b'"id";"text";"amount, EUR"\n7;money back;3\n',
        b'\xef\xbb\xbf{"id": "7", "text": "money back"}\n',
    )
    for row in rows:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(row)))
        assert json.loads(call(["predict", folder / "model"], capsys)[1])["id"] == "7"


def test_a_language_that_is_read_letter_by_letter_is_told(tmp_path, capsys):
    (tmp_path / "de.csv").write_text(
        "text,label\nbitte überweisen Sie fünfzig,geld\nKontostand überprüfen,konto\nÜberweisung,geld\nGuthaben,konto\n"
    )
    given = ["--data", tmp_path / "de.csv", "--output", tmp_path / "m", "--folds", "0"]
    code, _, err = call(["adapt", "default", *given], capsys)
    assert code == 0 and "of the words of these texts" in err and "not calibrated" in err


@pytest.mark.parametrize(("mask", "of_files", "of_folders"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_the_model_has_the_rights_that_the_user_gives_files(mask, of_files, of_folders, folder, tmp_path):
    before = os.umask(mask)
    try:
        fsj.load(folder / "model").save(tmp_path / "model")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == of_folders
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {of_files}


def test_without_folds_there_is_json_too(folder, tmp_path, capsys):
    given = ["--data", folder / "examples.csv", "--output", tmp_path / "m", "--folds", "0", "--json"]
    code, out, err = call(["adapt", "default", *given], capsys)
    assert code == 0, err
    said = json.loads(out)
    assert said["cross_validation"] is None and said["classes"] == ["delivery", "refund"]
    assert said["examples"] >= said["right"] > 0


def test_a_damaged_model_is_not_added_to(folder, tmp_path, capsys):
    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "model" / "model.json").write_text('{"start": "def')
    given = ["--data", folder / "examples.csv", "--output", tmp_path / "m"]
    code, _, err = call(["adapt", tmp_path / "model", *given], capsys)
    assert code == 2 and f"{tmp_path / 'model'}: the saved model is damaged" in err


def test_half_a_surrogate_pair_anywhere_in_a_row_is_refused_before_the_work(folder, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text('{"text": "a \\ud83d\\ude00", "n": 1}\n{"text": "b", "note": ["\\ud83d"]}\n')
    given = ["--input", tmp_path / "new.jsonl", "--output", tmp_path / "out.csv"]
    code, _, err = call(["predict", folder / "model", *given], capsys)
    assert code == 2 and "new.jsonl, line 2: 'note' holds half of a surrogate pair" in err
    assert {path.name for path in tmp_path.iterdir()} == {"new.jsonl"}


def test_wrong_models_and_files_are_named(folder, tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("source,target\na,b\n")
    for model, data, message in (
        ("defualt", folder / "examples.csv", "did you mean 'default'?"),
        ("default", tmp_path / "pairs.csv", "has the columns of translation"),
        (tmp_path, folder / "examples.csv", str(tmp_path)),
    ):
        code, _, err = call(["adapt", model, "--data", data, "--output", tmp_path / "m"], capsys)
        assert code == 2 and message in err
    code, _, err = call(["predict", folder / "model", "--threshold", "2"], capsys)
    assert code == 2 and "--threshold 2.0: expected a probability" in err


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            {"application": "translation", "tokenizer": {"kind": "bpe"}},
            "holds a model for translation, to which no examples can be added",
        ),
        ({"model": {"classifier": "label_names"}}, "holds a classifier that scores the names of its classes, to which"),
    ],
)
def test_a_saved_model_that_keeps_no_examples_is_not_called_damaged(folder, tmp_path, capsys, config, what):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(
        json.dumps({"labels": ["a", "b"], "config": to_dict(from_dict(config))})
    )
    given = ["--data", folder / "examples.csv", "--output", tmp_path / "m"]
    code, _, err = call(["adapt", tmp_path / "model", *given], capsys)
    assert code == 2 and what in err and "Adapt the run that it came from to all examples" in err
    assert "damaged" not in err


def test_what_a_directory_holds_is_said_where_another_thing_is_expected(folder, tmp_path, capsys):
    run, study, model = tmp_path / "run", tmp_path / "study", tmp_path / "hugging"
    for directory, names in ((run, ("config.yaml", "labels.json")), (study, ("config.yaml", "space.yaml"))):
        directory.mkdir()
        for name in names:
            (directory / name).write_text("{}")
    model.mkdir()
    (model / "config.json").write_text("{}")
    evaluate = "expected a run; 'fewshot-jax train CONFIG --run-dir RUN' makes one"
    predict = "expected a model that adapt saved: 'fewshot-jax adapt MODEL --data FILE --output DIR' makes one"
    for command, directory, said in (
        (
            "evaluate",
            folder / "model",
            f"is a model that 'fewshot-jax adapt' saved, for 'fewshot-jax predict'; {evaluate}",
        ),
        ("evaluate", model, f"is a model in Hugging Face's format; {evaluate}"),
        ("evaluate", tmp_path, f"is no run itself but has runs in it (run, study); {evaluate}"),
        ("evaluate", folder / "examples.csv", f"is a file, not a directory; {evaluate}"),
        ("predict", run, f"is a run of 'fewshot-jax train'; {predict}"),
        ("predict", model, f"is a model in Hugging Face's format; {predict}"),
        ("predict", study, f"is a study of 'fewshot-jax tune', whose runs are in its folder trials; {predict}"),
    ):
        more = ["--input", folder / "examples.csv", "--output", tmp_path / "p.csv"] if command == "predict" else []
        code, _, err = call([command, directory, *more], capsys)
        assert code == 2 and err == f"error: {directory}: {said}\n"


def test_columns_that_fit_several_applications_are_those_of_a_model_that_labels(folder, tmp_path, capsys):
    (tmp_path / "both.csv").write_text("text,label,source,target\n" + "a,x,s,t\nb,y,s,t\n" * 2)
    given = ["--data", tmp_path / "both.csv", "--output", tmp_path / "m", "--save", "simple", "--folds", "0", "--quiet"]
    code, _, err = call(["adapt", "default", *given], capsys)
    assert code == 0, err
    (tmp_path / "others.csv").write_text("source,target,question,answer,context\na,b,c,d,e\n")
    code, _, err = call(["adapt", "default", "--data", tmp_path / "others.csv", "--output", tmp_path / "n"], capsys)
    assert code == 2 and "Remove the columns of the others" in err and "--application" not in err
    code, _, err = call(["data", "validate", tmp_path / "others.csv"], capsys)
    assert code == 2 and "Say which by --application, or remove the columns" in err


def test_a_quiet_command_prints_its_result_and_nothing_else(folder, tmp_path, capfd):
    (tmp_path / "few.csv").write_text("text,label\nzq qx,a\nzq qx,a\nzq qx,b\nxx yy,b\nvv ww,c\n")
    given = ["--data", tmp_path / "few.csv", "--save", "simple", "--folds", "0", "--output"]
    code, out, err = call(["adapt", "default", *given, tmp_path / "loud"], capfd)
    assert code == 0 and "note: " in err and "warning: " in err
    assert "of the words of these texts" not in err, "the encoder, which knows none of them, is not used"
    code, out, err = call(["adapt", "default", *given, tmp_path / "quiet", "--quiet"], capfd)
    assert (code, err) == (0, "") and "saved in" in out
    (tmp_path / "texts.csv").write_text('text\nzq\n""\nqx\n')
    predict = ["predict", tmp_path / "quiet", "--input", tmp_path / "texts.csv"]
    assert "empty" in call(predict, capfd)[2]
    code, out, err = call([*predict, "--quiet"], capfd)
    assert (code, err) == (0, "") and len(out.splitlines()) == 3


@pytest.mark.parametrize("command", ["train", "pretrain", "tune", "evaluate", "report", "export"])
def test_nothing_below_a_quiet_command_prints_notes(command, tmp_path, capsys, monkeypatch):
    def noisy(*arguments, **keywords):
        print("note: of a library", file=sys.stderr)
        warnings.warn("a warning of a library", stacklevel=1)
        raise fsj.UserError("this is what is said")

    modules = {"train": "training.loop", "pretrain": "pretraining.pretrain"}
    modules |= {"tune": "search.study", "report": "reporting.report"}
    module = modules.get(command, f"training.{command}")
    monkeypatch.setattr(importlib.import_module(f"fewshot_jax.{module}"), command, noisy)
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "space.yaml").write_text("outer.rate: {choices: [0.001, 0.01]}\n")
    more = {
        "tune": ["--space", tmp_path / "space.yaml", "--study", tmp_path / "study"],
        "train": ["--run-dir", tmp_path / "run"],
        "pretrain": ["--run-dir", tmp_path / "run"],
        "evaluate": [],
    }.get(command, ["--output", tmp_path / "out"])
    place = tmp_path / "config.yaml" if command in ("train", "pretrain", "tune") else tmp_path
    code, out, err = call([command, place, *more, "--quiet"], capsys)
    assert (code, out, err) == (2, "", "error: this is what is said\n")


def test_a_note_of_the_library_is_one_plain_line_and_nothing_in_quiet(tmp_path, capsys, monkeypatch):
    def noted(*arguments, **keywords):
        warnings.warn("m: read without 'module.'", Note, stacklevel=1)
        raise fsj.UserError("this is what is said")

    monkeypatch.setattr(importlib.import_module("fewshot_jax.training.export"), "export", noted)
    command = ["export", tmp_path, "--output", tmp_path / "out"]
    said = "error: this is what is said\n"
    assert call(command, capsys) == (2, "", f"note: m: read without 'module.'\n{said}")
    assert call([*command, "--quiet"], capsys) == (2, "", said)


def test_a_model_that_lost_its_examples_takes_no_more(folder, tmp_path, capsys):
    import shutil

    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "model/examples.jsonl").unlink()
    given = ["--data", folder / "examples.csv", "--output", tmp_path / "m"]
    code, _, err = call(["adapt", tmp_path / "model", *given], capsys)
    assert code == 2 and "model: cannot read what it was adapted from and to" in err


def test_a_sheet_on_stdin_is_read_as_the_file_is(folder, capsys, monkeypatch):
    sheet = "sep=;\r\nid;text;\r\n7;where is my parcel;\r\n;;\r\n".encode("utf-16")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sheet)))
    code, out, err = call(["predict", folder / "model"], capsys)
    assert code == 0, err
    (row,) = map(json.loads, out.splitlines())
    assert row.keys() == {"id", "text", "predicted_label", "probability"} and row["text"] == "where is my parcel"


def test_labels_that_look_alike_are_joined_and_equal_numbers_are_refused_with_earlier_examples(tmp_path, capsys):
    texts = ["a tea", "two teas", "green tea", "a cake", "two cakes", "carrot cake"]

    def adapt(model, name, labels, prefix=""):
        rows = "".join(f"{prefix}{text},{label}\n" for text, label in zip(texts, labels, strict=True))
        (tmp_path / name).write_text(f"text,label\n{rows}", encoding="utf-8")
        output = tmp_path / f"{name}_model"
        return main(["adapt", str(model), "--data", str(tmp_path / name), "--output", str(output), "--folds", "0"])

    assert adapt("default", "a.csv", ["thé", "the\u0301", "thé\u200b", *["0"] * 3]) == 0
    assert "joined labels" in capsys.readouterr().err
    assert json.loads((tmp_path / "a.csv_model" / "model.json").read_text())["labels"] == ["0", "thé"]
    assert adapt(tmp_path / "a.csv_model", "b.csv", ["0.0"] * 6, "please ") == 2
    assert "labels that are the same number: '0' and '0.0'" in capsys.readouterr().err
    assert not (tmp_path / "b.csv_model").exists()
