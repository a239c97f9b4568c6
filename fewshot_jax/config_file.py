"""Configs from and to YAML; a wrong field or value ends in one message that names it."""

import copy
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml

from fewshot_jax.atomic_write import write_text
from fewshot_jax.config import Config
from fewshot_jax.config.names import nearest as nearest
from fewshot_jax.errors import UserError, require

_ABSENT = object()
AnyConfig = typing.TypeVar("AnyConfig")  # a frozen dataclass of dataclasses, such as `Config`


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Check a YAML value against a field's type; lists become tuples, ints floats."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        if str in options and isinstance(value, str):  # a name of a table, or another, which its section checks
            return value
        return _convert(value, next(option for option in options if option is not type(None)), where)
    if origin is dict:
        return _options(value, where)
    if origin is Literal:
        require(value in options, f"{where}: {value!r} is not one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where}: expected a list, got {value!r}")
        items = [options[0]] * len(value) if options[-1] is Ellipsis else list(options)
        require(len(items) == len(value), f"{where}: expected {len(items)} values, got {len(value)}")
        return tuple(_convert(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, items, strict=True)))
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as a string
            return float(value)
        except ValueError:
            pass
    correct = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    require(correct, f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _options(value: Any, where: str) -> dict[str, Any]:
    """Check the options of a function of the user's own: a mapping of names, with values as YAML has them."""
    require(isinstance(value, Mapping), f"{where}: expected a mapping of names to values, got {value!r}")
    for name in value:
        require(
            isinstance(name, str) and name.isidentifier(),
            f"{where}: {name!r} is not a name; expected letters, digits and _, as Python's names are",
        )
    return copy.deepcopy(dict(value))


@typing.overload
def from_dict(values: Mapping[str, Any], *, source: str = ...) -> Config: ...
@typing.overload
def from_dict(values: Mapping[str, Any], *, source: str = ..., kind: type[AnyConfig]) -> AnyConfig: ...
def from_dict(values: Mapping[str, Any], *, source: str = "config", kind: type[Any] = Config) -> Any:
    """Build a `Config`, or another one, from nested mappings.

    Args:
        values: sections and fields; those absent keep their defaults.
        source: the file's name, for messages.
        kind: the config's class.

    Raises:
        UserError: an unknown field (with the nearest name), a value of a wrong
            type or out of range.
    """

    def build(cls: type, values: Any, prefix: str) -> Any:
        what = prefix.removesuffix(".") or "the file"
        require(values is not None, f"{source}: {what} is empty; give it a field, or leave it out")
        require(isinstance(values, Mapping), f"{source}: {what} should be a mapping, got {values!r}")
        kinds = typing.get_type_hints(cls)
        arguments = {}
        for name, value in values.items():
            where = f"{prefix}{name}"
            require(name in kinds, f"{source}: unknown field '{where}'; {nearest(str(name), kinds)}")
            if dataclasses.is_dataclass(kinds[name]):
                arguments[name] = build(kinds[name], value, f"{where}.")
            else:
                arguments[name] = _convert(value, kinds[name], f"{source}: {where}")
        return cls(**arguments)

    try:
        return build(kind, values, "")
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(source) else f"{source}: {message}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `from_dict`, made of plain lists and scalars; options are absent where there are none."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) != {}}
        if isinstance(value, Mapping):
            return {name: plain(one) for name, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, tuple | list) else value

    return plain(config)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


@typing.overload
def read_config(path: str | Path) -> Config: ...
@typing.overload
def read_config(path: str | Path, kind: type[AnyConfig]) -> AnyConfig: ...
def read_config(path: str | Path, kind: type[Any] = Config) -> Any:
    """Read a YAML file as a `Config`, or as a config of another ``kind``.

    Raises:
        UserError: the file is missing, is no YAML, or has a wrong field; the
            message names the file and the line or the field.
    """
    return from_dict(read_yaml(Path(path)), source=str(path), kind=kind)


def read_yaml(path: Path, what: str = "config") -> Any:
    """Read a YAML file, in which no key may stand twice in a mapping.

    Args:
        path: of the file.
        what: it is, for messages.

    Raises:
        UserError: the file is missing or is no YAML; the message names the file and the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what} file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the {what} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what} ({error.strerror}); give a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML ({getattr(error, 'problem', error)})") from None


def write_config(config: Any, path: Path) -> None:
    """Write every field of a config as YAML, whole or not at all."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def flat(config: Any) -> dict[str, Any]:
    """All fields of a config by their full names, such as "outer.rate"."""

    def of(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in values.items():
            out.update(of(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
        return out

    return of(to_dict(config), "")


def differences(old: AnyConfig, new: AnyConfig, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Fields that differ, as ``"outer.rate: 0.001 -> 0.01"``, but those whose names start as `ignore` says."""

    before, after = flat(old), flat(new)
    names = dict.fromkeys((*after, *before))  # options may be in one of them alone
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name, _ABSENT) != after.get(name, _ABSENT) and not name.startswith(ignore)
    ]
