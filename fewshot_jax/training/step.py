"""The outer step, a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.training.state import TrainState
from fewshot_jax.types import Episode, MetaLearner, MetaParams, PyTree

Metrics = dict[str, jax.Array]
StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
# ``(meta_params, batch, key, share of the steps taken) -> (gradient, metrics)``, the metrics with a ``loss``.
GradFn = Callable[[MetaParams, PyTree, jax.Array, jax.Array], tuple[MetaParams, Metrics]]


def make_step(learner: MetaLearner, optimizer: optax.GradientTransformation, *, steps: int) -> StepFn:
    """The step of a meta-learner, ``(state, episodes) -> (state, metrics)``; see `guarded_step`.

    Args:
        learner: the meta-learner, whose schedule, if it has one, goes by the share of ``steps`` taken.
        optimizer: the outer optimizer.
        steps: of the whole training.
    """

    def grad(meta_params: MetaParams, episodes: Episode, key: jax.Array, progress: jax.Array) -> Any:
        return learner.grad(meta_params, episodes, key, progress=progress)

    return guarded_step(grad, optimizer, steps=steps)


def guarded_step(grad: GradFn, optimizer: optax.GradientTransformation, *, steps: int) -> StepFn:
    """Build ``(state, batch) -> (state, metrics)``.

    A step whose loss or gradient is not finite changes nothing but the
    step count, and says so in ``metrics["finite"]``: the caller's buffers may
    be donated, so the old parameters could not be had back.

    Args:
        grad: the gradient of a batch, and its metrics.
        optimizer: of the parameters.
        steps: of the whole training.

    Returns:
        The step. ``metrics`` are those of ``grad``, with ``grad_norm``
        (global, before clipping) and ``finite``.
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, metrics = grad(state.meta_params, batch, key, state.step / steps)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.meta_params)
        new = (optax.apply_updates(state.meta_params, updates), opt_state)
        old = (state.meta_params, state.opt_state)
        meta_params, opt_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        return (
            TrainState(state.step + 1, meta_params, opt_state, state.key),
            {**metrics, "grad_norm": norm, "finite": finite},
        )

    return step
