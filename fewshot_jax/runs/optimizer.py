"""The outer optimizer, and its learning rate."""

import re
from collections.abc import Callable

import jax
import optax

from fewshot_jax.config import OuterConfig
from fewshot_jax.config.pretraining import OptimizerConfig
from fewshot_jax.types import MetaParams, PyTree

OptimizerFields = OuterConfig | OptimizerConfig  # the sections `outer` of meta-training and `optimizer` of pretraining


def learning_rate(config: OptimizerFields) -> optax.Schedule:
    """Build a schedule: linear warm-up from zero, then cosine decay to zero at the last step."""
    warmup = round(config.warmup * config.steps)
    return optax.warmup_cosine_decay_schedule(0.0, config.rate, warmup, max(config.steps, warmup + 1))


def decays(params: MetaParams) -> MetaParams:
    """Return True at kernels and embeddings, False at biases, norms, scalars and a learner's extras.

    By name, because the leaves of scanned layers have one more axis.
    """
    pattern = re.compile(r"^params/.*\b(kernel|embedding)$")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: pattern.search(jax.tree_util.keystr(path, simple=True, separator="/")) is not None, params
    )


def nowhere(params: MetaParams) -> PyTree:
    """Return False at every leaf."""
    return jax.tree.map(lambda _: False, params)


def clipped_adamw(
    config: OptimizerFields, *, nonnegative: Callable[[MetaParams], PyTree] = nowhere
) -> optax.GradientTransformation:
    """Build AdamW after clipping to a global norm; only kernels and embeddings decay.

    Args:
        config: of the optimizer.
        nonnegative: ``params -> mask`` of the leaves that stop at zero.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(learning_rate(config), weight_decay=config.weight_decay, mask=decays),
        optax.masked(optax.keep_params_nonnegative(), nonnegative),
    )
