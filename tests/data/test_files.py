"""Reading labelled texts and prediction inputs: what is accepted, and how mistakes read."""

import gzip
import json
import re

import pytest

from fewshot_jax.config.applications import APPLICATION_RECORDS
from fewshot_jax.data.detect import detect_application
from fewshot_jax.data.files import read_records, read_texts
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

EXPECTED = [Record("hello there", "greet"), Record("see you", "leave")]
CONTENTS = {
    "a.jsonl": '{"text": " hello there ", "label": "greet"}\n\n{"text": "see you", "label": "leave"}',
    "a.csv": 'text,label\n" hello there ",greet\n\nsee you, leave \n',
    "a.tsv": "label\ttext\ngreet\thello there\nleave\tsee you\n",
}


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.mark.parametrize("name", CONTENTS)
def test_all_formats_give_the_same_records(write, name):
    assert read_records(write(name, CONTENTS[name])) == EXPECTED


@pytest.mark.parametrize("name", CONTENTS)
def test_gzip_and_a_byte_order_mark_change_nothing(write, name):
    data = b"\xef\xbb\xbf" + CONTENTS[name].encode()
    assert read_records(write(name, data)) == EXPECTED
    assert read_records(write(name.upper() + ".gz", gzip.compress(data))) == EXPECTED


def test_fields_can_be_renamed_and_integer_labels_become_strings(write):
    path = write("a.jsonl", '{"q": "ça va", "intent": 3, "domain": "talk", "n": null}\n')
    assert read_records(path, text="q", label="intent", group="domain") == [Record("ça va", "3", "talk")]


def test_a_json_string_may_hold_unicode_line_separators(write):
    path = write("a.jsonl", '{"text": "a\u2028b", "label": "x"}\n{"text": "c", "label": "y"}')
    assert [record.text for record in read_records(path)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("a.txt", "hello", "", "cannot read files of type '.txt'. Use .jsonl"),
        ("a.json", "[]", "", "cannot read files of type '.json'"),
        ("a.jsonl", "", "", "the file is empty"),
        ("a.csv", " \n\n", "", "the file is empty"),
        ("a.csv", "text,label\n\n", "", "only a header, no rows"),
        ("a.jsonl", '\n{"text": "a",}', ", line 2", "broken JSON at column"),
        ("a.jsonl", "[" * 100_000, ", line 1", "broken JSON"),
        ("a.jsonl", '["a", "b"]', ", line 1", "a list where an object is needed"),
        ("a.jsonl", "null", ", line 1", "null where an object is needed"),
        (
            "a.jsonl",
            '{"texts": "a", "label": "b"}',
            ", line 1",
            "no field 'text'; there are 'texts', 'label'. Did you mean 'texts'? Rename it in",
        ),
        (
            "a.csv",
            "text,lable\na,b\n",
            ", line 1",
            "no column 'label'; there are 'text', 'lable'. Did you mean 'lable'? Rename it in",
        ),
        ("a.csv", "text,label\na,b\nc\n", ", line 3", "1 columns where the header has 2"),
        ("a.csv", "text,label\na,b,c\n", ", line 2", "3 columns where the header has 2"),
        ("a.csv", "text,label,text\n", ", line 1", "the header repeats 'text'"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', ", line 3", "the row that starts here"),
        ("a.tsv", 'text\tlabel\n"a" b\tc\n', ", line 2", "the row that starts here is not valid"),
        ("a.csv", "text,label\n  ,b\n", ", line 2", "'text' is empty. Fill it in"),
        ("a.csv", "text,label\na,\n", ", line 2", "'label' is empty. Fill it in"),
        ("a.jsonl", '{"text": "a", "label": null}', ", line 1", "'label' is null where a string"),
        ("a.jsonl", '{"text": "a", "label": ["b"]}', ", line 1", "'label' is a list where"),
        ("a.jsonl", '{"text": "a", "label": true}', ", line 1", "'label' is a boolean where"),
        ("a.jsonl", '{"text": 1, "label": "b"}', ", line 1", "'text' is a number where a string"),
        (
            "a.jsonl",
            '{"text": "\\ud83d", "label": "b"}',
            ", line 1",
            "'text' holds half of a surrogate pair",
        ),
        (
            "a.csv",
            b"text,label\r\na,b\r\ncaf\xe9,d\r\n",
            ", line 3",
            "not UTF-8 (byte 0xe9 at byte offset 20). Re-encode",
        ),
        ("a.csv", "text,label\na,b\n".encode("utf-16")[:-1], "", "begins as UTF-16 and is not (truncated data"),
        ("a.csv", "text,label\na,b\0\n", ", line 2", "NUL byte at byte offset 14"),
        ("a.csv.gz", b"text,label\na,b\n", "", "not a whole gzip file"),
        ("a.csv.gz", gzip.compress(b"text,label\na,b\n" * 9, mtime=0)[:-9], "", "not a whole gzip file"),
    ],
)
def test_a_mistake_names_the_file_the_line_and_the_remedy(write, name, content, place, message):
    path = write(name, content)
    with pytest.raises(UserError, match="^" + re.escape(f"{path}{place}: {message}")):
        read_records(path)


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_records(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"folder\.csv: this is a directory"):
        read_records(tmp_path / "folder.csv")


