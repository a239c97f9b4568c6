"""Scores of a learner over many episodes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.algorithms.meta_batch import task_keys
from fewshot_jax.applications.application import Score, Stream
from fewshot_jax.parallel.mesh import TASK, task_mesh
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, PyTree

TaskScores = Callable[[MetaParams, Episode, Key], PyTree]
Judge = Callable[[PyTree, Episode], PyTree]  # (outputs, episode) -> scores of one task
BatchScores = Callable[[MetaParams, Episode, Key, int], PyTree]
WHOLE, DIVIDED = PartitionSpec(), PartitionSpec(TASK)  # on each device; by the task axis


def local_mesh(tasks: int) -> Mesh:
    """As many of this process's devices as divide a number of tasks evenly."""
    devices = jax.local_devices()
    shards = next(n for n in range(len(devices), 0, -1) if tasks % n == 0)
    return task_mesh(devices[:shards])


def over_episodes(of_task: Callable[..., PyTree], *, task_chunk: int | None = None) -> Callable[..., PyTree]:
    """Compile ``(meta_params, episodes, rng, first, *more) -> scores [T, ...]`` of a function for one task.

    Task ``i`` uses the key ``fold_in(rng, first + i)``. The tasks are divided over this process's devices, see
    `local_mesh`, which have nothing to tell each other.

    Args:
        of_task: ``(meta_params, episode, key, *more) -> scores``.
        task_chunk: how many tasks of a device are vmapped at once; None for all.
    """

    def on_one_device(meta_params: MetaParams, tasks: PyTree, more: tuple[Any, ...]) -> PyTree:
        here = jax.tree.leaves(tasks)[0].shape[0]
        chunk = here if task_chunk is None else min(task_chunk, here)
        return jax.lax.map(lambda task: of_task(meta_params, *task, *more), tasks, batch_size=chunk)

    @jax.jit
    def scores(meta_params: MetaParams, episodes: Episode, rng: Key, first: int, *more: Any) -> PyTree:
        tasks = jax.tree.leaves(episodes)[0].shape[0]
        divided = jax.shard_map(
            on_one_device,
            mesh=local_mesh(tasks),
            in_specs=(WHOLE, DIVIDED, WHOLE),
            out_specs=DIVIDED,
            check_vma=False,  # of reductions between devices, of which there are none
        )
        return divided(meta_params, (episodes, task_keys(rng, tasks, first)), more)

    return scores


def judge_by(scores: Sequence[Score]) -> Judge:
    """The judge that gives each score by name, and what was written as ``ids`` where something was."""

    def judge(outputs: PyTree, episode: Episode) -> dict[str, jax.Array]:
        values = {score.name: score.of(outputs, episode) for score in scores}
        written = getattr(outputs, "ids", None)
        return values if written is None else {**values, "ids": written}

    return judge


def episode_scores(
    learner: MetaLearner, judge: Judge, *, task_chunk: int | None = None, inner_steps: int | None = None
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
    mesh = local_mesh(tasks)
    meta_params, divided = jax.device_put(meta_params, NamedSharding(mesh, WHOLE)), NamedSharding(mesh, DIVIDED)
    values = [
        scores(meta_params, jax.device_put(stream(step, tasks), divided), rng, step * tasks, *more)
        for step in range(-(-episodes // tasks))
    ]
    return jax.tree.map(lambda *parts: _joined([np.asarray(part) for part in parts])[:episodes], *values)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate batches; where their texts went into different buckets, the last axis is padded with -1."""
    if len({part.shape[1:] for part in parts}) > 1:
        longest = max(part.shape[-1] for part in parts)
        widths = [[(0, 0)] * (part.ndim - 1) + [(0, longest - part.shape[-1])] for part in parts]
        parts = [np.pad(part, width, constant_values=-1) for part, width in zip(parts, widths, strict=True)]
    return np.concatenate(parts)
