"""MAML++: MAML with the parts that made its training stable, each of which stands alone.

* Learned rates for each layer and step: `learned_rates`.
* `multi_step_weights`: the losses after every inner step count, less and less as training goes on.
* First order for the first share of training, second order after it.
* The cosine schedule of the outer rate is the outer optimizer's own.

The batch statistics of each inner step (the paper's BNRS and BNWB) have no place here: models are to
normalise without running statistics, by LayerNorm or by the batch at hand.
"""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.gradient_based import Adaptation, adaptation, after_last_step
from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.algorithms.learned_rates import learned_rates
from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.meta_batch import mean_gradient, weighted_sum
from fewshot_jax.algorithms.options import InnerLoopOptions, learner_factory
from fewshot_jax.types import Aux, Episode, GradFn, Key, LossFn, MetaLearner, MetaParams, Params, PyTree


def multi_step_weights(progress: float | jax.Array, steps: int, taken: int | jax.Array | None = None) -> jax.Array:
    """Weights ``[steps]`` of the query losses after each inner step, of sum one.

    Equal at first; those of all steps but the last fall linearly to zero.

    Args:
        progress: share of the annealing that is done, 0 to 1.
        steps: number of inner steps, at least one.
        taken: how many of them are taken, traced or not; the others have weight zero. None for all.

    References:
        Antoniou, Edwards, Storkey. How to Train Your MAML. ICLR 2019 (section 4, "MSL"; v_i of equation 4).
    """
    # Where no step is taken, the loss "after the first" is the one at the start.
    last = jnp.clip(steps if taken is None else taken, 1, steps) - 1
    early = (1 - jnp.clip(progress, 0, 1)) / (last + 1)
    index = jnp.arange(steps)
    return jnp.where(index < last, early, jnp.where(index == last, 1 - last * early, 0))


@learner_factory
def maml_plus_plus(
    loss_fn: LossFn,
    *,
    inner_rate: float = 0.01,
    multi_step_share: float = 0.1,
    first_order_share: float = 0.3,
    task_chunk: int | None = None,
    **options: Unpack[InnerLoopOptions],
) -> MetaLearner:
    """MAML++: learned per-layer per-step rates, multi-step losses, first order before second.

    ``grad`` takes ``progress=``, the share of meta-training that is done, 0 to 1, which may be traced; without it,
    training counts as done: the plain second-order gradient of the loss after the last step.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        inner_rate: where the rates start.
        multi_step_share: the first share of training, in which the losses after all steps count.
        first_order_share: the first share of training, in which the inner gradient is held constant.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.
        options: those of `maml`. Of ``inner_steps``, 5 unless given, each has rates of its own, and
            further steps use the last; ``gradient`` is that of the second-order phase;
            an ``inner_optimizer`` replaces the learned rates.

    Returns:
        A `MetaLearner`; the rates are ``meta_params["inner_rates"]``, ``[inner_steps]`` by path.

    Raises:
        ValueError: a share is not between 0 and 1, or as in `maml`.

    References:
        Antoniou, Edwards, Storkey. How to Train Your MAML. ICLR 2019 (section 4).
    """
    for name, share in (("multi_step_share", multi_step_share), ("first_order_share", first_order_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: expected a share of training, 0 to 1")
    steps = max(options.setdefault("inner_steps", 5), 1)
    options.setdefault("inner_optimizer", learned_rates(inner_rate, steps=steps))
    plain = maml(loss_fn, **options)
    second = adaptation(loss_fn, **options)
    options["gradient"] = "first_order"
    first = adaptation(loss_fn, **options)

    def phase(begin: float) -> GradFn:
        """The gradient from this share of training on, until the next phase."""
        parts = first if begin < first_order_share else second
        task_loss = functools.partial(_task_loss, parts, multi_step=begin < multi_step_share)
        return mean_gradient(task_loss, task_chunk=task_chunk)

    cuts = sorted({multi_step_share, first_order_share} - {0})
    phases: list[Callable[..., Any]] = [phase(begin) for begin in (0.0, *cuts)]

    def grad(
        meta_params: MetaParams, episodes: Episode, rng: Key, *, progress: float | jax.Array = 1.0, **keywords: Any
    ) -> tuple[MetaParams, dict[str, jax.Array]]:
        annealed = progress / multi_step_share if multi_step_share else 1.0
        ready = [functools.partial(each, annealed=annealed, **keywords) for each in phases]
        if isinstance(progress, jax.core.Tracer):
            passed = jnp.sum(progress >= jnp.array(cuts)) if cuts else 0
            return jax.lax.switch(passed, ready, meta_params, episodes, rng)
        return ready[sum(progress >= cut for cut in cuts)](meta_params, episodes, rng)

    return plain._replace(grad=grad)


def _task_loss(
    parts: Adaptation,
    meta_params: MetaParams,
    episode: Episode,
    rng: Key,
    *,
    multi_step: bool,
    annealed: float | jax.Array,
    frozen: PyTree = None,
    **overrides: Any,
) -> tuple[jax.Array, Aux]:
    """Query loss after the last inner step, or the weighted sum of those after every step."""

    def query_loss(params: Params) -> tuple[jax.Array, Aux]:
        return parts.task_loss(params, episode.query, query_key(rng), frozen)

    each_step = query_loss if multi_step else None
    adapted = parts.run(meta_params, episode.support, rng, frozen=frozen, each_step=each_step, **overrides)
    if not multi_step or not adapted.support_loss.size:
        return after_last_step(parts, adapted, episode.query, rng, frozen)
    losses, aux = adapted.each_step
    weights = multi_step_weights(annealed, losses.shape[0], overrides.get("inner_steps"))
    # In the dtype of the other phases' loss, which stands beside this one in a switch.
    total = weighted_sum(weights, losses).astype(losses.dtype)
    return total, {**jax.tree.map(lambda leaf: leaf[-1], aux), "support_loss": adapted.support_loss}
