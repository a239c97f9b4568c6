"""Meta-SGD: learn the inner rate of every parameter with the initialisation."""

from typing import Unpack

from fewshot_jax.algorithms.learned_rates import learned_rates
from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.options import LearnerOptions, decide, learner_factory
from fewshot_jax.types import LossFn, MetaLearner


@learner_factory
def meta_sgd(loss_fn: LossFn, *, inner_rate: float = 0.01, **options: Unpack[LearnerOptions]) -> MetaLearner:
    """Meta-SGD: `maml` with SGD whose rates, one for each parameter, are meta-learned.

    ``theta' = theta - alpha * grad L_s(theta)`` elementwise, and the outer loop trains
    theta and alpha. A rate below zero acts as zero.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        inner_rate: where the rates start.
        options: those of `maml` but ``inner_optimizer``; for rates by leaf or by step
            give `maml` one from `learned_rates`.

    Returns:
        A `MetaLearner`; the rates are ``meta_params["inner_rates"]``, arrays by path. ``inner_rate=``
        at a call replaces all of them.

    Raises:
        ValueError: the rate is not positive, an ``inner_optimizer`` is given, or as in `maml`.

    References:
        Li, Zhou, Chen, Li. Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning. arXiv:1707.09835, 2017. Inner step: equation 2; objective: equation 3.
    """
    decide(options, "meta_sgd", inner_optimizer=learned_rates(inner_rate, shape="parameter"))
    return maml(loss_fn, **options)
