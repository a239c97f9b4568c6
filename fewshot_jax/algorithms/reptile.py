"""Reptile: move the initialisation towards each task's adapted parameters."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.gradient_based import adaptation, after_last_step
from fewshot_jax.algorithms.learned_rates import LearnedRates
from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.meta_batch import over_tasks
from fewshot_jax.algorithms.options import InnerLoopOptions, decide, learner_factory
from fewshot_jax.algorithms.partition import leaf_path, merge
from fewshot_jax.types import Aux, Episode, Key, LossFn, MetaLearner, MetaParams, PyTree


@learner_factory
def reptile(loss_fn: LossFn, *, task_chunk: int | None = None, **options: Unpack[InnerLoopOptions]) -> MetaLearner:
    """Reptile: ``grad`` is theta minus the mean over tasks of theta after the inner loop.

    In training the inner loop sees all items of a task, support and query, as the
    paper does (train on more shots than are tested); ``inner_batch_size`` draws
    minibatches from them. ``adapt`` and ``loss`` are those of MAML.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.
        options: those of `maml` but ``gradient``: nothing is differentiated twice.

    Returns:
        A `MetaLearner`. ``grads`` is in the units of the parameters, of the size of the inner
        rate times a gradient; leaves that do not adapt get zeros. ``metrics["loss"]`` is
        the loss of the query items after the inner loop that saw them.

    Raises:
        ValueError: rates are to be learned, which this direction says nothing about; or as in `maml`.

    References:
        Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms.
        arXiv:1803.02999, 2018 (algorithm 2: the batched version).
    """
    if isinstance(options.get("inner_optimizer"), LearnedRates):
        raise ValueError("reptile has no gradient for learned rates: give an optax transformation as inner_optimizer")
    decide(options, "reptile", gradient="first_order")
    parts = adaptation(loss_fn, **options)

    def task_direction(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[MetaParams, tuple[jax.Array, Aux]]:
        items = jax.tree.map(lambda *sides: jnp.concatenate(sides), *episode)
        adapted = parts.run(meta_params, items, rng, frozen=frozen, **overrides)
        moved = jax.tree.map(jnp.subtract, adapted.start, adapted.inner)
        still = jax.tree.map(jnp.zeros_like, adapted.rest)
        # By path, because a task's tree may have more leaves: a head that its start added.
        moved = jax.tree_util.tree_leaves_with_path({"params": merge(moved, still)})
        by_path = {leaf_path(path): leaf for path, leaf in moved}
        direction = jax.tree_util.tree_map_with_path(lambda path, _: by_path[leaf_path(path)], meta_params)
        return direction, after_last_step(parts, adapted, episode.query, rng, frozen)

    def chunk_direction(meta_params: MetaParams, chunk: PyTree, **keywords: Any) -> PyTree:
        episodes, keys, weight = chunk
        directions, per_task = jax.vmap(lambda *task: task_direction(meta_params, *task, **keywords))(episodes, keys)

        def weighted(leaf: jax.Array) -> jax.Array:  # a sum, which no device rounds to TF32 or bf16
            precise = jnp.promote_types(leaf.dtype, jnp.float32)
            total = jnp.tensordot(weight.astype(precise), leaf.astype(precise), 1, precision=jax.lax.Precision.HIGHEST)
            return total.astype(leaf.dtype)

        return jax.tree.map(weighted, directions), per_task

    return maml(loss_fn, **options)._replace(grad=over_tasks(chunk_direction, task_chunk=task_chunk))
