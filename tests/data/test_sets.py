"""Several data sets: equal labels stay apart, what is absent is named; names of labels as texts."""

import gzip

import pytest

from fewshot_jax.data.records import Record
from fewshot_jax.data.sets import domain, label_text, read_sets
from fewshot_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bank.csv").write_text("text,label,area\nrefund me,refund,money\n")
    (tmp_path / "travel").mkdir()
    (tmp_path / "travel" / "b.jsonl").write_text('{"text": "a flight", "label": "book", "area": "air"}\n')
    with gzip.open(tmp_path / "travel" / "a.csv.gz", "wt") as file:
        file.write("text,label,area\nmoney back,refund,after\n")
    (tmp_path / "travel" / "README.md").write_text("no data")
    return tmp_path


def test_labels_stand_below_their_data_set_which_is_the_group(folder):
    assert read_sets(folder, ["bank.csv", "travel"]) == [
        Record("refund me", "bank/refund", "bank"),
        Record("money back", "travel/refund", "travel"),
        Record("a flight", "travel/book", "travel"),
    ]


def test_groups_stand_below_their_data_set_too(folder):
    groups = [record.group for record in read_sets(folder, ["bank.csv", "travel"], group="area")]
    assert groups == ["bank/money", "travel/after", "travel/air"]


def test_of_a_folder_only_the_named_files_are_read(folder):
    records = read_sets(folder, ["bank.csv", "travel"], files=["b.jsonl"])
    assert [record.label for record in records] == ["bank/refund", "travel/book"]


@pytest.mark.parametrize(
    ("sets", "files", "message"),
    [
        (["bank.csv", "hotels"], (), r"hotels: no such file or folder; see data\.path and data\.sets"),
        (["travel", "empty"], (), r"empty: no \.jsonl, \.csv or \.tsv file here; see data\.sets"),
        (["travel"], ("c.csv",), r"travel: none of data\.files=\('c\.csv',\) here"),
        (["travel"], ("b.jsonl", "c.csv"), r"data\.files: no folder of data\.sets has 'c\.csv'"),
        (["bank.csv", "bank.csv"], (), r"data\.sets: two data sets are named 'bank'"),
    ],
)
def test_what_is_absent_is_named(folder, sets, files, message):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_sets(folder, sets, files=files)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bank.csv", "bank"), ("a/bank.jsonl.gz", "a/bank"), ("travel/", "travel"), ("v1.2", "v1.2"), ("B.TSV", "B")],
)
def test_a_data_set_has_the_name_of_its_file_or_folder(name, expected):
    assert domain(name) == expected


@pytest.mark.parametrize(
    ("label", "sets", "expected"),
    [
        ("book_a_flight", (), "book a flight"),
        ("book>cancel>print", (), "book cancel print"),
        ("WORLD NEWS & politics", (), "WORLD NEWS politics"),
        ("¿qué?", (), "qué"),
        ("हिन्दी_भाषा", (), "हिन्दी भाषा"),
        ("17", (), "17"),
        ("++", (), "++"),
        ("bank/lost-card", ("bank.csv", "travel"), "lost card"),
        ("a/b/c_d", ("a", "a/b"), "c d"),
        ("banking/refund", ("bank.csv",), "banking refund"),
    ],
)
def test_the_name_of_a_label_as_a_text(label, sets, expected):
    assert label_text(label, sets) == expected
