"""Which leaves of the parameters adapt, and which are shared or frozen.

A part of a tree is the same tree with ``None`` (an empty pytree) at every leaf
that belongs to the other part, so each part passes through optax and
``jax.grad`` unchanged.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fewshot_jax.types import Params, PyTree

Selector = str | Callable[[str, jax.Array], bool] | None


def leaf_path(path: tuple[Any, ...]) -> str:
    """A leaf's key path as ``"encoder/block/kernel"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_floating(params: Params) -> None:
    """Raise a ValueError that names the first leaf that cannot be trained."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            raise ValueError(
                f"params leaf '{leaf_path(path)}' has dtype {jnp.asarray(leaf).dtype}: meta-parameters are trained "
                "and must be floating; keep other leaves outside params or pass them as frozen="
            )


def chosen(params: Params, selector: Selector) -> PyTree:
    """A tree of bool: which leaves a selector picks, perhaps none; see `split`."""
    if selector is None:
        return jax.tree.map(lambda _: True, params)
    if isinstance(selector, str):
        pattern = re.compile(selector)
        return jax.tree_util.tree_map_with_path(lambda p, _: pattern.search(leaf_path(p)) is not None, params)
    return jax.tree_util.tree_map_with_path(lambda p, leaf: bool(selector(leaf_path(p), leaf)), params)


def split(params: Params, selector: Selector) -> tuple[Params, Params]:
    """Split ``params`` into the leaves the inner loop adapts and the rest.

    Args:
        params: any pytree of arrays.
        selector: None for every leaf; a regular expression searched in the
            leaf's path (``"head|norm"``); or a predicate ``(path, leaf) -> bool``.

    Returns:
        ``(inner, rest)``, each with ``None`` where the other has the leaf.

    Raises:
        ValueError: nothing is selected; the message lists the paths there are.
    """
    adapts = chosen(params, selector)
    if not any(jax.tree.leaves(adapts)):
        paths = ", ".join(leaf_path(p) for p, _ in jax.tree_util.tree_leaves_with_path(params))
        raise ValueError(f"inner_params={selector!r} selects no leaf; the leaves are: {paths}")
    inner = jax.tree.map(lambda keep, leaf: leaf if keep else None, adapts, params)
    rest = jax.tree.map(lambda keep, leaf: None if keep else leaf, adapts, params)
    return inner, rest


def merge(inner: Params, rest: Params) -> Params:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, inner, rest, is_leaf=lambda leaf: leaf is None)


def varying_as(params: PyTree, batch: PyTree) -> PyTree:
    """Inside ``jax.shard_map``, parameters that vary over the mesh axes over which a batch does; elsewhere the same.

    The gradient of a loss by parameters that are one on all devices is the sum over devices of what each would find:
    right for an outer step, and wrong for an inner loop, which would mix the tasks of all devices without a word.
    """
    axes = frozenset[str]().union(*map(_axes_of, jax.tree.leaves(batch)))
    if not axes:
        return params

    def cast(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _axes_of(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, params)


def _axes_of(leaf: Any) -> frozenset[str]:
    """The manual mesh axes over which an array varies, which releases of jax call by two names."""
    kind: Any = jax.typeof(leaf)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(getattr(kind, "vma", ()))


def with_frozen(fn: Callable[..., Any], frozen: PyTree) -> Callable[..., Any]:
    """Pass ``frozen=`` to a user's function only where frozen weights were given.

    The weights are cut from differentiation here, once for every learner.
    """
    if frozen is None:
        return fn
    constant = jax.lax.stop_gradient(frozen)
    return lambda *args: fn(*args, frozen=constant)
