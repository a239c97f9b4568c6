"""``fewshot-jax data``: what is at hand, what a file holds and all that is wrong with it, what an episode shows."""

import contextlib
import gzip
import io
import json

import yaml

from fewshot_jax.cli.main import main
from fewshot_jax.config.applications import columns_of_files
from fewshot_jax.data.validate import text_lengths
from tests.small_run import RUN

GOOD = "text,label\nbook two tickets!,booking\nbook maps,booking\nbook maps,booking\ncancel lunch,cancelling\n"


def call(*arguments):
    """(exit code, stdout, stderr) of a part of ``data``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["data", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


def written(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def report_of(path, *flags):
    """(exit code, the report) of a file, as JSON."""
    code, out, _ = call("validate", path, "--json", *flags)
    return code, json.loads(out)


def test_ls_lists_each_application_with_its_columns():
    code, out, err = call("ls")
    assert (code, err) == (0, "")
    for name, places in columns_of_files().items():
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert all(column in line for place in places for column in place)


def test_ls_finds_prepared_data_sets_and_says_which_can_be_read(tmp_path, monkeypatch):
    for name, file in (("tiny/1.0.0", "tiny-train.array_record-00000-of-00001"), ("old/sub/2.0.0", "x.tfrecord-0")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "dataset_info.json").write_text("{}")
        (tmp_path / name / file).write_text("")
    code, out, _ = call("ls", "--data-dir", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)["tfds"]
    assert found["tiny:1.0.0"] == "array_record"
    assert "array_record" in found["old/sub:2.0.0"] and "TensorFlow" in found["old/sub:2.0.0"]
    assert len(found) == 2
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert "tiny:1.0.0" in call("ls")[1]


def test_a_good_file_is_counted(tmp_path):
    path = written(tmp_path, "a.csv", GOOD)
    code, report = report_of(path)
    assert code == 0
    assert report["usable"] and report["problems"] == []
    assert report["application"] == "text_classification"
    assert report["rows"] == 4
    assert report["groups"] == {"booking": 3, "cancelling": 1}
    assert report["duplicates"] == 1
    assert report["lengths"]["text"] == {"p50": 2, "p95": 4, "max": 4}  # the mark counts as a word
    assert report["encoding"] == "UTF-8"
    code, out, err = call("validate", path)
    assert (code, err) == (0, "")
    for words in ("4 examples", "1 exact duplicate", "2 classes", "'booking' 3", "'cancelling' 1", "p50 2", "max 4"):
        assert words in out


def test_lengths_are_the_median_the_95th_percentile_and_the_longest():
    texts = ["w " * n for n in range(1, 101)]
    assert text_lengths(texts) == (50, 95, 100)
    assert text_lengths(["one two, three"]) == (4, 4, 4)


def test_every_problem_of_a_file_is_told_with_its_line_and_remedy(tmp_path):
    path = written(tmp_path, "a.csv", 'text,label\n,x\na,b,c\nfine,y\n"two\nlines",\nalso fine,x\n"open,z\n')
    code, report = report_of(path)
    assert code == 2
    starts = [f"{path}, line {line}: " for line in (2, 3, 5, 8)]
    assert len(report["problems"]) == len(starts)
    assert all(problem.startswith(start) for problem, start in zip(report["problems"], starts, strict=True))
    assert report["rows"] == 2 and report["empty"] == 2 and not report["usable"]
    code, out, err = call("validate", path)
    assert code == 2
    assert all(problem in out for problem in report["problems"])
    assert err == f"error: {path}: 4 problems, see the list above; correct them, and validate again\n"


def test_an_only_problem_is_the_message(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n{"text": "c", "label": "d"}\n')
    code, _, err = call("validate", path)
    assert code == 2
    assert err.startswith(f"error: {path}, line 2: no field 'label'")


def test_many_problems_are_cut_in_words_and_whole_in_json(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\n" + ",x\n" * 50)
    assert len(report_of(path)[1]["problems"]) == 50
    assert "and 30 more; --json has all" in call("validate", path)[1]


def test_what_is_perhaps_not_meant_is_noted_and_can_be_used(tmp_path):
    rows = [("Hello  there", "Greet"), ("hello there", "greet"), ("x " * 5001, 0), ("y", "0"), ("y", 0)]
    path = written(tmp_path, "a.jsonl", "".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    code, report = report_of(path)
    assert code == 0
    notes = "\n".join(report["notes"])
    assert "several labels: 1, such as 'hello there' with 'Greet', 'greet'" in notes
    assert "'Greet', 'greet' differ in case" in notes
    assert "'0' stands as a number and as a string" in notes
    assert "one example: 2 ('Greet', 'greet')" in notes
    assert "10,000 characters: 1" in notes
    assert report["groups"]["0"] == 3


def test_one_class_cannot_be_used(tmp_path):
    code, report = report_of(written(tmp_path, "a.csv", "text,label\na,b\nc,b\n"))
    assert code == 2
    assert "one label only ('b')" in report["problems"][0]


def test_other_applications_are_read_by_their_own_readers(tmp_path):
    asked = '{"question": "q?", "context": "the c", "answer": "c"}\n{"question": "q?", "context": "b", "answer": "z"}\n'
    code, report = report_of(written(tmp_path, "a.jsonl", asked))
    assert (code, report["application"], report["rows"]) == (2, "question_answering", 1)
    assert "line 2: the answer 'z' does not occur in the context" in report["problems"][0]

    entries = [
        {"id": "1", "question": "q?", "answers": [{"text": "c", "answer_start": 4}]},
        {"id": "1", "question": "q?", "answers": [{"text": "c", "answer_start": 0}]},
    ]
    squad = {"data": [{"title": "t", "paragraphs": [{"context": "the c", "qas": entries}]}]}
    code, report = report_of(written(tmp_path, "a.json", json.dumps(squad)))
    assert (code, report["rows"], report["groups"]) == (2, 1, {"t": 1})
    assert "does not stand at its 'answer_start' 0" in report["problems"][0]

    code, report = report_of(written(tmp_path, "a.tsv", "source\ttarget\ttask\nein\tone\tde\n\ttwo\tde\n"))
    assert (code, report["rows"], report["groups"], report["empty"]) == (2, 1, {"de": 1}, 1)

    turns = [{"speaker": "user", "text": "hi"}, {"speaker": "assistant", "text": "hello you"}]
    lines = [{"turns": turns}, {"turns": turns[:1]}, {"turns": [{"speaker": "robot", "text": "x"}]}]
    path = written(tmp_path, "b.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    code, report = report_of(path)
    assert (code, report["rows"], report["lengths"]["reply"]["max"]) == (2, 1, 2)
    assert report["problems"] == [
        f"{path}, line 3, turn 1: unknown 'speaker' 'robot'. Use one of 'user', 'assistant', 'system'."
    ]
    code, report = report_of(written(tmp_path, "c.jsonl", json.dumps(lines[1]) + "\n"))
    assert code == 2
    assert "no turn of the assistant answers another" in report["problems"][0]


def test_encodings_are_named(tmp_path):
    path = tmp_path / "a.csv"
    for data, encoding in (
        (b"\xef\xbb\xbf" + GOOD.encode(), "UTF-8 with a byte order mark"),
        (GOOD.encode("utf-16"), "UTF-16"),
        (gzip.compress(GOOD.encode()), "UTF-8, gzip"),
    ):
        path = tmp_path / ("a.csv.gz" if "gzip" in encoding else "a.csv")
        path.write_bytes(data)
        assert report_of(path)[1]["encoding"] == encoding
    path = tmp_path / "b.csv"
    path.write_bytes(GOOD.encode() + b"caf\xe9,x\n")
    code, report = report_of(path, "--application", "text_classification")
    assert (code, report["encoding"]) == (2, "not UTF-8")


def test_fields_and_application_can_be_named(tmp_path):
    path = written(tmp_path, "a.csv", GOOD.replace("text,label", "utterance,intent"))
    flags = ["--text-field", "utterance", "--label-field", "intent"]
    assert report_of(path, *flags)[0] == 0
    code, _, err = call("validate", path, "--application", "text_classification")
    assert code == 2
    assert "no column 'text'" in err
    code, _, err = call("validate", path, "--application", "translations")
    assert code == 2
    assert "did you mean 'translation'?" in err


def test_preview_of_a_file_shows_its_first_rows_as_they_are_read(tmp_path):
    path = written(tmp_path, "a.csv", 'text,label\n" book [tickets] ",booking\n"two\nlines",other\nlast,other\n')
    code, out, err = call("preview", path, "--rows", "2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [
        {"text": "book [tickets]", "label": "booking"},
        {"text": "two\nlines", "label": "other"},
    ]
    code, out, _ = call("preview", path)
    assert code == 0
    assert "book [tickets]" in out and "last" in out, "brackets are no markup"


def test_preview_shows_the_good_rows_and_tells_of_the_others(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\na,x\n,y\n")
    code, out, err = call("preview", path, "--json")
    assert (code, json.loads(out)) == (0, [{"text": "a", "label": "x"}])
    assert "line 3: 'text' is empty" in err and "data validate" in err
    code, _, err = call("preview", written(tmp_path, "b.csv", "text,label\n,y\n"))
    assert code == 2
    assert "line 2: 'text' is empty" in err
    assert call("preview", path, "--rows", "0")[0] == 2


def test_preview_of_a_config_is_its_first_training_episode(tmp_path):
    from fewshot_jax.applications.table import build_application
    from fewshot_jax.config_file import read_config

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(RUN))
    code, out, err = call("preview", path, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    application = build_application(read_config(path))
    episode = application.training_stream()(0, 1)
    for part, batch in zip(("support", "query"), episode, strict=True):
        rows = [row for row in shown if row["part"] == part]
        ids = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"][0], batch["attention_mask"][0], strict=True)]
        assert [application.model.codec.tokenizer.encode(row["read"]).ids for row in rows] == ids
        numbers = batch["label"][0].tolist()
        names = [row["wanted"] for row in rows]
        assert len(set(zip(numbers, names, strict=True))) == len(set(numbers)) == len(set(names)) == 3


def test_preview_of_a_config_whose_tasks_are_written_shows_what_is_written(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("application: translation\ntokenizer: {kind: word}\nepisodes: {shots: 2, queries: 3}\n")
    code, out, err = call("preview", path, "--json")
    assert (code, err) == (0, "")
    assert [row["part"] for row in json.loads(out)] == ["support"] * 2 + ["query"] * 3
    path.write_text("application: regression\n")
    code, _, err = call("preview", path)
    assert code == 2
    assert "application=regression: has no texts to show" in err


def test_an_unknown_part_is_named_with_the_nearest():
    code, _, err = call("validat", "x.csv")
    assert (code, err) == (2, "error: unknown command 'data validat'; did you mean 'validate'?\n")
    code, out, err = call()
    assert code == 2
    assert "usage" in out and "ls, validate, preview" in err