def test_lines_are_counted_through_mixed_newlines_and_quoted_newlines(write):
    rows = ["text,label\r\n", '"two\r\nlines, ""quoted""",a\n', "\r\n", '"x\ny",b\r\n', ",c\n"]
    path = write("a.csv", "".join(rows[:-1]))
    assert read_records(path) == [Record('two\r\nlines, "quoted"', "a"), Record("x\ny", "b")]
    with pytest.raises(UserError, match="line 7: 'text' is empty"):
        read_records(write("b.csv", "".join(rows)))
    with pytest.raises(UserError, match="line 5: 1 columns"):  # the row's first line
        read_records(write("c.csv", "".join(rows[:3]) + '"x\ny"\r\n'))
    with pytest.raises(UserError, match="line 4: a number"):
        read_records(write("d.jsonl", '{"text": "a", "label": "b"}\r\n\n\r\n7\n'))


@pytest.mark.parametrize("field", ["text", "label", "group"])
def test_a_missing_column_names_its_option(write, field):
    path = write("a.csv", CONTENTS["a.csv"])
    with pytest.raises(UserError, match=rf"no column 'x'; .*give the column's name as .*data\.{field}_field"):
        read_records(path, **{field: "x"})


def test_prediction_input_keeps_every_field_beside_its_text(write):
    row = {"id": 7, "text": " hi ", "tags": ["a", None]}
    assert read_texts(write("a.jsonl", json.dumps(row))) == ([row], ["hi"])
    rows, texts = read_texts(write("a.tsv", "id\tq\n7\thi\n"), text="q")
    assert (rows, texts) == ([{"id": "7", "q": "hi"}], ["hi"])
    rows, texts = read_texts(write("a.txt", "hi, you\r\n bye \n\n"))
    assert (rows, texts) == ([{"text": "hi, you"}, {"text": "bye"}], ["hi, you", "bye"])


def test_prediction_input_stays_aligned_with_its_lines(write):
    with pytest.raises(UserError, match=r"a\.txt, line 2: 'text' is empty"):
        read_texts(write("a.txt", "hi\n\nbye\n"))
    assert read_texts(write("a.txt", "hi\n\nbye\n"), blanks=True)[1] == ["hi", "", "bye"]
    assert read_texts(write("a.jsonl", '{"text": null}\n{"text": " "}\n'), blanks=True)[1] == ["", ""]
    with pytest.raises(UserError, match="'text' is a number"):
        read_texts(write("a.jsonl", '{"text": 5}\n'), blanks=True)
    with pytest.raises(UserError, match=r"a\.doc: cannot read files of type '\.doc'.*\.txt"):
        read_texts(write("a.doc", "hi"))


# Blank columns, and blank rows inside and at the end.
SHEET = "text,label,note,,\r\na,b,n,,\r\n,,,,\r\nc,d,\r\n,,\r\n,\r\n"


