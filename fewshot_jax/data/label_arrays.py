"""Arrays of labels and groups that a caller gives: one number or string for each item."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewshot_jax.errors import UserError


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raise a UserError unless arrays have one entry for each of the same items.

    Args:
        lengths: entries of each array, by its name; the first is compared with the others.
    """
    (first, items), *others = lengths.items()
    for name, count in others:
        if count != items:
            raise UserError(
                f"'{name}' has {count} entries, but '{first}' has {items}. Expected one for each item; give arrays of "
                "equal length."
            )


def checked_classes(values: np.ndarray, name: str = "label") -> np.ndarray:
    """The labels or groups of items as an array ``[n]`` of numbers or strings, none of them NaN."""
    values = np.asarray(values)
    if values.ndim == 1 and values.dtype.kind in "OT":  # a column of strings from pandas, or of NumPy's StringDType
        values = _of_one_type(values.tolist(), name)
    if values.ndim != 1 or values.dtype.kind not in "iufbUS":
        raise UserError(
            f"'{name}' has shape {values.shape} and dtype {values.dtype}. Expected one number or string for each item, "
            "[n]; convert them, for example with np.array(list_of_str)."
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        item = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(
            f"'{name}' of item {item} is {values[item]}. Expected a class for each item; fill it in, or leave it out."
        )
    return values


def _of_one_type(values: list[Any], name: str) -> np.ndarray:
    """An array of Python objects that are all strings, or all numbers of one type.

    Raises:
        UserError: one of them is something else.
    """
    known = next((kind for kind in (str, bool, int, float) if values and isinstance(values[0], kind)), str)
    for item, value in enumerate(values):
        if not isinstance(value, known) or isinstance(value, bool) != (known is bool):
            raise UserError(
                f"'{name}' of item {item} is {value!r}, of the type {type(value).__name__}. Expected strings, or "
                "numbers of one type, for all items; fill it in, convert it, or leave the item out."
            )
    return np.array(values, known)
