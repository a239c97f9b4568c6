"""Values of a GGUF file's metadata, each checked to be of the kind that is expected."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import AGAIN, GGUFFile, quote

REQUIRED: Any = object()  # the default of a value that must be there


def integer(file: GGUFFile, key: str, default: Any = REQUIRED) -> Any:
    """An integer that is not negative."""
    return _value(file, key, default, "an integer", lambda value: type(value) is int and 0 <= value < 2**31)


def token_id(file: GGUFFile, key: str) -> int | None:
    """The id of a token; None where there is none, which llama.cpp also writes as -1 in 32 bits."""
    value = file.metadata.get(key)
    return None if type(value) is int and value in (-1, 2**32 - 1) else integer(file, key, None)


def natural(file: GGUFFile, key: str, default: Any = REQUIRED) -> Any:
    """An integer of at least 1."""
    return _value(
        file, key, default, "an integer of at least 1", lambda value: type(value) is int and 0 < value < 2**31
    )


def number(file: GGUFFile, key: str, default: Any = REQUIRED) -> Any:
    """A finite number that is not negative."""
    return _value(
        file, key, default, "a number", lambda value: type(value) in (int, float) and 0 <= value < float("inf")
    )


def flag(file: GGUFFile, key: str, default: Any = REQUIRED) -> Any:
    """True or False."""
    return _value(file, key, default, "true or false", lambda value: type(value) is bool)


def text(file: GGUFFile, key: str, default: Any = REQUIRED) -> Any:
    """A string."""
    return _value(file, key, default, "a string", lambda value: type(value) is str)


def texts(file: GGUFFile, key: str, default: Any = REQUIRED) -> Any:
    """A list of strings."""
    return _value(file, key, default, "a list of strings", lambda value: type(value) is list)


def numbers(file: GGUFFile, key: str, length: int) -> np.ndarray | None:
    """An array of a known length; None where there is none."""
    return _value(
        file, key, None, f"{length} numbers", lambda value: isinstance(value, np.ndarray) and len(value) == length
    )


def _value(file: GGUFFile, key: str, default: Any, expected: str, fits: Callable[[Any], bool]) -> Any:
    """A value of the metadata, or the default.

    Raises:
        UserError: it is missing and has no default, or is not what is expected.
    """
    if key not in file.metadata:
        if default is REQUIRED:
            raise UserError(f"{file.path}: the metadata lacks {key}. {AGAIN}")
        return default
    value = file.metadata[key]
    if not fits(value):
        raise UserError(f"{file.path}: metadata {key}={quote(value)}: expected {expected}. {AGAIN}")
    return value
