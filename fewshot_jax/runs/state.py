"""What a run carries from step to step, and the outer optimizer."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.gradient_based import RATES
from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.applications.application import Functions
from fewshot_jax.config import Config, OuterConfig
from fewshot_jax.config.pretraining import OptimizerConfig
from fewshot_jax.training.frozen import trained_leaves
from fewshot_jax.training.learners import build_learner
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


def learning_rate(config: OuterConfig | OptimizerConfig) -> optax.Schedule:
    """Linear warm-up from zero, then cosine decay to zero at the last step."""
    warmup = round(config.warmup * config.steps)
    return optax.warmup_cosine_decay_schedule(0.0, config.rate, warmup, max(config.steps, warmup + 1))


def decays(params: MetaParams) -> MetaParams:
    """True at kernels and embeddings, False at biases, norms, scalars and a learner's extras.

    By name, because the leaves of scanned layers have one axis more.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: re.search(r"^params/.*\b(kernel|embedding)$", leaf_path(path)) is not None, params
    )


def learned_rates(params: MetaParams) -> MetaParams:
    """True at the learned inner rates."""
    return {name: jax.tree.map(lambda _, name=name: name == RATES, tree) for name, tree in params.items()}


def outer_optimizer(config: OuterConfig | OptimizerConfig) -> optax.GradientTransformation:
    """AdamW after clipping to a global norm; only kernels and embeddings decay, and learned rates stop at zero.

    It has no state for leaves that are not trained (``outer.params``), and their gradient of zero is their update.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            learning_rate(config),
            weight_decay=config.weight_decay,
            mask=decays,
        ),
        optax.masked(optax.keep_params_nonnegative(), learned_rates),
    )
    pattern = config.params if isinstance(config, OuterConfig) else None
    return optimizer if pattern is None else optax.masked(optimizer, lambda params: trained_leaves(params, pattern))


class RunKeys(NamedTuple):
    """The keys of a run, all from its seed and none used twice."""

    params: jax.Array
    learner: jax.Array
    train: jax.Array
    evaluation: jax.Array


def run_keys(seed: int) -> RunKeys:
    """Split a seed into the keys of a run."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 4))


def initial_state(config: Config, functions: Functions) -> TrainState:
    """The state before the first step, a function of the config's seed.

    Args:
        config: of the run.
        functions: of its application, in training.
    """
    keys = run_keys(config.seed)
    learner = build_learner(functions, config, training=True)
    meta_params = learner.init(functions.init_params(keys.params), keys.learner)
    return first_state(meta_params, outer_optimizer(config.outer), keys.train)
