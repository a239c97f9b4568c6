"""The JSON files of a model's directory, which come from strangers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fewshot_jax.errors import UserError

Absent = TypeVar("Absent")
_AGAIN = "copy it again from where the model came from"


def read_model_json(file: Path) -> Any:
    """What a file of a model's directory says.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is not JSON ({error}); {_AGAIN}") from None


class JsonObject(NamedTuple):
    """The fields of a file; what reads one raises a UserError that names the file and the field."""

    file: Path
    values: Mapping[str, Any]

    def boolean(self, field: str, absent: bool) -> bool:
        """True or false."""
        value = self.values.get(field, absent)
        if not isinstance(value, bool):
            raise UserError(f"{self.file}: {field}={value!r}: expected true or false; {_AGAIN}")
        return value

    def number(self, field: str, absent: Absent) -> int | Absent:
        """A positive whole number; ``absent`` where the field is missing or null."""
        value = self.values.get(field)
        if value is None:
            return absent
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{self.file}: {field}={value!r}: expected a whole number of at least 1; {_AGAIN}")
        return value

    def expect(self, field: str, *values: Any) -> None:
        """Refuse a field that is there and has none of these values; the first is named."""
        value = self.values.get(field, values[0])
        if value not in values:
            raise UserError(f"{self.file}: {field}={value!r} is not supported, only {values[0]!r}")


def read_object(file: Path) -> JsonObject:
    """Read a file that holds one JSON object.

    Raises:
        UserError: it is missing, or holds something else.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; {_AGAIN}")
    values = read_model_json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file}: is no JSON object; {_AGAIN}")
    return JsonObject(file, values)
