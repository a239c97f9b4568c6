"""Labels: which types they may have, which names are one, and which are the same number."""

import string
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_jax.applications.labelled_texts import LabelledTexts, read_data, split_data
from fewshot_jax.config import DataConfig
from fewshot_jax.data.labels import check_numbers, plain_texts, tidy_records
from fewshot_jax.data.names import joined_names, normal_name
from fewshot_jax.data.parallel import read_pairs
from fewshot_jax.data.records import Record
from fewshot_jax.data.sets import read_sets
from fewshot_jax.data.splits import read_class_split
from fewshot_jax.data.validate import check_file
from fewshot_jax.errors import UserError

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def records_of(labels, text="text"):
    return [Record(f"{text} {i}", label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("given_labels", "plain"),
    [
        (list("ab"), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([0, 1]), [0, 1]),
        (np.array([0, 1], np.uint8), [0, 1]),
        (np.array([0.5, 1], np.float32), [0.5, 1.0]),
        (np.array([True, False]), [True, False]),
        ([0, 1], [0, 1]),
        ([False, True], [False, True]),
    ],
)
def test_scalars_of_numpy_become_those_of_python(given_labels, plain):
    labels = [record.label for record in tidy_records(records_of(given_labels), "here")[0]]
    assert labels == plain
    assert [type(label) for label in labels] == [type(label) for label in plain]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", float("nan")], r"here, record 1 \('text 1'\): label nan of type float\. Expected"),
        ([0.0, np.float32("nan")], r"record 1 .*label nan of type float"),
        ([0.0, np.inf], r"record 1 .*label inf of type float"),
        (["a", None], r"record 1 .*label None\. Expected"),
        (["a", b"b"], r"record 1 .*label b'b' of type bytes"),
        ([("a",), "b"], r"record 0 .*label \('a',\) of type tuple"),
        ([0, 1, "b"], r"record 2: label 'b' of type str, but label 0 of record 0 is of type int.*convert"),
        ([0, True], r"record 1: label True of type bool, but label 0"),
        ([0, 1.0], r"record 1: label 1\.0 of type float"),
        (["a", "\u200b"], r"record 1: label '\\u200b' is empty"),
    ],
)
def test_what_can_be_no_label_names_the_record(labels, message):
    with pytest.raises(UserError, match=message):
        tidy_records(records_of(labels), "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "here, record 1: the text is empty"),
        (None, r"record 1: text None\. Expected"),
        (b"tea", "record 1: text b'tea' of type bytes"),
        (float("nan"), "record 1: text nan of type float"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_can_be_no_text_names_the_record(text, message):
    with pytest.raises(UserError, match=message):
        tidy_records([Record("a", "x"), Record(text, "y")], "here")


def test_texts_to_predict_are_whatever_gives_strings():
    for texts in (["a", "b"], ("a", "b"), np.array(["a", "b"]), (one for one in "ab")):
        plain = plain_texts(texts)
        assert plain == ["a", "b"] and {type(text) for text in plain} == {str}
    with pytest.raises(TypeError, match="not one string"):
        plain_texts("a")
    with pytest.raises(UserError, match=r"texts\[1\]: None\. Expected a string"):
        plain_texts(["a", None])


# Mongolian's vowel separator, fillers of Hangul, selectors of variants.
IGNORED = (0x180E, 0x115F, 0x1160, 0x3164, 0xFFA0, 0xFE00, 0xFE0F, 0xE0100, 0x200B)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (COMPOSED, DECOMPOSED),
        ("tea", "tea\u200b"),
        ("tea", "\ufefftea"),
        ("tea", "te\u00ada"),
        ("tea", "te\u200da"),
        *((f"t\u00e9a {c:04x}", f"te{chr(c)}\u0301a {c:04x}{chr(c)}") for c in IGNORED),
        ("green tea", "green\u00a0tea"),
        ("green tea", "green \u2009 tea\t"),
    ],
)
def test_names_that_look_alike_are_one(one, other):
    assert one != other and normal_name(one) == normal_name(other) == one
    records, notes = tidy_records(records_of([one, other, "cake"]), "here")
    assert {record.label for record in records} == {one, "cake"}
    assert notes == [
        "joined labels that look alike and differ in Unicode form, in invisible characters or in spaces: "
        f"'{one}' (2 spellings)"
    ]


