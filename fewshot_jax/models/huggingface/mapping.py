"""From the names and layouts of a Hugging Face checkpoint to a parameter tree, and back: a table of rules."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

LAYER = "{}"  # in a source's name: the number of the layer, and after it that of the layer's expert


@dataclass(frozen=True)
class Rule:
    """One leaf of a parameter tree, and the tensor or part of a tensor that it is stored in.

    Attributes:
        source: the tensor's name. Each ``{}`` stands for the index along one leading axis of the leaf, in order: of
            layers (``"layers.{}.mlp"``), of layers and their experts (``"layers.{}.experts.{}"``). These axes do not
            count among the leaf's axes below.
        target: the leaf's path, ``"decoder/blocks/mlp/up/kernel"``.
        inputs: how many leading axes of the leaf are the rows of a matrix, the others being its columns;
            None for a leaf that is stored as a vector.
        transposed: the matrix is stored ``[columns, rows]``, as torch's ``Linear`` is.
        part: of several leaves that are stored in one tensor, one after the other: the place of this one. Their
            lengths may differ; see `placed`.
        axis: of the stored tensor, along which they follow each other.
        before: entries of the stored tensor along that axis before this leaf's own.
        whole: length of the stored tensor along that axis; None if it ends with this leaf.
        by_head: the leaves that share a tensor take turns head by head, along the first axis of each leaf's outputs:
            the first head of all of them, then the second (GPT-NeoX). Along ``axis`` 0 alone.
        first: the first layer that has such a tensor; earlier ones hold ones.
        others: names that the tensor has in some checkpoints.
    """

    source: str
    target: str
    inputs: int | None = None
    transposed: bool = False
    part: int = 0
    axis: int = 0
    before: int = 0
    whole: int | None = None
    by_head: bool = False
    first: int = 0
    others: tuple[str, ...] = ()

    @property
    def leading(self) -> int:
        """The number of leading axes of the leaf whose entries have a tensor each."""
        return self.source.count(LAYER)

    def tensors(self, leaf: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Yield the name of each tensor, its index along the leading axes, and the shape of the leaf there."""
        for index in np.ndindex(leaf[: self.leading]):
            if not index or index[0] >= self.first:
                yield self.source.format(*index), index, leaf[self.leading :]

    def under(self, prefix: str) -> "Rule":
        """The same rule where the tensors' names have a prefix."""
        return replace(self, source=prefix + self.source, others=tuple(prefix + name for name in self.others))

    def stored_shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the whole stored tensor."""
        shape = list(self._own_shape(leaf))
        shape[self.axis] = self.before + shape[self.axis] if self.whole is None else self.whole
        return tuple(shape)

    def turns(self, leaf: tuple[int, ...]) -> int:
        """How many times the leaves of one tensor take turns: the number of heads, or once."""
        return leaf[self.inputs or 0] if self.by_head else 1

    def to_leaf(self, stored: np.ndarray, leaf: tuple[int, ...]) -> np.ndarray:
        """A view on the stored tensor with the axes of the leaf; nothing is copied."""
        own = self._own(stored, leaf)
        return (np.moveaxis(own, -1, 0) if self.transposed else own).reshape(leaf)

    def put(self, stored: np.ndarray, leaf: np.ndarray) -> None:
        """Write the leaf into its part of the stored tensor."""
        own = self._own(stored, leaf.shape)
        own[...] = self.to_stored(leaf).reshape(own.shape)

    def to_stored(self, leaf: np.ndarray) -> np.ndarray:
        """The leaf's part of the stored tensor."""
        shape = self._own_shape(leaf.shape)
        return leaf.reshape(shape[::-1]).T if self.transposed else leaf.reshape(shape)

    def _own(self, stored: np.ndarray, leaf: tuple[int, ...]) -> np.ndarray:
        """A view on the leaf's part, with an axis of turns before ``axis``."""
        turns, shape = self.turns(leaf), stored.shape
        start, length = self.before // turns, self._own_shape(leaf)[self.axis] // turns
        each = stored.reshape(*shape[: self.axis], turns, -1, *shape[self.axis + 1 :])
        return each[(slice(None),) * (self.axis + 1) + (slice(start, start + length),)]

    def _own_shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        if self.inputs is None:
            return (math.prod(leaf),)
        shape = (math.prod(leaf[: self.inputs]), math.prod(leaf[self.inputs :]))
        return shape[::-1] if self.transposed else shape


