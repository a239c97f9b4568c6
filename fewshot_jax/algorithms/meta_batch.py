"""One task to many: the only place where the task axis ``T`` is known.

A learner is written for one task. Here it is vmapped over the tasks of a
meta-batch, or over chunks of them under a scan that sums, so that memory is
bounded by the chunk and not by the meta-batch.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.partition import leaf_path, varying_as
from fewshot_jax.types import Aux, Episode, GradFn, Key, MetaParams, PyTree, TaskLossFn

# (sum over the chunk's tasks of weight * direction, (losses [t], aux of leaves [t, ...]))
ChunkFn = Callable[[tuple[Episode, Key, jax.Array]], tuple[MetaParams, tuple[jax.Array, Aux]]]


def check_task_axis(episodes: PyTree, task_weight: jax.Array | None = None) -> int:
    """Return the number of tasks ``T``, the leading axis shared by every leaf.

    Raises:
        ValueError: a leaf has no leading axis or another length than most
            leaves; the message names the leaf, the expected and the given shape.
    """
    if task_weight is not None and jnp.ndim(task_weight) != 1:
        raise ValueError(f"task_weight has shape {jnp.shape(task_weight)}, expected (T,), one weight for each task")
    tree = {"episodes": episodes, **({} if task_weight is None else {"task_weight": task_weight})}
    leaves = [(leaf_path(path), jnp.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    if not leaves:
        raise ValueError("episodes has no leaves: expected batches of arrays with a leading task axis [T, ...]")
    lengths = collections.Counter(shape[0] for _, shape in leaves if shape)
    tasks = lengths.most_common(1)[0][0] if lengths else None
    for name, shape in leaves:
        if not shape or shape[0] != tasks:
            expected = f"({tasks if tasks is not None else 'T'}, {', '.join(map(str, shape[1:])) or '...'})"
            raise ValueError(
                f"leaf '{name}' has shape {shape}, expected {expected}: every leaf of a meta-batch needs the same "
                "leading task axis"
            )
    if not tasks:
        raise ValueError(f"leaf '{leaves[0][0]}' has shape {leaves[0][1]}: a meta-batch needs at least one task")
    return int(tasks)


def task_keys(rng: Key, tasks: int, offset: int | jax.Array = 0) -> Key:
    """The key of each task, ``fold_in(rng, global task index)``: ``[T]`` keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, offset + jnp.arange(tasks))


