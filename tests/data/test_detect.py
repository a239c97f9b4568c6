"""The application of a file is that whose columns it has."""

import gzip
import json

import pytest

from fewshot_jax.config.applications import APPLICATION_RECORDS, columns_of_files
from fewshot_jax.data.detect import detect_application
from fewshot_jax.errors import UserError

SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": []}]}]}
FILES = [
    ("a.csv", "text,label\na,b\n", "text_classification"),
    ("a.csv", "id,label,note,text\n1,b,c,a\n", "text_classification"),
    ("a.tsv", "text\tlabel\na\tb\n", "text_classification"),
    ("a.jsonl", '\n{"label": 1, "text": "a"}\n', "text_classification"),
    ("a.csv", "question,context,answer\nq,c,c\n", "question_answering"),
    ("a.jsonl", '{"question": "q", "context": "c", "answers": []}\n', "question_answering"),
    ("a.json", json.dumps(SQUAD), "question_answering"),
    ("a.tsv", "source\ttarget\na\tb\n", "translation"),
    ("a.jsonl", '{"turns": [], "task": "x"}\n', "dialogue"),
    ("a.jsonl", '{"dialogue_id": "1", "services": ["a"], "turns": []}\n', "dialogue"),
]


def written(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "content", "application"), FILES)
def test_the_columns_tell_the_application(tmp_path, name, content, application):
    assert detect_application(written(tmp_path, name, content), APPLICATION_RECORDS) == application
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + content.encode()))
    assert detect_application(packed, APPLICATION_RECORDS) == application, "packed and with a byte order mark"


def test_columns_that_the_user_has_named_count_as_text_and_label(tmp_path):
    path = written(tmp_path, "a.csv", "utterance,intent\na,b\n")
    assert detect_application(path, APPLICATION_RECORDS, text="utterance", label="intent") == "text_classification"
    with pytest.raises(UserError, match="utterance"):
        detect_application(path, APPLICATION_RECORDS)


def test_columns_of_no_application_are_listed_with_what_each_needs(tmp_path):
    with pytest.raises(UserError) as caught:
        detect_application(written(tmp_path, "a.csv", "text,lable\na,b\n"), APPLICATION_RECORDS)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.csv'}, line 1: its columns are 'text', 'lable'")
    assert "There is no column 'label'. Did you mean 'lable'?" in message
    for application, places in columns_of_files().items():
        assert application in message
        assert all(name in message for place in places for name in place)


def test_the_line_of_the_columns_is_that_of_the_first_that_is_not_blank(tmp_path):
    for name, content in (("a.csv", "\n\ntexts,labels\na,b\n"), ("a.jsonl", '\n \n{"a": 1}\n')):
        with pytest.raises(UserError, match=f"{name}, line 3: its columns are"):
            detect_application(written(tmp_path, name, content), APPLICATION_RECORDS)


def test_columns_of_several_applications_are_not_guessed_between(tmp_path):
    with pytest.raises(UserError, match=r"of text_classification and of translation .* --application"):
        detect_application(
            written(tmp_path, "a.csv", "text,label,source,target\na,b,c,d\n"), APPLICATION_RECORDS, flag="--application"
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"text": "a", "label": "b"}]', "a list where SQuAD's object is needed.*jsonl"),
        ("a.json", '{"text": "a", "label": "b"}', "fields are 'text', 'label', and not SQuAD's 'data'.*jsonl"),
        ("a.json", '[{"text": "a"\n', "line 2: broken JSON"),
        ("a.csv", "text,label\n", "only a header"),
        ("a.csv", "", "the file is empty"),
        ("a.jsonl", "[1]\n", "line 1: a list where an object is needed"),
        ("a.txt", "hello\n", "cannot read files of type '.txt'"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        detect_application(written(tmp_path, name, content), APPLICATION_RECORDS)


def test_a_missing_file_is_named(tmp_path):
    for name in ("none.csv", "none.json", "none.jsonl"):
        with pytest.raises(UserError, match="no such file"):
            detect_application(tmp_path / name, APPLICATION_RECORDS)