def placed(rules: Sequence[Rule], shapes: Mapping[str, tuple[int, ...]]) -> list[Rule]:
    """Return the rules with the place of each leaf in its stored tensor.

    Leaves that share a tensor follow each other in the order of their parts; each takes as much of the tensor as its
    own shape says (queries, keys and values with fewer heads in one matrix).

    Args:
        rules: of the leaves of one model.
        shapes: of these leaves, by path, with their leading axes.
    """
    sharing: dict[str, list[Rule]] = {}
    for rule in sorted(rules, key=lambda rule: rule.part):
        sharing.setdefault(rule.source, []).append(rule)
    found: dict[str, Rule] = {}
    for parts in sharing.values():
        shape = [rule._own_shape(shapes[rule.target][rule.leading :]) for rule in parts]
        ends = list(itertools.accumulate(one[rule.axis] for rule, one in zip(parts, shape, strict=True)))
        for rule, start in zip(parts, [0, *ends], strict=False):
            found[rule.target] = rule if len(parts) == 1 else replace(rule, before=start, whole=ends[-1])
    return [found[rule.target] for rule in rules]


def linear(source: str, target: str, *, inputs: int = 1, other: str | None = None, **options: Any) -> list[Rule]:
    """A torch ``Linear``, which some checkpoints call ``other``: its weight ``[outputs, inputs]`` and its bias."""
    weight, bias = ((f"{other}.{part}",) if other else () for part in ("weight", "bias"))
    return [
        Rule(f"{source}.weight", f"{target}/kernel", inputs=inputs, transposed=True, others=weight, **options),
        Rule(f"{source}.bias", f"{target}/bias", others=bias, **options),
    ]


def conv1d(source: str, target: str, *, inputs: int = 1, part: int = 0) -> list[Rule]:
    """GPT-2's ``Conv1D``: its weight ``[inputs, outputs]``, of whose outputs a leaf may be a part, and its bias."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", inputs=inputs, part=part, axis=1),
        Rule(f"{source}.bias", f"{target}/bias", part=part),
    ]


def norm(source: str, target: str, *, other: str | None = None, **options: Any) -> list[Rule]:
    """A norm, which some checkpoints call ``other``: scale and bias."""
    weight, bias = ((f"{other}.{part}",) if other else () for part in ("weight", "bias"))
    return [
        Rule(f"{source}.weight", f"{target}/scale", others=weight, **options),
        Rule(f"{source}.bias", f"{target}/bias", others=bias, **options),
    ]


def rule_table(source: str, target: str, **options: Any) -> list[Rule]:
    """An embedding ``[rows, features]``."""
    return [Rule(f"{source}.weight", f"{target}/embedding", inputs=1, **options)]


def attention(source: str, target: str, names: tuple[str, str, str, str]) -> list[Rule]:
    """Four torch ``Linear``: queries, keys, values and the output, by their names."""
    parts = zip(("query", "key", "value"), names, strict=False)
    return [
        *(rule for part, name in parts for rule in linear(f"{source}.{name}", f"{target}/{part}")),
        *linear(f"{source}.{names[3]}", f"{target}/out", inputs=2),
    ]


def fused(source: str, targets: Sequence[str], *, by_head: bool = False) -> list[Rule]:
    """One torch ``Linear`` whose outputs are those of several layers, one after the other or head by head."""
    return [rule for part, name in enumerate(targets) for rule in linear(source, name, part=part, by_head=by_head)]
