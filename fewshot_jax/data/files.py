"""Rows of JSONL, CSV, TSV and plain text files, and the labelled texts and texts to predict in them.

Files are UTF-8, with or without a byte order mark, and may be gzipped. Whatever is wrong
with one is a `UserError` that names the file, the line (counted from 1) and the remedy.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from fewshot_jax.data.fields import check_fields, kind, listed, name, string
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

# Where the name of a field can be given.
_TEXT, _LABEL = "--text-field (in a config: data.text_field)", "--label-field (in a config: data.label_field)"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

# A row and the line on which it starts.
Row = tuple[int, dict[str, Any]]


def read_records(
    path: str | PurePath, *, text: str = "text", label: str = "label", group: str | None = None
) -> list[Record]:
    """Read labelled texts from a `.jsonl`, `.csv` or `.tsv` file, or a `.gz` of one.

    Texts, labels and groups are stripped. Integer labels become strings. Blank lines are
    skipped. CSV and TSV files start with a header and quote as spreadsheets do.

    Args:
        path: the file.
        text: the field (JSONL) or column (CSV, TSV) of the text.
        label: that of the label.
        group: that of the group; without it the groups are empty.

    Returns:
        The records in the order of the file; at least one.

    Raises:
        UserError: the file, or a line of it, cannot be read as labelled texts.
    """
    path = Path(path).expanduser()
    fields = {_TEXT: text, _LABEL: label}
    if group is not None:
        fields["data.group_field"] = group
    return [
        Record(
            string(f"{path}, line {line}", text, row[text]),
            name(f"{path}, line {line}", label, row[label]),
            "" if group is None else name(f"{path}, line {line}", group, row[group]),
        )
        for line, row in read_rows(path, fields)
    ]


def read_texts(
    path: str | PurePath, *, text: str = "text", option: str = _TEXT
) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the input of a prediction: what `read_records` reads, or `.txt`.

    A `.txt` file holds one text per line; its blank lines are refused, save the last
    ones, so that predictions stay aligned with the lines.

    Args:
        path: the file.
        text: the field or column of the text; for `.txt`, the key the rows get.
        option: that names it, for messages.

    Returns:
        (rows, texts): the rows with all their fields as they stand in the file, to be
        written out beside the predictions, and their stripped texts; at least one.

    Raises:
        UserError: the file, or a line of it, cannot be read.
    """
    path = Path(path).expanduser()
    numbered = list(read_rows(path, {option: text}, plain=True))
    texts = [string(f"{path}, line {line}", text, row[text]) for line, row in numbered]
    return [row for _, row in numbered], texts


def read_rows(path: Path, fields: Mapping[str, str], plain: bool = False) -> Iterator[Row]:
    """Yield the rows of a file and the lines, counted from 1, on which they start.

    Args:
        path: a `.jsonl`, `.csv` or `.tsv` file, or a `.gz` of one.
        fields: what every row must have: the option that names a field -> its name.
        plain: a `.txt` file is taken too; its rows have the one field of `fields`.

    Raises:
        UserError: the file, or a line of it, cannot be read, or lacks a field.
    """
    if path.is_dir():
        raise UserError(f"{path}: this is a directory. Name a file in it.")
    suffix = suffix_of(path)
    if suffix not in (".jsonl", *_DELIMITERS, *([".txt"] if plain else [])):
        texts = ", .txt (one text per line)" if plain else ""
        raise UserError(
            f"{path}: cannot read files of type '{suffix}'. Use .jsonl (one JSON object per "
            f"line), .csv, .tsv (with a header){texts}, or any of them with .gz."
        )
    content = read_text(path)
    if suffix == ".jsonl":
        rows = jsonl_rows(path, content, fields, json.dumps(dict.fromkeys(fields.values(), "...")))
    elif suffix == ".txt":
        (field,) = fields.values()
        rows = ((line, {field: text}) for line, text in plain_lines(content))
    else:
        rows = _delimited_rows(path, content, fields, _DELIMITERS[suffix])
    return rows


def suffix_of(path: PurePath) -> str:
    """Return a file's suffix in lower case, without a `.gz` at its end."""
    return PurePath(path.name.lower().removesuffix(".gz")).suffix


def read_text(path: Path) -> str:
    """Return the decoded content of a file, which is not blank, without its byte order mark.

    Raises:
        UserError: the file cannot be read, is empty, not UTF-8, or not whole.
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
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = "UTF-16" if data.startswith(_UTF16_MARKS) else f"byte 0x{data[error.start]:02x}"
        raise UserError(
            f"{path}, line {_line_at(data, error.start)}: not UTF-8 ({found} at byte offset "
            f"{error.start}). Re-encode the file as UTF-8, for example with "
            "`iconv -f ENCODING -t UTF-8`."
        ) from None
    # The csv module accepts NUL or not depending on the Python version: refuse it here.
    if (offset := data.find(0)) >= 0:
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


def jsonl_rows(path: Path, content: str, fields: Mapping[str, str], example: str) -> Iterator[Row]:
    """Yield the objects of JSONL with their lines; blank lines are skipped.

    Args:
        path: the file's name, for messages.
        content: its text.
        fields: as in `read_rows`.
        example: a line as it should be, for messages.

    Raises:
        UserError: a line is not a JSON object, or lacks a field.
    """
    for line, text in _lines(content):
        if not text.strip():
            continue
        try:
            row = json.loads(text.rstrip())
        except (json.JSONDecodeError, RecursionError) as error:
            place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(
                f"{path}, line {line}: broken JSON{place} ({getattr(error, 'msg', error)}). "
                f"Write one object per line, such as {example}."
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {line}: {kind(row)} where an object is needed. "
                f"Write one object per line, such as {example}."
            )
        check_fields(f"{path}, line {line}", "field", row, fields)
        yield line, row


def _delimited_rows(path: Path, content: str, fields: Mapping[str, str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line, count = 1, 0  # a row may span lines: `line` is the one on which it starts
    try:
        for row in reader:
            if not row:  # a blank line
                pass
            elif not header:
                header = [column.strip() for column in row]
                if repeated := sorted({c for c in header if header.count(c) > 1}):
                    raise UserError(
                        f"{path}, line {line}: the header repeats {listed(repeated)}. Give every column its own name."
                    )
                check_fields(f"{path}, line {line}", "column", header, fields)
            elif len(row) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(row)} columns where the header has "
                    f"{len(header)} ({listed(header)}). Put double quotes around a value that "
                    f"contains the delimiter {delimiter!r}, and fill in missing values."
                )
            else:
                count += 1
                yield line, dict(zip(header, row, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: the row that starts here is not valid ({error}). A value that "
            "begins with a double quote must end with one; double the quotes inside it."
        ) from None
    if not count:
        raise UserError(f"{path}: only a header, no rows. Add at least one row below it.")


def plain_lines(content: str) -> Iterator[tuple[int, str]]:
    """Yield the stripped lines of a text with their numbers; blank lines at its end are left out."""
    for line, text in _lines(content.rstrip()):
        yield line, text.strip()
