"""Scores of a learner over many episodes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.algorithms.meta_batch import task_keys
from fewshot_jax.applications.application import Score, Stream
from fewshot_jax.parallel.mesh import (
    TASK,
    batch_shards,
    dividing_mesh,
    host_values,
    replicate,
    shard_tasks,
    task_mesh,
)
from fewshot_jax.parallel.rules import gathered
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, PyTree

TaskScores = Callable[[MetaParams, Episode, Key], PyTree]
EpisodeJudge = Callable[[PyTree, Episode], PyTree]  # (outputs, episode) -> scores of one task
BatchScores = Callable[[MetaParams, Episode, Key, int], PyTree]
WHOLE, DIVIDED = PartitionSpec(), PartitionSpec(TASK)  # on each device; by the task axis


def local_mesh(tasks: int) -> Mesh:
    """As many of this process's devices as divide a number of tasks evenly."""
    devices = jax.local_devices()
    shards = next(n for n in range(len(devices), 0, -1) if tasks % n == 0)
    return task_mesh(devices[:shards])


class OverEpisodes:
    """``(meta_params, episodes, rng, first, *more) -> scores [T, ...]``, compiled, of a function for one task.

    Task ``i`` uses the key ``fold_in(rng, first + i)``. Where each device has all parameters, the tasks are divided
    over this process's devices, see `local_mesh`, which have nothing to tell each other. Parameters that a mesh
    divides stay so: the program gathers them over the fsdp axis as a training step does, and divides the tasks, which
    must be a multiple of `batch_shards`, over the mesh.

    Args:
        of_task: ``(meta_params, episode, key, *more) -> scores``.
        task_chunk: how many tasks of a device are vmapped at once; None for all.
    """

    def __init__(self, of_task: Callable[..., PyTree], *, task_chunk: int | None = None):
        self._of_task, self._task_chunk = of_task, task_chunk
        self._whole = jax.jit(self._on_local_devices)
        self._on_mesh = functools.cache(self._compile_on_mesh)

    def __call__(self, meta_params: MetaParams, episodes: Episode, rng: Key, first: int, *more: Any) -> PyTree:
        return self._of(meta_params)(meta_params, episodes, rng, first, *more)

    def lower(self, meta_params: MetaParams, *arguments: Any) -> Any:
        """As of a jitted function."""
        return self._of(meta_params).lower(meta_params, *arguments)

    def _of(self, meta_params: MetaParams) -> Any:
        if (mesh := dividing_mesh(meta_params)) is None:
            return self._whole
        leaves, structure = jax.tree.flatten(meta_params)
        return self._on_mesh(mesh, structure, tuple(gathered(leaf.sharding) for leaf in leaves))

    def _on_local_devices(self, meta_params: MetaParams, episodes: Episode, rng: Key, first: int, *more: Any) -> PyTree:
        def on_one_device(meta_params: MetaParams, tasks: PyTree, more: tuple[Any, ...]) -> PyTree:
            here = jax.tree.leaves(tasks)[0].shape[0]
            chunk = here if self._task_chunk is None else min(self._task_chunk, here)
            return jax.lax.map(lambda task: self._of_task(meta_params, *task, *more), tasks, batch_size=chunk)

        tasks = jax.tree.leaves(episodes)[0].shape[0]
        divided = jax.shard_map(
            on_one_device,
            mesh=local_mesh(tasks),
            in_specs=(WHOLE, DIVIDED, WHOLE),
            out_specs=DIVIDED,
            check_vma=False,  # of reductions between devices, of which there are none
        )
        return divided(meta_params, (episodes, task_keys(rng, tasks, first)), more)

    def _compile_on_mesh(self, mesh: Mesh, structure: Any, shardings: tuple[NamedSharding, ...]) -> Any:
        """Of parameters that the mesh divides; ``shardings`` are those of the gathered leaves."""
        shards = batch_shards(mesh)

        def scores(meta_params: MetaParams, episodes: Episode, rng: Key, first: int, *more: Any) -> PyTree:
            whole = jax.lax.with_sharding_constraint(meta_params, jax.tree.unflatten(structure, shardings))
            tasks = jax.tree.leaves(episodes)[0].shape[0]
            here = tasks // shards
            chunk = here if self._task_chunk is None else min(self._task_chunk, here)
            steps = -(-here // chunk)
            index = jnp.minimum(jnp.arange(steps * chunk), here - 1)  # the last task again, where a chunk is not full

            def lay_out(leaf: jax.Array) -> jax.Array:  # [T, ...] -> [steps, shards, chunk, ...]
                each = leaf.reshape(shards, here, *leaf.shape[1:])[:, index]
                return jnp.moveaxis(each.reshape(shards, steps, chunk, *leaf.shape[1:]), 1, 0)

            def in_order(leaf: jax.Array) -> jax.Array:  # and back
                each = jnp.moveaxis(leaf, 0, 1).reshape(shards, steps * chunk, *leaf.shape[3:])
                return each[:, :here].reshape(tasks, *leaf.shape[3:])

            of_chunk = jax.vmap(jax.vmap(lambda task: self._of_task(whole, *task, *more)))
            laid_out = jax.tree.map(lay_out, (episodes, task_keys(rng, tasks, first)))
            return jax.tree.map(in_order, jax.lax.map(of_chunk, laid_out))

        return jax.jit(scores, out_shardings=NamedSharding(mesh, WHOLE))


def over_episodes(of_task: Callable[..., PyTree], *, task_chunk: int | None = None) -> OverEpisodes:
    """`OverEpisodes` of a function for one task."""
    return OverEpisodes(of_task, task_chunk=task_chunk)


def judge_by(scores: Sequence[Score]) -> EpisodeJudge:
    """The judge that gives each score by name, and what was written as ``ids`` where something was."""

    def judge(outputs: PyTree, episode: Episode) -> dict[str, jax.Array]:
        values = {score.name: score.of(outputs, episode) for score in scores}
        written = getattr(outputs, "ids", None)
        return values if written is None else {**values, "ids": written}

    return judge


def episode_scores(
    learner: MetaLearner, judge: EpisodeJudge, *, task_chunk: int | None = None, inner_steps: int | None = None
) -> BatchScores:
    """Compile ``(meta_params, episodes, rng, first) -> scores``, with a leading axis ``[T]``, for a learner.

    Args:
        learner: without dropout.
        judge: of the outputs of ``learner.predict`` on the query set: a score's ``of``, or `judge_by` several.
        task_chunk: how many tasks are vmapped at once; None for all.
        inner_steps: other than the learner's own; None for those.
    """
    overrides = {} if inner_steps is None else {"inner_steps": inner_steps}

    def one(meta_params: MetaParams, episode: Episode, key: Key) -> PyTree:
        adapted = learner.adapt(meta_params, episode.support, key, **overrides)
        return judge(learner.predict(adapted, episode.query, query_key(key)), episode)

    return over_episodes(one, task_chunk=task_chunk)


def evaluate_episodes(
    scores: Callable[..., PyTree],
    meta_params: MetaParams,
    stream: Stream,
    *more: Any,
    episodes: int,
    tasks: int,
    rng: Key,
) -> Any:
    """Scores ``[episodes, ...]``, an array or a dict of them, of the first episodes of a stream.

    Args:
        scores: from `over_episodes`.
        meta_params: of the learner.
        stream: ``(step, tasks) -> Episode``.
        more: further arguments of ``scores``.
        episodes: how many; the last batch is cut to it.
        tasks: episodes in a batch.
        rng: key of the evaluation.
    """
    batches = (stream(step, tasks) for step in range(-(-episodes // tasks)))
    if (mesh := dividing_mesh(meta_params)) is None:
        mesh = local_mesh(tasks)
        meta_params = jax.device_put(meta_params, NamedSharding(mesh, WHOLE))
        placed = (jax.device_put(batch, NamedSharding(mesh, DIVIDED)) for batch in batches)
    else:
        rng = replicate(rng, mesh)
        placed = (shard_tasks(_filled(batch, batch_shards(mesh)), mesh) for batch in batches)
    values = [scores(meta_params, batch, rng, step * tasks, *more) for step, batch in enumerate(placed)]
    return jax.tree.map(lambda *parts: _joined([host_values(part)[:tasks] for part in parts])[:episodes], *values)


def _filled(batch: Episode, shards: int) -> Episode:
    """A batch whose last episode is repeated until its number is a multiple of ``shards``."""
    tasks = jax.tree.leaves(batch)[0].shape[0]
    index = np.minimum(np.arange(-(-tasks // shards) * shards), tasks - 1)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], batch)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate batches; where their texts went into different buckets, the last axis is padded with -1."""
    if len({part.shape[1:] for part in parts}) > 1:
        longest = max(part.shape[-1] for part in parts)
        widths = [[(0, 0)] * (part.ndim - 1) + [(0, longest - part.shape[-1])] for part in parts]
        parts = [np.pad(part, width, constant_values=-1) for part, width in zip(parts, widths, strict=True)]
    return np.concatenate(parts)
