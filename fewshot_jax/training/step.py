"""The outer step, a pure function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.training.state import TrainState
from fewshot_jax.types import Episode, MetaLearner

Metrics = dict[str, jax.Array]
StepFn = Callable[[TrainState, Episode], tuple[TrainState, Metrics]]


def make_step(learner: MetaLearner, optimizer: optax.GradientTransformation, *, steps: int) -> StepFn:
    """Build ``(state, episodes) -> (state, metrics)``.

    A step whose loss or meta-gradient is not finite changes nothing but the
    step count, and says so in ``metrics["finite"]``: the caller's buffers may
    be donated, so the old parameters could not be had back.

    Args:
        learner: the meta-learner.
        optimizer: the outer optimizer.
        steps: of the whole training, which a learner with a schedule goes by.

    Returns:
        The step. ``metrics`` are those of ``learner.grad``, with ``grad_norm``
        (global, before clipping) and ``finite``.
    """

    def step(state: TrainState, episodes: Episode) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, metrics = learner.grad(state.meta_params, episodes, key, progress=state.step / steps)
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
