"""Multi-task training, then fine-tuning: the baseline that learns nothing about adapting."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.meta_batch import mean_gradient
from fewshot_jax.algorithms.options import LearnerOptions, decide, learner_factory
from fewshot_jax.algorithms.partition import with_frozen
from fewshot_jax.types import Aux, Episode, Key, LossFn, MetaLearner, MetaParams, PyTree


@learner_factory
def multi_task(
    loss_fn: LossFn, *, joint_loss_fn: LossFn | None = None, **options: Unpack[LearnerOptions]
) -> MetaLearner:
    """Joint training on all items of all tasks; ``adapt`` fine-tunes what came of it.

    ``grad`` is the gradient of the mean over tasks of ``joint_loss_fn`` on the support and query items
    together, at the parameters themselves: no inner loop. ``adapt`` and ``loss`` are those of MAML.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task: what fine-tuning lowers.
        joint_loss_fn: the same for items of many tasks (a classifier of all training classes, say);
            None for ``loss_fn``.
        options: those of `maml` but ``gradient``.

    Returns:
        A `MetaLearner`; ``metrics`` are those of the joint loss.

    Raises:
        ValueError: ``grad`` is given a rate or a number of inner steps; or as in `maml`.

    References:
        Caruana. Multitask Learning. Machine Learning 28, 1997.
        Chen, Liu, Kira, Wang, Huang. A Closer Look at Few-shot Classification. ICLR 2019
        (section 3.2, "Baseline": train on all base classes, fine-tune a new head).
        Finn, Abbeel, Levine. ICML 2017, section 5.1 (the "pretrained" baseline of regression).
    """
    decide(options, "multi_task", gradient="first_order")
    joint = loss_fn if joint_loss_fn is None else joint_loss_fn

    def loss(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[jax.Array, Aux]:
        if overrides:
            raise ValueError(f"multi_task trains without an inner loop: {', '.join(overrides)} cannot be overridden")
        items = jax.tree.map(lambda *sides: jnp.concatenate(sides), *episode)
        return with_frozen(joint, frozen)(meta_params["params"], items, query_key(rng))

    return maml(loss_fn, **options)._replace(grad=mean_gradient(loss, task_chunk=options.get("task_chunk")))
