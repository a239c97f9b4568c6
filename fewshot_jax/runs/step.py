"""One guarded step of an optimizer, a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.parallel.mesh import TASK
from fewshot_jax.parallel.rules import gathered
from fewshot_jax.runs.state import Health, TrainState
from fewshot_jax.types import MetaParams, PyTree

Metrics = dict[str, jax.Array]
StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
# ``(meta_params, batch, key, share of the steps taken) -> (gradient, metrics)``, the metrics with a ``loss``.
StepGradient = Callable[[MetaParams, PyTree, jax.Array, jax.Array], tuple[MetaParams, Metrics]]
SPIKE_WARMUP = 20  # steps taken before a loss can be a spike
SPIKE_DECAY = 0.95  # of the running mean of the losses


def sharded(grad: StepGradient, shardings: PyTree) -> StepGradient:
    """A gradient whose parameters are divided over a mesh.

    They are gathered over the fsdp axis once, before the inner loops, each of which adapts a copy of them; the
    gradient is divided as they are.

    Args:
        grad: of parameters that are whole.
        shardings: of the meta-parameters, a tree of `NamedSharding`.
    """

    def divided(meta_params: MetaParams, batch: PyTree, key: jax.Array, progress: jax.Array) -> Any:
        whole = jax.lax.with_sharding_constraint(meta_params, jax.tree.map(gathered, shardings))
        grads, metrics = grad(whole, batch, key, progress)
        return jax.lax.with_sharding_constraint(grads, shardings), metrics

    return divided


def guarded_step(
    grad: StepGradient, optimizer: optax.GradientTransformation, *, steps: int, spike_factor: float | None = None
) -> StepFn:
    """Build ``(state, batch) -> (state, metrics)``.

    A step whose loss or gradient is not finite, or whose loss is a spike, is skipped: it changes nothing but the step
    count and the state's `Health`. The caller's buffers may be donated, so the old parameters could not be had back.

    Args:
        grad: the gradient of a batch, and its metrics.
        optimizer: of the parameters.
        steps: of the whole training.
        spike_factor: a loss of so many times the running mean of those before is a spike; None for no such thing.

    Returns:
        The step. ``metrics`` are those of ``grad``, with ``grad_norm`` (global, before clipping), ``finite``,
        ``spike``, and ``skipped`` and ``in_a_row`` of the `Health` after the step.
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, metrics = grad(state.meta_params, batch, key, state.step / steps)
        norm = optax.tree.norm(grads)
        loss = metrics["loss"].astype(jnp.float32)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        spike = jnp.bool(False)
        if spike_factor is not None:
            spike = (
                finite & (state.step - state.health.skipped >= SPIKE_WARMUP) & (loss > spike_factor * state.health.loss)
            )
        taken = finite & ~spike
        updates, opt_state = optimizer.update(grads, state.opt_state, state.meta_params)
        new = (optax.apply_updates(state.meta_params, updates), opt_state)
        old = (state.meta_params, state.opt_state)
        meta_params, opt_state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
        health = _after(state.health, loss, taken)
        return (
            TrainState(state.step + 1, meta_params, opt_state, state.key, health),
            {
                **metrics,
                "grad_norm": norm,
                "finite": finite,
                "spike": spike,
                "skipped": health.skipped,
                "in_a_row": health.in_a_row,
            },
        )

    return step


def step_on_mesh(
    grad: StepGradient,
    optimizer: optax.GradientTransformation,
    state_shardings: Any,
    *,
    steps: int,
    spike_factor: float | None = None,
) -> Any:
    """The step of a training, a jitted function: `guarded_step` of a state that is divided over a mesh, and donated.

    Args:
        grad, optimizer, steps, spike_factor: as of `guarded_step`.
        state_shardings: a `NamedSharding` for each leaf of the state.
    """
    mesh = state_shardings.step.mesh
    if mesh.size > mesh.shape[TASK]:
        grad = sharded(grad, state_shardings.meta_params)
    step = guarded_step(grad, optimizer, steps=steps, spike_factor=spike_factor)
    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None))


def _after(health: Health, loss: jax.Array, taken: jax.Array) -> Health:
    """The health after a step; the running mean starts with the first loss."""
    mean = jnp.where(health.loss == 0, loss, SPIKE_DECAY * health.loss + (1 - SPIKE_DECAY) * loss)
    return Health(
        skipped=health.skipped + ~taken,
        in_a_row=jnp.where(taken, 0, health.in_a_row + 1),
        loss=jnp.where(taken, mean, health.loss),
    )