def _sum_over_chunks(
    chunk_fn: ChunkFn, tasks: PyTree, count: int, task_chunk: int | None, task_shards: int, meta_params: MetaParams
) -> PyTree:
    """Apply ``chunk_fn`` to at most ``task_chunk`` tasks of each shard at a time and sum the directions.

    A shard ``s`` is a run of tasks that follow each other. Each has a sum of its own, ``[s, ...]``, and they are added
    once, after the last chunk: where shards are those of devices, nothing is sent before.

    A shard's tasks are laid out as ``[chunk, chunks]`` and the axes swapped, never
    reshaped to ``[chunks, chunk]``: a task axis that is sharded over devices
    would have to be gathered for that.
    """
    here = count // task_shards
    if task_chunk is None or task_chunk >= here:
        return chunk_fn(tasks)
    chunks = -(-here // task_chunk)
    chunk = -(-here // chunks)

    def lay_out(leaf: jax.Array) -> jax.Array:  # [T, ...] -> [chunks, s, chunk, ...]
        each = leaf.reshape(task_shards, here, *leaf.shape[1:])
        if chunk * chunks != here:
            # Repeat the last task, with weight zero: it stays finite where zeros might not.
            each = each[:, jnp.minimum(jnp.arange(chunk * chunks), here - 1)]
        return jnp.moveaxis(each.reshape(task_shards, chunk, chunks, *leaf.shape[1:]), 2, 0)

    def in_order(leaf: jax.Array) -> jax.Array:  # and back
        each = jnp.moveaxis(leaf, 0, 2).reshape(task_shards, chunk * chunks, *leaf.shape[3:])
        return each[:, :here].reshape(count, *leaf.shape[3:])

    episodes, keys, weight = jax.tree.map(lay_out, tasks)
    padded = (jnp.arange(chunk * chunks) >= here).reshape(chunk, chunks).T[:, None]
    laid_out = (episodes, keys, jnp.where(padded, 0, weight))
    zero = jax.tree.map(lambda leaf: jnp.zeros((task_shards, *jnp.shape(leaf)), jnp.result_type(leaf)), meta_params)

    def accumulate(total: MetaParams, one: PyTree) -> tuple[MetaParams, tuple[jax.Array, Aux]]:
        direction, per_task = _each(chunk_fn, one, task_shards)
        return jax.tree.map(jnp.add, total, direction), per_task

    total, per_task = jax.lax.scan(accumulate, zero, laid_out)
    return jax.tree.map(lambda leaf: leaf.sum(0), total), jax.tree.map(in_order, per_task)


def _each(function: Callable[[PyTree], PyTree], shards: PyTree, count: int) -> PyTree:
    """``vmap(function)(shards)``, without it for one shard: products batched by one are slower."""
    if count > 1:
        return jax.vmap(function)(shards)
    return jax.tree.map(lambda leaf: leaf[None], function(jax.tree.map(lambda leaf: leaf[0], shards)))


def weighted_sum(weight: jax.Array, values: jax.Array) -> jax.Array:
    """Sum over tasks ``[T]`` of weight times value, in float32 or better."""
    precise = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.sum(weight.astype(precise) * values.astype(precise))


def _metrics(losses: jax.Array, aux: Aux, weight: jax.Array) -> dict[str, jax.Array]:
    """Average scalar aux over tasks; keep the support losses; drop the rest."""
    scalars = {name: weighted_sum(weight, value) for name, value in aux.items() if jnp.ndim(value) == 1}
    kept = {"support_loss": aux["support_loss"]} if "support_loss" in aux else {}
    return {**scalars, **kept, "loss": weighted_sum(weight, losses), "task_loss": losses}


def over_tasks(
    chunk_direction: Callable[..., tuple[MetaParams, tuple[jax.Array, Aux]]], *, task_chunk: int | None = None
) -> GradFn:
    """Lift a direction over a chunk of tasks to the ``grad`` of a learner.

    Args:
        chunk_direction: ``(meta_params, (episodes, keys [t], weight [t]), **keywords)
            -> (sum of weight * direction, (losses [t], aux))``; a direction has the
            structure, shapes and dtypes of ``meta_params``.
        task_chunk: how many tasks (of a shard) are vmapped at once; None for all of them.

    Returns:
        ``grad(meta_params, episodes, rng, *, frozen, task_weight, task_offset, task_shards, progress)``.
        Tasks count equally, or in proportion to ``task_weight [T]``, where zero
        marks a padded task (which must still be finite: repeat a real one).
        ``task_offset`` is the global index of the first task, for hosts or
        accumulation steps that hold a part of a meta-batch. ``task_shards`` is the number of devices over which
        the task axis is divided: with ``task_chunk``, each sums the directions of its own tasks, and one reduction
        follows the last chunk. ``progress``, the share
        of meta-training that is done, is accepted and ignored.

    Raises:
        ValueError: ``task_chunk`` is not positive.
    """
    if task_chunk is not None and task_chunk < 1:
        raise ValueError(f"task_chunk={task_chunk}: expected a positive number of tasks, or None")

    def grad(
        meta_params: MetaParams,
        episodes: Episode,
        rng: Key,
        *,
        frozen: PyTree = None,
        task_weight: jax.Array | None = None,
        task_offset: int | jax.Array = 0,
        task_shards: int = 1,
        progress: float | jax.Array = 1.0,
        **overrides: Any,
    ) -> tuple[MetaParams, dict[str, jax.Array]]:
        """`GradFn`. Has more than 8 parameters because that contract has them."""
        del progress  # of use to a learner with a schedule, which wraps this function
        tasks = check_task_axis(episodes, task_weight)
        if task_shards < 1 or tasks % task_shards:
            raise ValueError(f"task_shards={task_shards}: expected a divisor of the {tasks} tasks")
        meta_params = varying_as(meta_params, episodes)
        if task_weight is None:
            weight = jnp.full(tasks, 1 / tasks)
        else:
            total = jnp.sum(task_weight)
            weight = task_weight / jnp.where(total > 0, total, 1)

        def chunk_fn(chunk: PyTree) -> tuple[MetaParams, tuple[jax.Array, Aux]]:
            return chunk_direction(meta_params, chunk, frozen=frozen, **overrides)

        grads, (losses, aux) = _sum_over_chunks(
            chunk_fn,
            (episodes, task_keys(rng, tasks, task_offset), weight),
            tasks,
            task_chunk,
            task_shards,
            meta_params,
        )
        return grads, _metrics(losses, aux, weight)

    return grad


def mean_gradient(loss: TaskLossFn, *, task_chunk: int | None = None) -> GradFn:
    """The ``grad`` of most learners: the gradient of the mean of ``loss`` over tasks."""

    def chunk_direction(meta_params: MetaParams, chunk: PyTree, **keywords: Any) -> PyTree:
        episodes, keys, weight = chunk

        def total(meta_params: MetaParams) -> tuple[jax.Array, tuple[jax.Array, Aux]]:
            losses, aux = jax.vmap(lambda episode, key: loss(meta_params, episode, key, **keywords))(episodes, keys)
            return weighted_sum(weight, losses), (losses, aux)

        (_, per_task), grads = jax.value_and_grad(total, has_aux=True)(meta_params)
        return grads, per_task

    return over_tasks(chunk_direction, task_chunk=task_chunk)