def test_blank_cells_and_rows_of_a_spreadsheet_hold_nothing(write):
    path = write("a.csv", SHEET)
    assert read_records(path) == [Record("a", "b"), Record("c", "d")]
    assert read_texts(path, blanks=True) == (
        [
            {"text": "a", "label": "b", "note": "n"},
            {"text": "", "label": "", "note": ""},
            {"text": "c", "label": "d", "note": ""},
        ],
        ["a", "", "c"],
    )


@pytest.mark.parametrize("blank", [",,", "", " , ", '"",""', "  "])
def test_blank_rows_before_the_header_are_none_of_the_file(write, blank):
    path = write("a.csv", f"{blank}\n{blank}\ntext,label,\na,b,\n")
    assert read_records(path) == [Record("a", "b")]
    assert read_texts(path, blanks=True) == ([{"text": "a", "label": "b"}], ["a"])
    with pytest.raises(UserError, match=r"a\.csv, line 3: no column 'note'"):
        read_texts(path, text="note")
    with pytest.raises(UserError, match=r"a\.csv, line 3: its columns are 'words', 'label'"):
        detect_application(write("a.csv", f"{blank}\n{blank}\nwords,label,\na,b,\n"), APPLICATION_RECORDS)


def test_a_blank_line_of_spaces_is_a_row_of_blank_cells(write):
    rows, texts = read_texts(write("a.csv", "id,text\n1,a\n  \n3,c\n"), blanks=True)
    assert (rows[1], texts) == ({"id": "  ", "text": ""}, ["a", "", "c"])


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\na\n""\nb\n""\n', ["a", "", "b", ""]),
        ('text\na\n""\n""\n\n', ["a", "", ""]),
        ("text\na\n\nb\n\n", ["a", "b"]),
        ("text,\na,\n,\nb,\n,\n", ["a", "", "b"]),
    ],
)
def test_a_blank_cell_of_a_file_of_one_column_is_a_row_at_its_end_too(write, content, texts):
    assert read_texts(write("a.csv", content), blanks=True)[1] == texts


def test_rows_to_predict_from_are_never_left_out_without_a_word(write):
    with pytest.raises(UserError, match=r"a\.csv, line 3: 'text' is empty"):
        read_texts(write("a.csv", 'text\na\n""\nb\n'))


def test_columns_of_nothing_inside_a_sheet_are_left_out(write):
    assert read_texts(write("a.csv", ",text,,label\n,a,,b\n\n,c, ,d\n"))[0] == [
        {"text": "a", "label": "b"},
        {"text": "c", "label": "d"},
    ]
    assert read_texts(write("a.csv", ",text,,label\n7,a,,b\n"))[0] == [{"": "7", "text": "a", "label": "b"}]
    with pytest.raises(
        UserError, match=r"a\.csv, line 1: columns 1 and 3 have cells, and no name in the header\. Name"
    ):
        read_texts(write("a.csv", ",text,,label\n7,a,8,b\n"))


@pytest.mark.parametrize(
    ("content", "line", "columns"),
    [
        (SHEET.replace("n,,", "n,,x"), 2, 5),
        (SHEET.replace("c,d,", "c,d"), 4, 2),
        ("sep=;\ntext;label\na;b\nc;d;e\n", 4, 3),
        ("sep=;\ntext;label\na;b\nc\n", 4, 1),
    ],
)
def test_a_cell_too_many_or_a_needed_one_too_few_names_the_line_of_the_sheet(write, content, line, columns):
    with pytest.raises(UserError, match=rf"a\.csv, line {line}: {columns} columns where the header has"):
        read_records(write("a.csv", content))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("told", [True, False])
def test_each_dialect_of_a_spreadsheet_gives_the_same_records(write, encoding, delimiter, told):
    rows = [["text", "label"], ["hello; there, you\t|", "greet"], ["see\nyou", "leave"]]
    body = "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    content = (f"sep={delimiter}\r\n" if told else "") + body
    path = write("a.csv", content.encode(encoding))
    if delimiter == "|" and not told:
        with pytest.raises(UserError, match=r"a\.csv, line 1: "):
            read_records(path)
    else:
        assert read_records(path) == [Record("hello; there, you\t|", "greet"), Record("see\nyou", "leave")]
