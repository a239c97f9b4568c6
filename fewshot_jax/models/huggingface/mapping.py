"""From the names and layouts of a Hugging Face checkpoint to a parameter tree, and back: a table of rules."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

LAYER = "{}"  # in a source's name: the number of the layer


@dataclass(frozen=True)
class Rule:
    """One leaf of a parameter tree, and the tensor or part of a tensor that it is stored in.

    Attributes:
        source: the tensor's name, ``{}`` for the layer's number where the leaf has a leading axis of layers;
            it does not count among the leaf's axes below.
        target: the leaf's path, ``"decoder/blocks/mlp/up/kernel"``.
        inputs: how many leading axes of the leaf are the rows of a matrix, the others being its columns;
            None for a leaf that is stored as a vector.
        transposed: the matrix is stored ``[columns, rows]``, as torch's ``Linear`` is.
        part: ``(i, n)``: the leaf is the i-th of n equal slices of the stored tensor.
        axis: of the stored tensor, that is sliced.
        first: the first layer that has such a tensor; earlier ones hold ones.
        others: names that the tensor has in some checkpoints.
    """

    source: str
    target: str
    inputs: int | None = None
    transposed: bool = False
    part: tuple[int, int] = (0, 1)
    axis: int = 0
    first: int = 0
    others: tuple[str, ...] = ()

    @property
    def layered(self) -> bool:
        return LAYER in self.source

    def layers(self, leaf: tuple[int, ...]) -> Iterator[tuple[str, int | None, tuple[int, ...]]]:
        """Of a leaf's whole shape: the name of each tensor, its layer (None without layers), the leaf's shape there."""
        if not self.layered:
            yield self.source, None, leaf
        for layer in range(self.first, leaf[0]) if self.layered else ():
            yield self.source.replace(LAYER, str(layer)), layer, leaf[1:]

    def under(self, prefix: str) -> "Rule":
        """The same rule where the tensors' names have a prefix."""
        return replace(self, source=prefix + self.source, others=tuple(prefix + name for name in self.others))

    def stored_shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the whole stored tensor."""
        shape = list(self._part_shape(leaf))
        shape[self.axis] *= self.part[1]
        return tuple(shape)

    def to_leaf(self, stored: np.ndarray, leaf: tuple[int, ...]) -> np.ndarray:
        """A view on the stored tensor with the axes of the leaf; nothing is copied."""
        index, parts = self.part
        if parts > 1:
            size = stored.shape[self.axis] // parts
            stored = stored[(slice(None),) * self.axis + (slice(index * size, (index + 1) * size),)]
        return (stored.T if self.transposed else stored).reshape(leaf)

    def to_stored(self, leaf: np.ndarray) -> np.ndarray:
        """The leaf's part of the stored tensor."""
        shape = self._part_shape(leaf.shape)
        return leaf.reshape(shape[::-1]).T if self.transposed else leaf.reshape(shape)

    def _part_shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        if self.inputs is None:
            return (math.prod(leaf),)
        shape = (math.prod(leaf[: self.inputs]), math.prod(leaf[self.inputs :]))
        return shape[::-1] if self.transposed else shape


def linear(source: str, target: str, *, inputs: int = 1, other: str | None = None, **options: Any) -> list[Rule]:
    """A torch ``Linear``, which some checkpoints call ``other``: its weight ``[outputs, inputs]`` and its bias."""
    weight, bias = ((f"{other}.{part}",) if other else () for part in ("weight", "bias"))
    return [
        Rule(f"{source}.weight", f"{target}/kernel", inputs=inputs, transposed=True, others=weight, **options),
        Rule(f"{source}.bias", f"{target}/bias", others=bias, **options),
    ]


def conv1d(source: str, target: str, *, inputs: int = 1, part: tuple[int, int] = (0, 1)) -> list[Rule]:
    """GPT-2's ``Conv1D``: its weight ``[inputs, outputs]``, of whose outputs a leaf may be a part, and its bias."""
    return [
        Rule(f"{source}.weight", f"{target}/kernel", inputs=inputs, part=part, axis=1),
        Rule(f"{source}.bias", f"{target}/bias", part=part),
    ]


def norm(source: str, target: str, **options: Any) -> list[Rule]:
    """A norm: scale and bias."""
    return [Rule(f"{source}.weight", f"{target}/scale", **options), Rule(f"{source}.bias", f"{target}/bias", **options)]


def table(source: str, target: str, **options: Any) -> list[Rule]:
    """An embedding ``[rows, features]``."""
    return [Rule(f"{source}.weight", f"{target}/embedding", inputs=1, **options)]


def attention(source: str, target: str, names: tuple[str, str, str, str]) -> list[Rule]:
    """Four torch ``Linear``: queries, keys, values and the output, by their names."""
    parts = zip(("query", "key", "value"), names, strict=False)
    return [
        *(rule for part, name in parts for rule in linear(f"{source}.{name}", f"{target}/{part}")),
        *linear(f"{source}.{names[3]}", f"{target}/out", inputs=2),
    ]
