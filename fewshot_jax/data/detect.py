"""Which application a file of examples is for, by its columns."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath

from fewshot_jax import strict_json
from fewshot_jax.config.applications import ApplicationRecord, columns_of_files
from fewshot_jax.data.fields import kind, listed
from fewshot_jax.data.files import jsonl_rows, read_rows, read_text, suffix_of
from fewshot_jax.data.spreadsheet import start_of_cells, without_separator
from fewshot_jax.data.squad import read_json
from fewshot_jax.errors import UserError

Needs = Mapping[str, tuple[tuple[str, ...], ...]]  # by application; see `ApplicationRecord.columns`
_EXAMPLE = '{"text": "...", "label": "..."}'


def detect_application(
    path: str | PurePath,
    applications: Mapping[str, ApplicationRecord],
    *,
    text: str = "text",
    label: str = "label",
    prefer: str | None = None,
    flag: str | None = None,
) -> str:
    """Return the name of the application whose columns a file has, or the field at the top of its JSON.

    The columns are those of the header (CSV, TSV) or the fields of the first line (JSONL); no other row is checked.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl` or `.json` file, or a `.gz` of one.
        applications: to choose from, with the columns of each.
        text: the column of the text of a classification, where the user has named another.
        label: that of the label.
        prefer: the application to take where several fit.
        flag: of the command line, by which the user can say which.

    Raises:
        UserError: the file cannot be read, or its columns are those of no application, or of several.
    """
    path = Path(path).expanduser()
    if suffix_of(path) == ".json":
        return _of_json(path, applications)
    columns = columns_of(path)
    needs = columns_of_files(applications, text=text, label=label)
    fitting = [name for name, places in needs.items() if all(set(place) & set(columns) for place in places)]
    if prefer in fitting:
        fitting = [prefer]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{path}: has the columns of {' and of '.join(fitting)} ({listed(columns)}). "
            f"{f'Say which by {flag}, or remove' if flag else 'Remove'} the columns of the others."
        )
    raise UserError(
        f"{path}, line {_first_line(path)}: its columns are {listed(columns)}, which fit no application: "
        f"{_needed(needs)}.{_near(columns, needs)} Rename them in the file, whose first row names the columns, "
        "or give --text-field and --label-field."
    )


def _first_line(path: Path) -> int:
    """Return the number of the first line that is not blank: of the header, or of the first object."""
    content, delimiter = without_separator(read_text(path))
    return len(content[: start_of_cells(content, delimiter or "")].splitlines()) + 1


def columns_of(path: Path) -> list[str]:
    """Return the columns of a file's header, or the fields of its first object.

    Raises:
        UserError: the file, or its first row, cannot be read.
    """
    if suffix_of(path) == ".jsonl":
        rows = jsonl_rows(path, read_text(path), {}, _EXAMPLE)
    else:
        rows = read_rows(path, {})
    return list(next(rows)[1])


def _of_json(path: Path, applications: Mapping[str, ApplicationRecord]) -> str:
    content = _json_of(path)
    for name, record in applications.items():
        if record.json_field is not None and record.json_field in content:
            return name
    raise UserError(
        f"{path}: its fields are {listed(content)}, and not SQuAD's 'data'. Write one object per line in a .jsonl "
        f"file: {_needed(columns_of_files(applications))}."
    )


def _json_of(path: Path) -> Mapping[str, object]:
    """Return the JSON object of a file; of a list, say how it becomes a file that can be read."""
    content = read_text(path)
    if content.lstrip().startswith("["):
        try:
            found = kind(strict_json.loads(content))
        except (json.JSONDecodeError, RecursionError):
            return read_json(path)  # which says where it is broken
        raise UserError(
            f"{path}: {found} where SQuAD's object is needed. Write its members into a .jsonl file, one object per "
            "line, for example with `jq -c '.[]'`."
        )
    return read_json(path)


def _needed(needs: Needs) -> str:
    """Return what each application needs, in words."""
    told = (f"{name} needs {', '.join(' or '.join(place) for place in places)}" for name, places in needs.items())
    return "; ".join(told)


def _near(columns: list[str], needs: Needs) -> str:
    """Return a guess at the first column that is almost a needed one."""
    wanted = [name for places in needs.values() for place in places for name in place]
    for column in columns:
        if column not in wanted and (near := difflib.get_close_matches(column.casefold(), wanted, n=1, cutoff=0.75)):
            return f" There is no column '{near[0]}'. Did you mean '{column}'?"
    return ""
