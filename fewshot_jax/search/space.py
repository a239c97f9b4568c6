"""Search spaces: which fields of a config a study tries, and which values of each.

A space is a YAML file of dotted fields::

    inner.rate: {low: 0.01, high: 1.0, log: true}
    inner.steps: {low: 1, high: 5}
    learner.name: {choices: [maml, fomaml]}
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fewshot_jax.config import WRITES, Config
from fewshot_jax.config.names import is_function
from fewshot_jax.config_file import flat, from_dict, nearest, read_yaml, to_dict
from fewshot_jax.errors import UserError, require

Scalar = float | int | str | bool | None
_RANGE = ("low", "high", "log", "step")
# What may differ between trials that are judged on the same validation episodes.
SEARCHED = (
    *("tokenizer.", "model.", "learner.", "inner.", "outer."),
    *(f"episodes.{name}" for name in ("ways", "shots", "queries", "min_", "token_", "ngram_")),
)
_OF_TOKENS = ("tokenizer.", "model.pretrained", "model.architecture")  # what nats are counted in


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two ends.

    Attributes:
        low, high: the ends, both included.
        log: on a logarithmic scale.
        step: between neighbouring values; None for any number, 1 for whole numbers.
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def points(self) -> tuple[Scalar, ...] | None:
        """All values; None where there are too many to count."""
        if self.step is None:
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) / step)
        values = [low + i * step for i in range(count + 1)]
        return tuple(int(value) if self.whole else float(value) for value in values)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Attributes: ``values``, of which no two are the same."""

    values: tuple[Scalar, ...]

    def points(self) -> tuple[Scalar, ...]:
        """All values."""
        return self.values


