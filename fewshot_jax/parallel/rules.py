"""Which dimension of which leaf is divided over which mesh axis: a table of regular expressions."""

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewshot_jax.errors import UserError
from fewshot_jax.parallel.mesh import FSDP, TASK, TENSOR, on_host, place
from fewshot_jax.types import PyTree

Rules = Sequence[tuple[str, str]]
# The matrix products of a transformer block: the first of a pair by columns, the second by rows, one sum after both.
# The leading axis is that of the layers.
TENSOR_RULES: Rules = (
    (r"attention/(query|key|value)/kernel$", f"-,-,{TENSOR},-"),
    (r"attention/(query|key|value)/bias$", f"-,{TENSOR},-"),
    (r"attention/out/kernel$", f"-,{TENSOR},-,-"),
    (r"mlp/(up|gate)/kernel$", f"-,-,{TENSOR}"),
    (r"mlp/up/bias$", f"-,{TENSOR}"),
    (r"mlp/down/kernel$", f"-,{TENSOR},-"),
)
SMALLEST = 1024  # numbers in a leaf that is worth dividing


def shardings(tree: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
    """A `NamedSharding` for each leaf of meta-parameters, optimizer state, or anything whose paths end as theirs do.

    The first of the user's rules that matches a leaf's path gives its dimensions. Elsewhere a tensor axis of more
    than one device divides as `TENSOR_RULES` say, where it divides evenly; and of leaves of `SMALLEST` numbers or
    more the fsdp axis divides the largest dimension left that it divides evenly.

    Args:
        tree: of arrays or their shapes.
        mesh: see `make_mesh`.
        rules: pairs of a regular expression and mesh axes, such as ``("mlp/down/kernel$", "-,tensor,fsdp")``.

    Raises:
        UserError: a rule of the user's does not fit a leaf that it matches.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(
            mesh, _spec(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, mesh, rules)
        )

    return jax.tree_util.tree_map_with_path(of, tree)


def made_on_mesh(make: Callable[[], PyTree], mesh: Mesh, rules: Rules = ()) -> PyTree:
    """Make a pytree and place it as `shardings` says: made on the host where no device holds all of it.

    Args:
        make: gives the arrays.
        mesh, rules: as of `shardings`.
    """
    with on_host() if mesh.size > mesh.shape[TASK] else contextlib.nullcontext():
        made = make()
    return place(made, shardings(made, mesh, rules))


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    for pattern, text in rules:
        if re.search(pattern, path):
            return _asked(path, shape, mesh, pattern, text)
    axes: list[str | None] = [None] * len(shape)
    if mesh.shape[TENSOR] > 1:
        fitting = (_axes(text) for pattern, text in TENSOR_RULES if re.search(pattern, path))
        wanted = next((named for named in fitting if len(named) == len(shape)), axes)
        axes = [
            axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(wanted, shape, strict=True)
        ]
    if mesh.shape[FSDP] > 1 and math.prod(shape) >= SMALLEST:
        free = [i for i, size in enumerate(shape) if axes[i] is None and size % mesh.shape[FSDP] == 0]
        if free:
            axes[max(free, key=lambda i: shape[i])] = FSDP
    return PartitionSpec(*axes)


def _asked(path: str, shape: tuple[int, ...], mesh: Mesh, pattern: str, text: str) -> PartitionSpec:
    """What a rule of the user's says of a leaf."""
    axes, rule = _axes(text), f"parallel.rules: {pattern!r}, {text!r}"
    if len(axes) > len(shape):
        raise UserError(f"{rule}: leaf '{path}' has only {len(shape)} dimensions")
    for size, axis in zip(shape, axes, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"{rule}: leaf '{path}' has shape {shape}, whose {size} the {mesh.shape[axis]} devices of '{axis}' "
                "do not divide"
            )
    return PartitionSpec(*axes)


def _axes(text: str) -> list[str | None]:
    return [None if axis == "-" else axis for axis in text.split(",")]


def gathered(sharding: NamedSharding) -> NamedSharding:
    """The same sharding, whole on the fsdp axis: how a leaf is used in a step."""
    return NamedSharding(sharding.mesh, PartitionSpec(*(None if axis == FSDP else axis for axis in sharding.spec)))
