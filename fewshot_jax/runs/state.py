"""What a run carries from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.types import MetaParams


class Health(NamedTuple):
    """What the guard of a step remembers.

    Attributes:
        skipped: int32, updates skipped since the start of the run.
        in_a_row: int32, those since the last one that was not.
        loss: float32, running mean of the losses of the others.
    """

    skipped: jax.Array
    in_a_row: jax.Array
    loss: jax.Array


class TrainState(NamedTuple):
    """Everything a resumed run needs besides its config.

    Attributes:
        step: int32, outer steps taken, or skipped.
        meta_params: what the outer optimizer trains.
        opt_state: of the outer optimizer.
        key: raw key data; step ``i`` uses ``fold_in(key, i)``.
        health: of the steps so far.
    """

    step: jax.Array
    meta_params: MetaParams
    opt_state: optax.OptState
    key: jax.Array
    health: Health


def first_state(meta_params: MetaParams, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step.

    Args:
        meta_params: untrained.
        optimizer: of these.
        key: of the training.
    """
    health = Health(jnp.int32(0), jnp.int32(0), jnp.float32(0))
    return TrainState(jnp.int32(0), meta_params, optimizer.init(meta_params), jax.random.key_data(key), health)


class RunKeys(NamedTuple):
    """The keys of a run, all from its seed and none used twice."""

    params: jax.Array
    learner: jax.Array
    train: jax.Array
    evaluation: jax.Array


def run_keys(seed: int) -> RunKeys:
    """Split a seed into the keys of a run."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 4))
