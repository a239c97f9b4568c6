"""Rows of JSONL, CSV, TSV and plain text files, and the labelled texts and texts to predict in them.

Files are UTF-8, with or without a byte order mark, or UTF-16 with one, and may be gzipped. Whatever is wrong
with one is a `UserError` that names the file, the line (counted from 1) and the remedy.
Readers of rows raise the first; given a list of `problems`, they put there what is wrong
with single rows, and leave those out.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

from fewshot_jax import strict_json
from fewshot_jax.data.fields import check_characters, check_field_names, kind, listed, name, string
from fewshot_jax.data.records import Record
from fewshot_jax.data.spreadsheet import (
    DELIMITERS,
    Cells,
    columns_of_csv,
    encoding_of,
    without_blank_columns,
    without_blank_end,
    without_blank_rows,
    without_separator,
)
from fewshot_jax.errors import UserError

# Where the name of a field can be given.
_TEXT, _LABEL = "--text-field (in a config: data.text_field)", "--label-field (in a config: data.label_field)"
_DELIMITED, _SHEETS = (".csv", ".tsv"), (".xlsx", ".xls", ".ods")

# A row and the line on which it starts.
FileRow = tuple[int, dict[str, Any]]
Problems = list[UserError]
Made = TypeVar("Made")


def read_records(
    path: str | PurePath,
    *,
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    problems: Problems | None = None,
) -> list[Record]:
    """Read labelled texts from a `.jsonl`, `.csv` or `.tsv` file, or a `.gz` of one.

    Texts, labels and groups are stripped. Integer labels become strings. Blank lines are
    skipped. CSV and TSV files start with a header and are written as spreadsheets write
    them: see `spreadsheet` for delimiters, a first line ``sep=;`` and blank cells and rows.

    Args:
        path: the file.
        text: the field (JSONL) or column (CSV, TSV) of the text.
        label: that of the label.
        group: that of the group; without it the groups are empty.
        problems: gets what is wrong with single rows; None to raise the first.

    Returns:
        The records in the order of the file; at least one.

    Raises:
        UserError: the file, or a line of it, cannot be read as labelled texts.
    """
    path = Path(path).expanduser()
    if text == label:
        raise UserError(f"{path}: '{text}' is to be both the text and the label; name two different fields")
    fields = {_TEXT: text, _LABEL: label}
    if group is not None:
        fields["data.group_field"] = group

    def record(line: int, row: dict[str, Any]) -> Record:
        place = f"{path}, line {line}"
        return Record(
            string(place, text, row[text]),
            name(place, label, row[label]),
            "" if group is None else name(place, group, row[group]),
        )

    return each(read_rows(path, fields, problems=problems), record, problems)


def each(
    rows: Iterable[FileRow], make: Callable[[int, dict[str, Any]], Made], problems: Problems | None = None
) -> list[Made]:
    """Return what ``make(line, row)`` gives for each row; those it refuses are raised, or noted and left out.

    Raises:
        UserError: a row is refused, and there are no `problems` to note it in.
    """
    made = []
    for line, row in rows:
        try:
            made.append(make(line, row))
        except UserError as error:
            note(problems, error)
    return made


def note(problems: Problems | None, error: UserError) -> None:
    """Put an error among the problems of a file, or raise it where nobody collects them."""
    if problems is None:
        raise error
    problems.append(error)


def read_texts(
    path: str | PurePath, *, text: str = "text", option: str = _TEXT, blanks: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the input of a prediction: what `read_records` reads, or `.txt`.

    A `.txt` file holds one text per line. Its blank lines are rows as well, save the last ones, so that
    predictions stay aligned with the lines; so are the blank rows of a CSV or TSV, see `without_blank_rows`.

    Args:
        path: the file.
        text: the field or column of the text; for `.txt`, the key the rows get.
        option: that names it, for messages.
        blanks: take a row whose text is blank, or null, as one of "", where it would be refused.

    Returns:
        (rows, texts): the rows with all their fields as they stand in the file, to be
        written out beside the predictions, and their stripped texts; at least one.

    Raises:
        UserError: the file, or a line of it, cannot be read.
    """
    path = Path(path).expanduser()
    numbered = list(read_rows(path, {option: text}, plain=True, blank_rows=True))

    def given(line: int, value: Any) -> str:
        if blanks and (value is None or (isinstance(value, str) and not value.strip())):
            return ""
        return string(f"{path}, line {line}", text, value)

    return [row for _, row in numbered], [given(line, row[text]) for line, row in numbered]


