"""JSON that every program can read: NaN and infinity are no values of it."""

import json
import math
from collections.abc import Mapping
from typing import Any

from fewshot_jax.errors import UserError

DIVERGED = "A loop that diverges (lower inner.rate) or damaged weights give such numbers."


def dumps(value: Any, where: object = "JSON", cause: str = "Leave it out, or write null.", **options: Any) -> str:
    """Return a value as JSON.

    Args:
        value: of dicts, lists, strings, numbers, booleans and None.
        where: it goes, for the message: a file, or the name of the output.
        cause: of such a number, and the remedy, for the message; `DIVERGED` for scores and what a loop has computed.
        options: of `json.dumps`.

    Raises:
        UserError: a number in it is not finite.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError as error:
        place = not_finite(value)
        if place is None:
            raise
        raise UserError(
            f"{where}: {place[0] or 'the value'} is {place[1]}. Expected a finite number; nothing is written. {cause}"
        ) from error


def loads(text: str) -> Any:
    """Return the value of JSON; NaN and infinity, which Python's json writes, are read as null, and so is 1e999."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def not_finite(value: Any, place: str = "") -> tuple[str, float] | None:
    """Find the first number that is not finite: its place, such as ``scores.adapted[2]``, and the number."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (place, value)
    members: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        members = [(f"{place}.{name}" if place else str(name), member) for name, member in value.items()]
    elif isinstance(value, list | tuple):
        members = [(f"{place}[{i}]", member) for i, member in enumerate(value)]
    return next((found for name, member in members if (found := not_finite(member, name)) is not None), None)
