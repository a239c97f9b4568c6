"""Documents from every kind of file, and what is said of those that cannot be used."""

import gzip
import json

import numpy as np
import pytest

from fewshot_jax.config.pretraining import CorpusConfig
from fewshot_jax.data.generated import generated_intents
from fewshot_jax.data.pretraining.documents import divide_documents, read_documents
from fewshot_jax.data.worlds.languages import FOREIGN_NOUNS, FOREIGN_VERBS
from fewshot_jax.errors import UserError


def read(path, **fields):
    return read_documents(CorpusConfig(path=str(path), **fields))


def test_generated_texts_are_those_of_the_tasks_and_say_nothing_of_pairs():
    texts = read_documents(CorpusConfig(source="generated", name="translation", documents=1000))
    assert len(texts) == 1000 and texts == read_documents(
        CorpusConfig(source="generated", name="translation", documents=1000)
    )
    foreign = [text for text in texts if set(text.split()) <= {*FOREIGN_NOUNS, *FOREIGN_VERBS}]
    assert all(len(text.split()) == 3 for text in foreign) and 400 < len(foreign) < 600
    assert all(text.startswith("the ") for text in set(texts) - set(foreign))


@pytest.mark.parametrize("name", ["text_classification", "question_answering", "dialogue"])
def test_every_application_has_generated_texts(name):
    assert len(read_documents(CorpusConfig(source="generated", name=name, documents=60))) == 60


def test_generated_intents_are_none_that_meta_training_may_test_on():
    texts = read_documents(CorpusConfig(source="generated", name="text_classification", documents=10**6))
    assert texts and not set(texts) & {record.text for record in generated_intents(seed=0)}


def test_generated_texts_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"corpus.name=poems: expected an application with generated texts"):
        read_documents(CorpusConfig(source="generated", name="poems"))


def test_rows_are_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": " one\\n\\nstill one ", "n": 1}\n\n{"body": "two", "n": 2}\n')
    (tmp_path / "b.csv").write_text('body,n\n"three, with a comma",3\n')
    (tmp_path / "c.tsv").write_text("body\tn\nfour\t4\n")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"body": "five"}\n')
    (tmp_path / "notes.pdf").write_bytes(b"\xff")
    texts = ["one\n\nstill one", "two", "three, with a comma", "four", "five"]
    assert read(tmp_path, text_field="body") == texts
    assert read(tmp_path, text_field="body", files=("d.jsonl.gz", "a.jsonl")) == ["five", *texts[:2]]
    assert read(tmp_path / "c.tsv", text_field="body") == ["four"]


def test_blank_lines_part_the_documents_of_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\nstill one\r\n\r\n \t\r\ntwo\n\n\n\nthree\n")
    assert read(path) == ["one\nstill one", "two", "three"]
    assert read(path, txt_documents="file") == ["one\nstill one\n\n \t\ntwo\n\n\n\nthree"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', r"a\.jsonl, line 2: no field 'text'.*'txt'.*corpus\.text_field"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": " "}\n', r"a\.jsonl, line 3: 'text' is empty. Fill it in or remove"),
        ("a.jsonl", '{"text": 3}\n', r"a\.jsonl, line 1: 'text' is a number where a string is needed"),
        ("a.jsonl", "x\n", r"a\.jsonl, line 1: broken JSON"),
        ("a.csv", "words\nx\n", r"a\.csv, line 1: no column 'text'.*corpus\.text_field"),
        ("a.txt", " \n\n", r"a\.txt: the file is empty"),
        ("a.pdf", "x", r"a\.pdf: cannot read files of type '\.pdf'"),
        ("a.txt", b"caf\xe9", r"a\.txt, line 1: not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_path_is_needed(tmp_path):
    with pytest.raises(UserError, match=r"corpus\.path: name the file or folder"):
        read_documents(CorpusConfig())
    with pytest.raises(UserError, match="no file of texts in this folder"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"no\.txt: no such file"):
        read(tmp_path / "no.txt")
    with pytest.raises(UserError, match=r"corpus\.name: name the tfds data set"):
        read_documents(CorpusConfig(source="tfds"))


def test_a_tfds_data_set_is_a_corpus(tmp_path):
    import tensorflow_datasets as tfds

    class Texts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, text in enumerate(["first", " ", "second"]):
                yield number, {"text": text}

    Texts(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    corpus = CorpusConfig(source="tfds", name="texts", path=str(tmp_path))
    assert sorted(read_documents(corpus)) == ["first", "second"]
    with pytest.raises(UserError, match=r"no feature 'body'.*corpus\.text_field"):
        read_documents(CorpusConfig(source="tfds", name="texts", path=str(tmp_path), text_field="body"))


def test_the_documents_are_divided_by_a_seed():
    train, held_out = divide_documents(100, CorpusConfig(validation_share=0.1))
    assert len(held_out) == 10
    assert sorted([*train, *held_out]) == list(range(100))
    again = divide_documents(100, CorpusConfig(validation_share=0.1))
    other = divide_documents(100, CorpusConfig(validation_share=0.1, split_seed=1))
    assert np.array_equal(held_out, again[1])
    assert not np.array_equal(held_out, other[1])


@pytest.mark.parametrize(("share", "held_out"), [(0.01, 1), (0.99, 2)])
def test_neither_part_is_empty(share, held_out):
    assert [len(part) for part in divide_documents(3, CorpusConfig(validation_share=share))] == [3 - held_out, held_out]


def test_one_document_cannot_be_divided():
    with pytest.raises(UserError, match=r"one document.*blank lines"):
        divide_documents(1, CorpusConfig())


def test_an_integer_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ["x"]}))
    with pytest.raises(UserError, match="is a list where a string is needed"):
        read(tmp_path / "a.jsonl")