def read_rows(
    path: Path,
    fields: Mapping[str, str],
    plain: bool = False,
    problems: Problems | None = None,
    blank_rows: bool = False,
) -> Iterator[FileRow]:
    """Yield the rows of a file and the lines, counted from 1, on which they start.

    Args:
        path: a `.jsonl`, `.csv` or `.tsv` file, or a `.gz` of one.
        fields: what every row must have: the option that names a field -> its name.
        plain: a `.txt` file is taken too; its rows have the one field of `fields`.
        problems: gets what is wrong with single rows; None to raise the first.
        blank_rows: of a CSV or TSV, yield rows of blank cells too, see `without_blank_rows`.

    Raises:
        UserError: the file, or a line of it, cannot be read, or lacks a field.
    """
    if path.is_dir():
        raise UserError(f"{path}: this is a directory. Name a file in it.")
    suffix = suffix_of(path)
    if suffix not in (".jsonl", *_DELIMITED, *([".txt"] if plain else [])):
        texts = ", .txt (one text per line)" if plain else ""
        sheet = " A spreadsheet saves a sheet as 'CSV UTF-8'." if suffix in _SHEETS else ""
        raise UserError(
            f"{path}: cannot read files of type '{suffix}'. Use .jsonl (one JSON object per "
            f"line), .csv, .tsv (with a header){texts}, or any of them with .gz.{sheet}"
        )
    content = read_text(path)
    if suffix == ".jsonl":
        rows = jsonl_rows(path, content, fields, strict_json.dumps(dict.fromkeys(fields.values(), "...")), problems)
    elif suffix == ".txt":
        (field,) = fields.values()
        rows = ((line, {field: text}) for line, text in plain_lines(content))
    else:
        content, given = without_separator(content)
        delimiter = given or ("\t" if suffix == ".tsv" else columns_of_csv(content)[0])
        rows = _delimited_rows(path, content, fields, delimiter, problems, blank_rows)
    return rows


def suffix_of(path: PurePath) -> str:
    """Return a file's suffix in lower case, without a `.gz` at its end."""
    return PurePath(path.name.lower().removesuffix(".gz")).suffix


def read_text(path: Path) -> str:
    """Return the decoded content of a file, which is not blank, without its byte order mark.

    Raises:
        UserError: the file cannot be read, is empty, neither UTF-8 nor UTF-16, or not whole.
    """
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a directory. Name a file in it.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: not a whole gzip file ({error}). Compress it again, or rename it if it is not compressed."
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Expected a file; check the path and its permissions."
        ) from None
    try:
        content = data.decode(encoding := encoding_of(data))
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise UserError(
                f"{path}: begins as UTF-16 and is not ({error.reason} at byte offset {error.start}). Save the file "
                "again, as UTF-8 (in a spreadsheet: 'CSV UTF-8')."
            ) from None
        raise UserError(
            f"{path}, line {_line_at(data, error.start)}: not UTF-8 (byte 0x{data[error.start]:02x} at byte offset "
            f"{error.start}). Re-encode the file as UTF-8, for example with "
            "`iconv -f ENCODING -t UTF-8`, or save it as 'CSV UTF-8' in a spreadsheet."
        ) from None
    # The csv module accepts NUL or not depending on the Python version: refuse it here.
    if (offset := data.find(0) if encoding == "utf-8" else content.find("\0")) >= 0:
        raise UserError(
            f"{path}, line {_line_at(data, offset)}: NUL byte at byte offset {offset}. Is this "
            "a text file? Remove the byte, or re-encode the file as UTF-8."
        )
    content = content.removeprefix("\ufeff")
    if not content.strip():
        raise UserError(f"{path}: the file is empty. Give it at least one row.")
    return content


def _line_at(data: bytes, offset: int) -> int:
    return len(re.findall(rb"\r\n|\r|\n", data[:offset])) + 1


