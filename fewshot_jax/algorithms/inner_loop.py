"""The inner loop: a scan of an optax optimizer over one task's support set."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.differentiation import Keep, scan_steps
from fewshot_jax.types import Batch, Key, Params, PyTree

# Named folds of a task's key: inner step i uses fold_in(fold_in(key, SUPPORT_FOLD), i).
SUPPORT_FOLD, QUERY_FOLD, START_FOLD = 0, 1, 2


def query_key(rng: Key) -> Key:
    """The key of a task's query pass, given the task's key."""
    return jax.random.fold_in(rng, QUERY_FOLD)


def support_key(rng: Key) -> Key:
    """The key that the inner steps fold their index into, given the task's key."""
    return jax.random.fold_in(rng, SUPPORT_FOLD)


def start_key(rng: Key) -> Key:
    """The key of the starting point of a task's inner loop, given the task's key."""
    return jax.random.fold_in(rng, START_FOLD)


def with_rate(optimizer: optax.GradientTransformation, rate: Any) -> optax.GradientTransformation:
    """Return an optimizer whose state starts with another learning rate, that `optax.inject_hyperparams` keeps there.

    Args:
        optimizer: keeps its rate in its state.
        rate: traced or not; None for the optimizer as it is.
    """
    if rate is None:
        return optimizer

    def init(params: Params) -> optax.OptState:
        state = optimizer.init(params)
        try:
            found = optax.tree_utils.tree_get(state, "learning_rate")
            if found is None or jnp.ndim(found) != 0:  # absent, or a schedule, whose state stands there
                raise KeyError
            return optax.tree_utils.tree_set(state, learning_rate=rate)
        except (KeyError, TypeError):
            raise ValueError(
                "inner_rate= needs an inner optimizer that keeps one constant rate in its state: "
                "build it as optax.inject_hyperparams(optax.sgd)(learning_rate=0.01)"
            ) from None

    return optax.GradientTransformation(init, optimizer.update)


def _draw(support: Batch, size: int, key: Key) -> Batch:
    """Draw ``size`` of the ``S`` support items without replacement, padded ones last; all if S is smaller."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(support)]
    items = shapes[0][0] if shapes[0] else 0
    if any(shape[:1] != (items,) for shape in shapes):
        raise ValueError(f"support: expected the same leading axis S in every leaf; the leaves have shapes {shapes}")
    if size >= items:
        return support
    weight = jnp.ones(items)
    if isinstance(support, Mapping) and "mask" in support:
        weight = jnp.asarray(support["mask"], weight.dtype)
    chosen = jax.random.choice(key, items, (size,), replace=False, p=weight / jnp.maximum(weight.sum(), 1))
    return jax.tree.map(lambda leaf: leaf[chosen], support)


class LoopShape(NamedTuple):
    """What of an inner loop is fixed when it is compiled.

    Attributes:
        max_steps: length of the scan.
        batch_size: support items drawn at each step (those that ``mask`` marks as padded last); None for all.
        keep: what of each step its backward pass finds, see `differentiation`.
        share_first: read the first step's parameters as shared under ``vmap``.
    """

    max_steps: int
    batch_size: int | None = None
    keep: Keep = "all"
    share_first: bool = False


class InnerLoopResult(NamedTuple):
    """Attributes: the adapted ``params``, the ``support_loss [steps]`` in nats before each step, and ``each_step``."""

    params: Params
    support_loss: jax.Array
    each_step: PyTree


def inner_loop(
    gradient_fn: Callable[[Params, Batch, Key], tuple[tuple[jax.Array, Any], Params]],
    optimizer: optax.GradientTransformation,
    params: Params,
    support: Batch,
    rng: Key,
    *,
    shape: LoopShape,
    steps: int | jax.Array | None = None,
    each_step: Callable[[Params], PyTree] | None = None,
) -> InnerLoopResult:
    """Take gradient steps on the support set of one task.

    Args:
        gradient_fn: ``(params, batch, key) -> ((loss, aux), grads)`` of the inner objective.
        optimizer: any optax transformation; its state starts fresh.
        params: the parameters to adapt.
        support: the batch ``[S, ...]`` to learn from.
        rng: the task's key; step ``i`` consumes its own fold of it.
        shape: of the loop.
        steps: how many of ``shape.max_steps`` are taken, traced or not; None for all.
        each_step: ``params -> pytree``, called after each step; None for nothing.

    Returns:
        The adapted parameters, the support loss ``[max_steps]`` in nats before
        each step (after the last one taken it stays where it is), and what
        ``each_step`` returned, stacked.
    """
    begin = (params, optimizer.init(params))
    steps_key = support_key(rng)

    def step(carry: tuple[Params, optax.OptState], i: jax.Array) -> tuple[tuple[Params, optax.OptState], PyTree]:
        key = jax.random.fold_in(steps_key, i)
        loss_key, draw_key = jax.random.split(key)
        batch = support if shape.batch_size is None else _draw(support, shape.batch_size, draw_key)
        params, state = carry
        (loss, _), grads = gradient_fn(params, batch, loss_key)
        updates, state = optimizer.update(grads, state, params)
        stepped = (optax.apply_updates(params, updates), state)
        if steps is not None:
            stepped = jax.tree.map(lambda new, old: jnp.where(i < steps, new, old), stepped, carry)
        return stepped, (loss, None if each_step is None else each_step(stepped[0]))

    (adapted, _), outputs = scan_steps(step, begin, shape.max_steps, keep=shape.keep, share_first=shape.share_first)
    return InnerLoopResult(adapted, *outputs)
