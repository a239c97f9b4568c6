"""Cells that a spreadsheet shows and does not run.

A spreadsheet takes a cell that begins with one of a few characters for a formula, also where it stands in a CSV file
in quotes, and a formula can start programs and fetch addresses (OWASP, CSV Injection).
"""

import re
from typing import Any

# Tab, line feed and carriage return at the beginning are skipped by some programs, which then see what follows; those
# of East Asian width are taken for the narrow ones.
_STARTS = (*"=+-@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def safe_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV or TSV file: a text that could be a formula gets an apostrophe before it.

    Numbers, and texts that are nothing but a number such as "-3.5", stay as they are, and so does what is no text.

    Args:
        value: of the cell.
    """
    if isinstance(value, str) and value.startswith(_STARTS) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