@pytest.mark.parametrize("name", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469"])
def test_joiners_that_spell_a_word_or_an_emoji_stay(name):
    assert normal_name(name) == name


@given(st.text())
def test_a_normal_name_is_normal_and_composed_without_white_space_at_its_sides(name):
    normal = normal_name(name)
    assert normal == normal_name(normal) == normal.strip() == " ".join(normal.split())
    assert not any(char in normal for char in "\u200b\u2060\ufeff\u00ad")


@given(st.text(alphabet=[*string.ascii_letters, "\u00e9", "\u00fc", "\u1e69", "\u0915\u093c"[0]], min_size=1))
def test_all_unicode_forms_of_a_name_are_one(name):
    assert len({normal_name(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}) == 1


def test_labels_that_differ_in_case_alone_stay_apart_and_are_told():
    records, notes = tidy_records([Record("a", "Cake"), Record("b", "cake"), Record("c", "tea")], "x")
    assert [record.label for record in records] == ["Cake", "cake", "tea"]
    assert notes == ["labels that differ in case alone are different classes: 'Cake' and 'cake'"]


def test_a_text_of_characters_without_width_is_empty():
    with pytest.raises(UserError, match="x, record 0: the text is empty"):
        tidy_records([Record("\u200b \ufeff", "a")], "x")


def test_what_has_one_spelling_gives_no_note():
    assert joined_names(["tea", "tea", "coffee"], "label") == []


@pytest.mark.parametrize(
    "pair",
    [
        ("0", "0.0"),
        ("1", "1."),
        ("12", "12.00"),
        ("-3", "-3.0"),
        ("5", "5e0"),
        ("0", "-0.0"),
        ("1", "+1"),
        ("1000", "1e3"),
    ],
)
def test_labels_that_are_the_same_number_are_refused_by_name(pair):
    with pytest.raises(UserError, match=r"here: labels that are the same number: '.*' and '.*'\. Expected") as error:
        check_numbers({*pair, "7", "tea"}, "here")
    assert all(f"'{label}'" in str(error.value) for label in pair) and "'7'" not in str(error.value)


@pytest.mark.parametrize(
    "pair", [("1", "01"), ("1.1", "1.10"), ("1.5", "1.50"), ("v1", "v1.0"), ("1", "1.5"), ("7" * 5000, "7")]
)
def test_codes_and_numbers_of_sections_are_names(pair):
    check_numbers(set(pair), "here")


def write(path, labels):
    path.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)), encoding="utf-8")
    return path


def test_every_source_of_labelled_texts_has_one_form_of_names(tmp_path):
    write(tmp_path / "a.csv", [COMPOSED, "tea"])
    write(tmp_path / "b.csv", [DECOMPOSED, "tea\u200b"])
    notes: list[str] = []
    files = read_data(DataConfig(source="files", path=str(tmp_path), files=("a.csv", "b.csv")), 0, notes)
    assert {record.label for record in files} == {COMPOSED, "tea"}
    assert len(notes) == 1 and f"'{COMPOSED}' (2 spellings)" in notes[0] and "'tea' (2 spellings)" in notes[0]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.csv", [COMPOSED, DECOMPOSED])
    notes = []
    sets = read_sets(tmp_path, ["set", "b.csv"], notes=notes)
    assert [record.label for record in sets] == [f"set/{COMPOSED}"] * 2 + [f"b/{COMPOSED}", "b/tea"]
    assert len(notes) == 1 and notes[0].startswith("set: joined labels")


def test_a_split_by_names_means_the_same_names(tmp_path):
    (tmp_path / "split.json").write_text(f'{{"train": ["{DECOMPOSED}"], "valid": ["tea\u200b"], "test": [3]}}')
    assert read_class_split(tmp_path / "split.json") == {"train": [COMPOSED], "validation": ["tea"], "test": [3]}
    records, _ = tidy_records(records_of([COMPOSED, "tea", "cake"]), "here")
    config = DataConfig(source="files", path=str(tmp_path), class_split="named.json")
    names = f'{{"train": ["{DECOMPOSED}"], "valid": ["tea"], "test": ["cake"]}}'
    (tmp_path / "named.json").write_text(names, encoding="utf-8")
    assert split_data(records, config)["train"].classes == [COMPOSED]


def test_tasks_of_examples_to_write_have_one_form_of_names(tmp_path):
    (tmp_path / "pairs.csv").write_text(f"source,target,task\na,b,{COMPOSED}\nc,d,{DECOMPOSED}\n", encoding="utf-8")
    assert {pair.task for pair in read_pairs(tmp_path / "pairs.csv")} == {COMPOSED}


def test_equal_numbers_in_two_files_of_one_data_set_are_refused(tmp_path):
    write(tmp_path / "a.csv", ["0", "1"])
    write(tmp_path / "b.csv", ["0.0", "2"])
    with pytest.raises(UserError, match=r"the same number: '0' and '0\.0'"):
        read_data(DataConfig(source="files", path=str(tmp_path), files=("a.csv", "b.csv")), 0)
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.csv", ["0", "0.0"])
    with pytest.raises(UserError, match="set: labels that are the same number"):
        read_sets(tmp_path, ["set", "a.csv"])


LABELLED = LabelledTexts.file_format


def test_validate_tells_what_is_joined_and_what_is_the_same_number(tmp_path):
    report = check_file(write(tmp_path / "a.csv", [COMPOSED, DECOMPOSED, "tea"]), "text_classification", LABELLED)
    assert report.usable and report.groups == {COMPOSED: 2, "tea": 1} and "joined labels" in report.notes[0]
    report = check_file(write(tmp_path / "b.csv", ["0", "0.0", "tea"]), "text_classification", LABELLED)
    assert not report.usable and "the same number: '0' and '0.0'" in report.problems[0]
