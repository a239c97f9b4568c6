"""Splits: class-disjoint, by fractions or by a file, and clear about wrong files."""

import json

import numpy as np
import pytest

from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import SPLITS, divide, read_class_split, split_records, text_split
from fewshot_jax.errors import UserError

RECORDS = [Record(f"text {c} {i}", f"class{c:02d}", f"domain{c // 5}") for i in range(3) for c in range(20)]


def test_classes_and_groups_are_numbered_in_sorted_order():
    split = text_split([Record("one", "b", "y"), Record("two", "a", "x"), Record("three", "b", "y")])
    assert split.texts == ["one", "two", "three"]
    assert split.classes == ["a", "b"]
    assert split.label.tolist() == [1, 0, 1]
    assert split.group.tolist() == [1, 0, 1]
    assert split.label.dtype == np.int32


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.2), (0.5, 0.25, 0.25), (1.0, 0.0, 0.0)])
def test_fractions_divide_names_into_disjoint_parts_of_the_right_size(fractions):
    names = [f"n{i}" for i in range(20)]
    parts = divide(names, fractions, seed=3)
    assert [len(parts[split]) for split in SPLITS] == [round(20 * share) for share in fractions]
    assert sorted(name for part in parts.values() for name in part) == sorted(names)


def test_rounding_loses_no_name_and_repeats_none():
    for count in range(1, 30):
        parts = divide([str(i) for i in range(count)], (0.34, 0.33, 0.33), seed=0)
        names = [name for part in parts.values() for name in part]
        assert len(names) == count == len(set(names))


def test_the_division_depends_on_the_seed_and_not_on_the_order():
    names = [f"n{i}" for i in range(20)]
    assert divide(names, (0.6, 0.2, 0.2), 0) == divide(names[::-1], (0.6, 0.2, 0.2), 0)
    assert divide(names, (0.6, 0.2, 0.2), 0) != divide(names, (0.6, 0.2, 0.2), 1)


@pytest.mark.parametrize("fractions", [(0.6, 0.2), (0.6, 0.2, 0.3), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_shares_are_refused(fractions):
    with pytest.raises(UserError, match=r"data\.fractions=.*sum 1"):
        divide(["a", "b", "c"], fractions, 0)


@pytest.mark.parametrize("by", ["label", "group"])
def test_no_class_is_in_two_splits_and_every_record_in_one(by):
    members = divide(sorted({getattr(record, by) for record in RECORDS}), (0.5, 0.25, 0.25), seed=1)
    splits = split_records(RECORDS, members, by=by)
    classes = [set(splits[split].classes) for split in SPLITS]
    assert sum(map(len, classes)) == 20 == len(set.union(*classes))
    assert sorted(text for split in splits.values() for text in split.texts) == sorted(r.text for r in RECORDS)
    of_text = {record.text: record for record in RECORDS}
    for name, split in splits.items():
        for text, label in zip(split.texts, split.label, strict=True):
            assert split.classes[label] == of_text[text].label
            assert getattr(of_text[text], by) in members[name]


def test_records_of_a_class_in_no_split_are_left_out():
    splits = split_records(RECORDS, {"train": ["class00"], "validation": ["class01"], "test": ["class02"]})
    assert {name: len(split.texts) for name, split in splits.items()} == {"train": 3, "validation": 3, "test": 3}


def test_a_split_that_names_an_absent_label_is_refused():
    members = {"train": ["class00", "zzz", "yyy"], "validation": [], "test": []}
    with pytest.raises(UserError, match=r"train split: no record has the label 'yyy' \(2 such names\)"):
        split_records(RECORDS, members)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


PLAIN = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
EXPECTED = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}


@pytest.mark.parametrize(
    ("content", "name"),
    [(PLAIN, None), (EXPECTED, None), ({"first": PLAIN, "second": {}}, "first"), ({"x": EXPECTED}, "x")],
)
def test_the_formats_of_a_class_split_file(tmp_path, content, name):
    assert read_class_split(write(tmp_path / "split.json", content), name) == EXPECTED


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({**PLAIN, "test": ["d", "a"]}, None, "class 'a' is in train and in test"),
        ({**PLAIN, "valid": ["b"]}, None, "class 'b' is in train and in validation"),
        ({"first": PLAIN}, "second", "no class split named 'second' .found: first.; see data.class_split_name"),
        (["a", "b"], "first", "no class split named 'first' .found: no names."),
        ('{"train": [', None, "cannot read the class split .*see data.class_split"),
        ({"train": ["a"], "test": ["b"]}, None, "expected lists of class names under train, validation and test"),
        ({**PLAIN, "test": "d"}, None, "expected lists of class names"),
        (["a"], None, "expected lists of class names"),
        ({"first": PLAIN, "second": PLAIN}, None, "expected lists of class names"),
    ],
)
def test_a_wrong_class_split_file_is_named(tmp_path, content, name, message):
    path = write(tmp_path / "split.json", content)
    with pytest.raises(UserError, match=message) as error:
        read_class_split(path, name)
    assert str(error.value).startswith(f"{path}: ")


def test_a_missing_class_split_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot read the class split"):
        read_class_split(tmp_path / "absent.json")
