"""Checks of the fields of records: whatever is wrong is a `UserError` with the place and the remedy.

``place`` is where the record stands, such as "data.jsonl, line 3": messages begin with it.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_jax import strict_json
from fewshot_jax.data.names import normal_name
from fewshot_jax.errors import UserError

TASK_FIELD = "task"  # of the name of an example's task, which need not be given
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_field_names(place: str, noun: str, found: Iterable[str], fields: Mapping[str, str]) -> None:
    """Raise unless all `fields` (option that names it -> field name) are among `found`.

    An option that is the name itself says that the format fixes the name.
    """
    found = list(found)
    for option, name in fields.items():
        if name not in found:
            raise UserError(
                f"{place}: no {noun} '{name}'; there are {listed(found)}."
                + _did_you_mean(name, found)
                + " Rename it in the file"
                + ("." if option == name else f", or give the {noun}'s name as {option}.")
            )


def required(place: str, row: Mapping[str, Any], field: str) -> Any:
    """Return the value of a field whose name is fixed by the format; raises where it is missing."""
    if field not in row:
        raise UserError(f"{place}: no field '{field}'; there are {listed(row)}.{_did_you_mean(field, row)} Add it.")
    return row[field]


def string(place: str, field: str, value: object, unit: str = "line") -> str:
    """Return the stripped string; raises where it is none, or an empty one.

    Args:
        place: where the record stands.
        field: the name of the field.
        value: its value.
        unit: what the user may remove, as the message calls it.
    """
    if not isinstance(value, str):
        raise UserError(
            f"{place}: '{field}' is {kind(value)} where a string is needed. Write it in quotes, or remove the {unit}."
        )
    if not (value := value.strip()):
        raise UserError(f"{place}: '{field}' is empty. Fill it in or remove the {unit}.")
    check_characters(place, field, value)
    return value


def check_characters(place: str, field: str, value: object) -> None:
    """Raise if a field holds half of a surrogate pair, which JSON can escape, and no tokenizer or file takes.

    Args:
        place: where the record stands.
        field: the name of the field, looked at as well.
        value: a string, or whatever JSON can hold.
    """
    text = value if isinstance(value, str) else strict_json.dumps(value, f"{place}: '{field}'", ensure_ascii=False)
    if _SURROGATE.search(text) or _SURROGATE.search(field):
        raise UserError(
            f"{place}: '{field.encode(errors='backslashreplace').decode()}' holds half of a surrogate pair (\\ud800 to "
            "\\udfff). Write the character itself, or remove it."
        )


def name(place: str, field: str, value: object, unit: str = "line") -> str:
    """Return a label, group or id; integers, but not booleans, become strings."""
    return string(place, field, str(value) if type(value) is int else value, unit)


def task_of(place: str, row: Mapping[str, Any], field: str, path: Path) -> str:
    """Return the task that a row names; that of its file's name where it has no field of the usual name.

    Raises:
        UserError: another field was asked for, and is not there.
    """
    if field != TASK_FIELD:
        check_field_names(place, "field", row, {"data.task_field of the run's config": field})
    return normal_name(name(place, field, row[field]) if field in row else path.name.partition(".")[0])


def objects(place: str, field: str, value: object) -> list[dict[str, Any]]:
    """Return a list of JSON objects; raises where it is something else."""
    if not isinstance(value, list):
        raise UserError(f"{place}: '{field}' is {kind(value)} where a list of objects is needed. Write [{{...}}].")
    for number, member in enumerate(value, start=1):
        if not isinstance(member, dict):
            raise UserError(
                f"{place}: member {number} of '{field}' is {kind(member)} where an object is needed. Write {{...}}."
            )
    return value


def strings(place: str, field: str, value: object, unit: str = "line") -> list[str]:
    """Return the stripped strings of a list; raises where it is something else."""
    if not isinstance(value, list):
        raise UserError(f"{place}: '{field}' is {kind(value)} where a list of strings is needed. Write [\"...\"].")
    return [string(place, f"{field}[{number}]", member, unit) for number, member in enumerate(value)]


def kind(value: object) -> str:
    """Return what JSON calls a value, with its article."""
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return f"a {kinds[type(value)]}" if type(value) in kinds else "an object"


def listed(names: Iterable[str]) -> str:
    """Return names in quotes with commas between them."""
    return ", ".join(f"'{name}'" for name in names) or "none"


def _did_you_mean(name: str, found: Iterable[str]) -> str:
    near: Sequence[str] = difflib.get_close_matches(name, list(found), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
