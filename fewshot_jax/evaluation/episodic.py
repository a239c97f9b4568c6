"""Accuracy of a learner over many episodes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.algorithms.meta_batch import task_keys
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams

BatchAccuracy = Callable[[MetaParams, Episode, Key, int], jax.Array]


def episode_accuracy(learner: MetaLearner, *, task_chunk: int | None = None) -> BatchAccuracy:
    """Compile ``(meta_params, episodes, rng, first) -> accuracies [T]`` for a learner.

    ``learner.predict`` gives logits ``[Q, N]``; padded query items do not count,
    nor can a class be predicted that the support set does not have. Task ``i``
    uses the key ``fold_in(rng, first + i)``.

    Args:
        learner: without dropout.
        task_chunk: how many tasks are vmapped at once; None for all.
    """

    def one(meta_params: MetaParams, episode: Episode, key: Key) -> jax.Array:
        adapted = learner.adapt(meta_params, episode.support, key)
        logits = learner.predict(adapted, episode.query, query_key(key))
        ways = logits.shape[-1]
        present = jnp.zeros(ways, bool).at[episode.support["label"]].max(episode.support["mask"])
        correct = jnp.where(present[None, :], logits, -jnp.inf).argmax(-1) == episode.query["label"]
        mask = episode.query["mask"]
        return jnp.sum(correct & mask) / jnp.maximum(mask.sum(), 1)

    @jax.jit
    def accuracies(meta_params: MetaParams, episodes: Episode, rng: Key, first: int) -> jax.Array:
        tasks = episodes.query["label"].shape[0]
        keys = task_keys(rng, tasks, first)
        chunk = tasks if task_chunk is None else min(task_chunk, tasks)
        return jax.lax.map(lambda task: one(meta_params, *task), (episodes, keys), batch_size=chunk)

    return accuracies


def evaluate_episodes(
    accuracies: BatchAccuracy,
    meta_params: MetaParams,
    batch: Callable[[int], Episode],
    *,
    episodes: int,
    tasks: int,
    rng: Key,
) -> np.ndarray:
    """Accuracies ``[episodes]`` of the first episodes of a stream.

    Args:
        accuracies: from `episode_accuracy`.
        meta_params: of the learner.
        batch: ``step -> Episode`` with ``tasks`` tasks.
        episodes: how many; the last batch is cut to it.
        tasks: episodes in a batch.
        rng: key of the evaluation.
    """
    steps = -(-episodes // tasks)
    values = [accuracies(meta_params, batch(step), rng, step * tasks) for step in range(steps)]
    return np.concatenate([np.asarray(value) for value in values])[:episodes]
