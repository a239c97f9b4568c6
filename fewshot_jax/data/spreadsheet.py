"""What spreadsheets write into a CSV file beside the cells, and cells that they show and do not run.

A spreadsheet takes a cell that begins with one of a few characters for a formula, also where it stands in a CSV file
in quotes, and a formula can start programs and fetch addresses (OWASP, CSV Injection).
"""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any

DELIMITERS = (",", ";", "\t")
_SEPARATOR = re.compile(r'\s*"?sep=([^\w\s"]|\t)"?[,;\t]*(?=[\r\n])', re.IGNORECASE)
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

Cells = tuple[int, list[str]]  # the line on which a row starts, and its cells

# Tab, line feed and carriage return at the beginning are skipped by some programs, which then see what follows; those
# of East Asian width are taken for the narrow ones.
_STARTS = (*"=+-@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def encoding_of(data: bytes) -> str:
    """Return the encoding of a text file: UTF-16 where it begins with that byte order mark, else UTF-8."""
    return _MARKS.get(data[:2], "utf-8")


def without_separator(content: str) -> tuple[str, str | None]:
    """Return a CSV file's content without its first line ``sep=;``, and the delimiter which that names, or None.

    The line stays as a blank one, so that lines are counted as in the file.
    """
    match = _SEPARATOR.match(content)
    return (content, None) if match is None else (content[match.end() :], match[1])


def columns_of_csv(content: str) -> tuple[str, list[str]]:
    """Return what divides the columns of a CSV, and their names.

    That is what a first line ``sep=;`` says, else comma, semicolon or tab: whichever gives most columns.
    """
    content, given = without_separator(content)
    header = content[start_of_cells(content, given or "") :].partition("\n")[0].partition("\r")[0]
    try:
        found = {one: next(csv.reader([header], delimiter=one), []) for one in ([given] if given else DELIMITERS)}
    except csv.Error:  # too long for one
        return given or ",", []
    delimiter = max(found, key=lambda one: len(found[one]))
    return delimiter, [name.strip() for name in found[delimiter]]


def start_of_cells(content: str, delimiter: str = "") -> int:
    """Return where the first line begins that holds more than blank cells, in quotes or without."""
    blank = re.compile(rf'(?:[\s",;{re.escape(delimiter)}]*[\r\n])?')
    match = blank.match(content)
    return 0 if match is None else match.end()


def without_blank_end(cells: list[str], least: int = 0) -> list[str]:
    """Return the cells of a row without the blank ones at its end, which a spreadsheet writes for empty columns.

    Args:
        cells: of the row.
        least: how many stay, blank or not.
    """
    count = len(cells)
    while count > least and not cells[count - 1].strip():
        count -= 1
    return cells[:count]


def without_blank_rows(rows: Iterable[Cells], *, columns: int, inside: bool) -> Iterator[Cells]:
    """Yield numbered rows without those at the end whose cells are all blank, and without lines of nothing.

    In a file of one column a blank cell is a row that somebody wrote, such as ``""``, and stays at the end too.

    Args:
        rows: numbers of lines, and cells.
        columns: of the file; a blank row that stays has as many cells.
        inside: leave out all blank rows.
    """
    pending: list[Cells] = []
    for line, cells in rows:
        blank = not without_blank_end(cells)
        if blank and (inside or not cells):
            continue
        pending.append((line, [*cells, *[""] * (columns - len(cells))] if blank else cells))
        if not blank or columns == len(cells) == 1:
            yield from pending
            pending = []


def without_blank_columns(header: list[str], rows: list[Cells]) -> tuple[list[str], list[Cells]]:
    """Return a header and numbered rows without the columns that have neither a name nor a cell that is not blank."""
    used = {i for _, cells in rows for i, cell in enumerate(cells) if cell.strip()}
    blank = {i for i, name in enumerate(header) if not name and i not in used}

    def kept(cells: list[str]) -> list[str]:
        return [cell for i, cell in enumerate(cells) if i not in blank]

    return kept(header), [(line, kept(cells)) for line, cells in rows]


def safe_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV or TSV file: a text that could be a formula gets an apostrophe before it.

    Numbers, and texts that are nothing but a number such as "-3.5", stay as they are, and so does what is no text.

    Args:
        value: of the cell.
    """
    if isinstance(value, str) and value.startswith(_STARTS) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
