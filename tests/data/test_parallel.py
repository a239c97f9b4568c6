"""Translation pairs: what is accepted, how mistakes read, and that held-out sources are left out."""

import gzip
import re

import pytest

from fewshot_jax.data.examples import Example
from fewshot_jax.data.parallel import read_aligned, read_pairs, without_sources
from fewshot_jax.errors import UserError

EXPECTED = [
    Example("two dogs", "zwei Hunde", "en-de", key="two dogs"),
    Example("a cat", "eine Katze", "en-de", key="a cat"),
]
CONTENTS = {
    "a.jsonl": '{"source": "two dogs", "target": " zwei Hunde "}\n\n{"source": "a cat", "target": "eine Katze"}\n',
    "a.csv": "source,target\ntwo dogs,zwei Hunde\na cat,eine Katze\n",
    "a.tsv": "target\tsource\nzwei Hunde\ttwo dogs\neine Katze\ta cat\n",
}


@pytest.fixture
def write(tmp_path):
    """Writes a file, gzipped where its name says so, and returns its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    return write_file


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_all_formats_give_the_same_pairs(write, name, ending):
    assert read_pairs(write(name + ending, CONTENTS[name]), task="en-de") == EXPECTED


def test_aligned_files_give_the_same_pairs(write):
    source = write("a.en", "two dogs\r\n a cat")
    assert read_aligned(source, write("a.de.gz", "zwei Hunde\neine Katze\n\n"), task="en-de") == EXPECTED


def test_a_line_may_hold_unicode_line_separators(write):
    pairs = read_aligned(write("a.en", "a\u2028b\nc\n"), write("a.de", "d\ne\u0085f\n"))
    assert [pair[:2] for pair in pairs] == [("a\u2028b", "d"), ("c", "e\u0085f")]


def test_fields_can_be_renamed(write):
    path = write("a.csv", "en,de\na cat,eine Katze\n")
    assert read_pairs(path, source="en", target="de", task="en-de") == EXPECTED[1:]
    assert read_pairs(path, source="de", target="en")[0].key == "eine Katze"


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("a.csv", "source,target\na,\n", ", line 2", "'target' is empty. Fill it in or remove the line."),
        ("a.jsonl", '{"source": "", "target": "b"}', ", line 1", "'source' is empty. Fill it in or remove the line."),
        ("a.jsonl", '\n{"source": "a", "target": 3}', ", line 2", "'target' is a number where a string is needed."),
        (
            "a.jsonl",
            '{"source": "a", "targets": "b"}',
            ", line 1",
            "no field 'target'; there are 'source', 'targets'. D",
        ),
        ("a.jsonl", "{", ", line 1", "broken JSON at column"),
        ("a.txt", "a", "", "cannot read files of type '.txt'. Use .jsonl"),
    ],
)
def test_a_mistake_names_the_file_the_line_and_the_field(write, name, content, place, message):
    path = write(name, content)
    with pytest.raises(UserError, match="^" + re.escape(f"{path}{place}: {message}")):
        read_pairs(path)


def test_broken_json_shows_a_line_as_it_should_be(write):
    with pytest.raises(UserError, match=re.escape('such as {"en": "...", "de": "..."}.')):
        read_pairs(write("a.jsonl", "["), source="en", target="de")


def test_unequal_numbers_of_lines_are_named(write):
    source, target = write("a.en", "a\nb\nc\n"), write("a.de", "d\ne\n")
    with pytest.raises(UserError, match="^" + re.escape(f"{source} has 3 lines, {target} has 2. Align them")):
        read_aligned(source, target)


@pytest.mark.parametrize("blank", ["a.en", "a.de"])
def test_a_blank_line_on_one_side_names_the_file_and_the_line(write, blank):
    paths = {name: write(name, "a\n \nc\n" if name == blank else "d\ne\nf\n") for name in ("a.en", "a.de")}
    (other,) = set(paths.values()) - {paths[blank]}
    message = f"{paths[blank]}, line 2: empty. Fill it in, or remove the line here and in {other}."
    with pytest.raises(UserError, match="^" + re.escape(message)):
        read_aligned(paths["a.en"], paths["a.de"])


def test_an_empty_and_a_missing_file_are_named(write, tmp_path):
    path = write("a.en", "a\n")
    with pytest.raises(UserError, match=r"a\.de: the file is empty"):
        read_aligned(path, write("a.de", "\n"))
    with pytest.raises(UserError, match=r"none\.de: no such file"):
        read_aligned(path, tmp_path / "none.de")


def test_sources_that_are_held_out_are_left_out_of_every_pair():
    examples = [Example(text, "x", key=text) for text in ("Two  dogs", "a cat", "A CAT ", "a bird")]
    held_out = [Example("two dogs", "y", "en-yor", key="two DOGS"), Example("fish", "z", "en-yor", key="fish")]
    kept, dropped = without_sources(examples, held_out)
    assert (kept, dropped) == (examples[1:], 1)
    assert without_sources(kept, held_out) == (kept, 0)
    assert without_sources(examples, examples) == ([], 4)


def test_the_empty_key_holds_nothing_out():
    examples = [Example("a", "x"), Example("b", "y", key="b")]
    assert without_sources(examples, [Example("c", "z")]) == (examples, 0)