def _lines(content: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines, which also splits at U+2028 and others that JSON strings may hold.
    return enumerate(io.StringIO(content, newline=None), start=1)


def jsonl_rows(
    path: Path, content: str, fields: Mapping[str, str], example: str, problems: Problems | None = None
) -> Iterator[FileRow]:
    """Yield the objects of JSONL with their lines; blank lines are skipped.

    Args:
        path: the file's name, for messages.
        content: its text.
        fields: as in `read_rows`.
        example: a line as it should be, for messages.
        problems: as in `read_rows`.

    Raises:
        UserError: a line is not a JSON object, or lacks a field.
    """
    for line, text in _lines(content):
        if not text.strip():
            continue
        try:
            row = _json_object(f"{path}, line {line}", text.rstrip(), example)
            if "\\ud" in text.lower():  # the escape of a surrogate: what is read may be written again
                for field, value in row.items():
                    check_characters(f"{path}, line {line}", field, value)
            check_field_names(f"{path}, line {line}", "field", row, fields)
        except UserError as error:
            note(problems, error)
        else:
            yield line, row


def _json_object(place: str, text: str, example: str) -> dict[str, Any]:
    try:
        row = strict_json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(
            f"{place}: broken JSON{column} ({getattr(error, 'msg', error)}). Write one object per line, such as "
            f"{example}."
        ) from None
    if not isinstance(row, dict):
        raise UserError(
            f"{place}: {kind(row)} where an object is needed. Write one object per line, such as {example}."
        )
    return row


def _delimited_rows(
    path: Path, content: str, fields: Mapping[str, str], delimiter: str, problems: Problems | None, blank_rows: bool
) -> Iterator[FileRow]:
    header, rows = _with_header(path, _cells(path, content, delimiter, problems), fields, delimiter)
    count = 0
    for line, cells in without_blank_rows(rows, columns=len(header), inside=not blank_rows):
        count += 1
        cells = without_blank_end(cells, len(header))
        if len(cells) == len(header):
            yield line, dict(zip(header, cells, strict=True))
            continue
        wrong = UserError(
            f"{path}, line {line}: {len(cells)} columns where the header has {len(header)} ({listed(header)}). Put "
            f"double quotes around a value that contains the delimiter {delimiter!r}, and fill in missing values."
        )
        note(problems, wrong)
    if not count and not problems:
        raise UserError(f"{path}: only a header, no rows. Add at least one row below it.")


def _with_header(
    path: Path, rows: Iterator[Cells], fields: Mapping[str, str], delimiter: str
) -> tuple[list[str], Iterable[Cells]]:
    """Return the names of the columns, which the first row that is not blank holds, and the rows below it."""
    line, header = next(((line, found) for line, cells in rows if (found := without_blank_end(cells))), (1, []))
    header = [column.strip() for column in header]
    below: Iterable[Cells] = rows
    if "" in header:
        header, below = without_blank_columns(header, list(rows))
    if header:
        _check_header(f"{path}, line {line}", header, fields, delimiter)
    return header, below


def _cells(path: Path, content: str, delimiter: str, problems: Problems | None) -> Iterator[Cells]:
    """Yield the cells of each row and the line on which it starts: a row may span lines."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        note(problems, _broken_row(path, line, error, delimiter))


def _broken_row(path: Path, line: int, error: csv.Error, delimiter: str) -> UserError:
    if "field larger than field limit" in str(error):
        return UserError(
            f"{path}, line {line}: the row that starts here has a value of more than {csv.field_size_limit():,} "
            f"characters. Is a double quote before it left open, or the delimiter not {delimiter!r}? Shorten the "
            "value, or write the file as .jsonl, which has no limit."
        )
    return UserError(
        f"{path}, line {line}: the row that starts here is not valid ({error}). A value that "
        "begins with a double quote must end with one; double the quotes inside it."
    )


def _check_header(place: str, header: list[str], fields: Mapping[str, str], delimiter: str) -> None:
    """Raise unless a header names each column once, and the needed ones among them."""
    if len(unnamed := [str(i) for i, column in enumerate(header, start=1) if not column]) > 1:
        raise UserError(
            f"{place}: columns {' and '.join(unnamed)} have cells, and no name in the header. Name them there, or "
            "delete them."
        )
    if repeated := sorted({c for c in header if header.count(c) > 1}):
        raise UserError(f"{place}: the header repeats {listed(repeated)}. Give every column its own name.")
    if len(header) == 1 and (found := next((c for c in ",;\t|" if c != delimiter and c in header[0]), None)):
        other = ""
        if found in DELIMITERS:  # only the suffix .tsv or a first line "sep=" keeps a file from being divided by it
            other = ", or name the file .csv" if delimiter == "\t" else f", or correct the first line 'sep={delimiter}'"
        raise UserError(
            f"{place}: the header is one column, {listed(header)}, and seems to be divided by {found!r}. Divide the "
            f"columns by {delimiter!r}{other}."
        )
    check_field_names(place, "column", header, fields)


def plain_lines(content: str) -> Iterator[tuple[int, str]]:
    """Yield the stripped lines of a text with their numbers; blank lines at its end are left out."""
    for line, text in _lines(content.rstrip()):
        yield line, text.strip()