class Space(NamedTuple):
    """Attributes: ``source``, a name for messages, and for each dotted field of the config what is tried."""

    source: str
    fields: Mapping[str, Range | Choices]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The inverse of `parse_space`."""
        return {
            name: {"choices": list(field.values)}
            if isinstance(field, Choices)
            else {key: getattr(field, key) for key in _RANGE if getattr(field, key) not in (None, False)}
            for name, field in self.fields.items()
        }

    def grid(self) -> dict[str, tuple[Scalar, ...]]:
        """The values of each field, of which a grid takes every combination.

        Raises:
            UserError: a field has no end of values.
        """
        points = {}
        for name, field in self.fields.items():
            values = field.points()
            if values is None:
                raise UserError(
                    f"{self.source}: {name}: a grid needs values that can be counted; give step or choices, or take "
                    "the sampler tpe"
                )
            points[name] = values
        return points


def read_space(path: str | Path, config: Config) -> Space:
    """Read a search space for a config.

    Raises:
        UserError: as of `parse_space`, or the file cannot be read.
    """
    return parse_space(read_yaml(Path(path), "search space"), config, source=str(path))


def parse_space(values: Any, config: Config, *, source: str = "space") -> Space:
    """Check a search space against a config.

    Args:
        values: for each dotted field either ``choices``, or ``low`` and ``high`` with perhaps ``log`` and ``step``.
        config: whose fields they are; the others keep their values.
        source: the file's name, for messages.

    Raises:
        UserError: the space is empty, a field is unknown (with the nearest name) or would change what trials are
            judged on, or a value is not one of the field's.
    """
    require(
        isinstance(values, Mapping) and len(values) > 0,
        f"{source}: the search space is empty; give a field and its values, such as "
        "'inner.rate: {low: 0.01, high: 1.0, log: true}'",
    )
    known = flat(config)
    fields = {}
    for name, given in values.items():
        require(name in known, f"{source}: unknown field '{name}'; {nearest(str(name), known)}")
        _check_searched(name, config, source)
        where = f"{source}: {name}"
        require(
            isinstance(given, Mapping) and ("choices" in given) != bool({"low", "high"} & given.keys()),
            f"{where}: expected {{low: ..., high: ...}} or {{choices: [...]}}, got {given!r}",
        )
        section, _, field = name.partition(".")
        own_option = field.startswith("options.")  # of a learner of the user's own, whose value says its type
        kind = type(known[name]) if own_option else _kind_of(type(getattr(config, section)), field, where)
        fields[name] = _choices(given, kind, where) if "choices" in given else _range(given, kind, where)
        one = fields[name]
        for value in () if own_option else one.values if isinstance(one, Choices) else (one.low, one.high):
            _check_value(config, section, field, value, where)
    return Space(source, fields)


def with_values(config: Config, values: Mapping[str, Scalar]) -> Config:
    """A config with other values of some dotted fields.

    Raises:
        UserError: the values do not go together.
    """
    nested = to_dict(config)
    for name, value in values.items():
        *path, field = name.split(".")
        functools.reduce(lambda place, part: place[part], path, nested)[field] = value
    return from_dict(nested, source=", ".join(f"{name}={value}" for name, value in values.items()))


def _check_searched(name: str, config: Config, source: str) -> None:
    require(
        name.startswith(SEARCHED),
        f"{source}: {name}: trials would not be judged on the same episodes, or it changes no score; search fields of "
        "tokenizer, model, learner, inner, outer, or sizes of episodes",
    )
    require(
        config.application not in WRITES or not name.startswith(_OF_TOKENS),
        f"{source}: {name}: changes what the nats of {config.application} are counted in, so that scores could not be "
        "compared; leave it out",
    )


def _kind_of(section: type, field: str, where: str) -> Any:
    """The type of a field, without None; choices may be None where the field may be."""
    kind = typing.get_type_hints(section)[field]
    inner = _without_none(kind)
    require(
        typing.get_origin(inner) is not tuple,
        f"{where}: is a list, which cannot be searched; make a study for each value",
    )
    return kind


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(option for option in typing.get_args(kind) if option is not type(None))
    return kind


def _choices(given: Mapping[str, Any], kind: Any, where: str) -> Choices:
    _check_keys(given, ("choices",), where)
    values = given["choices"]
    require(isinstance(values, list | tuple) and len(values) > 0, f"{where}: choices: expected a list, got {values!r}")
    typed = tuple(_typed(value, kind, f"{where}: choices") for value in values)
    twice = [value for i, value in enumerate(typed) if value in typed[:i]]
    require(not twice, f"{where}: choices: {twice and twice[0]!r} stands twice")
    return Choices(values=typed)


def _range(given: Mapping[str, Any], kind: Any, where: str) -> Range:
    _check_keys(given, _RANGE, where)
    number = _without_none(kind)
    if number not in (int, float):
        literal = typing.get_args(number) if typing.get_origin(number) is Literal else ()
        known = f" of {', '.join(map(repr, literal))}" if literal else ""
        raise UserError(f"{where}: is no number; give choices{known}")
    for end in ("low", "high"):
        require(end in given, f"{where}: {end} is missing")
    low, high = (_typed(given[end], number, f"{where}: {end}") for end in ("low", "high"))
    log, step = given.get("log", False), given.get("step")
    require(isinstance(log, bool), f"{where}: log: expected true or false, got {log!r}")
    require(low <= high, f"{where}: low={low} is greater than high={high}")
    require(
        not log or low > 0, f"{where}: low={low}: a logarithmic scale starts above zero; leave log out, or raise low"
    )
    require(not log or step is None, f"{where}: step={step}: a logarithmic scale has none; leave log or step out")
    if step is not None:
        step = _typed(step, number, f"{where}: step")
        require(step > 0, f"{where}: step={step}: expected a positive number")
        rest = (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))
        require(
            rest == 0,
            f"{where}: steps of {step} do not lead from low={low} to high={high}; set high to "
            f"{Decimal(str(high)) - rest}",
        )
    return Range(low=low, high=high, log=log, step=1 if step is None and number is int else step, whole=number is int)


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        require(key in known, f"{where}: unknown key '{key}'; {nearest(str(key), known)}")


def _typed(value: Any, kind: Any, where: str) -> Any:
    """A value as the field holds it: whole numbers become floats where the field is one."""
    if value is None and type(None) in typing.get_args(kind):
        return None
    if str in typing.get_args(kind) and isinstance(value, str) and is_function(value):
        return value
    kind = _without_none(kind)
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        require(value in options, f"{where}: {value!r} is not one of {', '.join(map(repr, options))}")
        return value
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as a string
            number = float(value)
        except ValueError:
            number = math.nan
        require(math.isfinite(number), f"{where}: expected a number, got {value!r}")
        return number
    correct = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    require(correct, f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _check_value(config: Config, section: str, field: str, value: Scalar, where: str) -> None:
    """Refuse a value that its section refuses, beside the config's other values and beside the defaults too.

    What other sections say to it depends on what else a trial tries.
    """
    own: Any = getattr(config, section)
    try:
        dataclasses.replace(own, **{field: value})
    except UserError as error:
        try:
            dataclasses.replace(type(own)(), **{field: value})
        except UserError:
            raise UserError(f"{where}: {error}") from None
