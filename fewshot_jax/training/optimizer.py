"""The outer optimizer of meta-training: learned rates stay positive, and the frozen base is left out."""

import jax
import optax

from fewshot_jax.algorithms.gradient_based import RATES
from fewshot_jax.config import OuterConfig
from fewshot_jax.runs.optimizer import clipped_adamw
from fewshot_jax.training.frozen import trained_leaves
from fewshot_jax.types import MetaParams


def nonnegative_leaves(params: MetaParams) -> MetaParams:
    """Return True at the learned inner rates."""
    return {name: jax.tree.map(lambda _, name=name: name == RATES, tree) for name, tree in params.items()}


def outer_optimizer(config: OuterConfig) -> optax.GradientTransformation:
    """Build `clipped_adamw` of meta-parameters, whose learned rates stop at zero.

    It has no state for leaves that are not trained (``outer.params``), and their gradient of zero is their update.
    """
    optimizer = clipped_adamw(config, nonnegative=nonnegative_leaves)
    if config.params is None:
        return optimizer
    return optax.masked(optimizer, lambda params: trained_leaves(params, config.params))
