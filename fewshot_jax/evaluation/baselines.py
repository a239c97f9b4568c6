"""Baselines that need no training at all, on the same episodes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fewshot_jax.applications.classification import ACCURACY, MACRO_F1
from fewshot_jax.data.episodes import EpisodeSampler, Items
from fewshot_jax.evaluation.classification_metrics import macro_f1
from fewshot_jax.evaluation.written import judge_written, written_baselines
from fewshot_jax.types import Episode

CHANCE = "chance"
Scores = dict[str, dict[str, np.ndarray]]  # by baseline and score, ``[episodes]``


class NearestCentroid:
    """The class whose mean vector has the largest cosine.

    Args:
        vectors: ``[n, F]``, dense or sparse, which episodes point into.
    """

    def __init__(self, vectors: Any):
        self._vectors = vectors

    def predict(self, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
        """Of one episode of `Items` (support ``[S]``, query ``[Q]``): true and predicted labels ``[Q]``.

        Padded queries are left out.
        """
        support, query = (_real(items) for items in episode)
        classes, vectors = np.unique(support.label), self._vectors[support.position]
        centroids = np.stack([np.asarray(vectors[support.label == label].mean(0)).reshape(-1) for label in classes])
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
        similarity = self._vectors[query.position] @ centroids.T
        return query.label, classes[similarity.argmax(1)]

    def scores(self, sampler: EpisodeSampler, *, episodes: int, tasks: int) -> dict[str, np.ndarray]:
        """Accuracy and macro F1, each ``[episodes]``, over the same stream as `episodic.evaluate_episodes`.

        Args:
            sampler: of the episodes.
            episodes, tasks: how many episodes, and how many in a batch.
        """
        judged = [self.predict(sampler.task(*divmod(i, tasks))) for i in range(episodes)]
        return {
            ACCURACY.name: np.array([(true == given).mean() for true, given in judged]),
            MACRO_F1.name: np.array([macro_f1(*one) for one in judged]),
        }


def _real(items: Items) -> Items:
    return Items(*(field[items.mask] for field in items))


def baselines_of(application: Any, split: str) -> Callable[[int, int, int], Scores]:
    """Find the baselines of an application: those that its `applications.optional.OptionalParts` name.

    Args:
        application: of a run.
        split: "validation" or "test".

    Returns:
        ``(shots, episodes, tasks) -> {name: {score: values [episodes]}}`` over the episodes of
        ``application.stream``. Chance is one number, ``[1]``.
    """
    vectors = application.centroid_vectors(split)
    centroid = None if vectors is None else NearestCentroid(vectors[1])

    def find(shots: int, episodes: int, tasks: int) -> Scores:
        found = Scores()
        if vectors is not None and centroid is not None:
            found[vectors[0]] = centroid.scores(application.sampler(split, shots), episodes=episodes, tasks=tasks)
        if (guess := application.chance()) is not None:
            found[CHANCE] = {application.score.name: np.array([guess])}
        return {
            **found,
            **_plain(application, split, shots, episodes, tasks),
            **_written(application, split, shots, episodes, tasks),
        }

    return find


def _plain(application: Any, split: str, shots: int, episodes: int, tasks: int) -> Scores:
    """The baselines whose outputs the application computes without a model."""
    score, found = application.score, Scores()
    for name, outputs_of in application.plain_outputs().items():
        stream = application.stream(split, shots)
        judge = jax.vmap(lambda episode, outputs_of=outputs_of: score.of(outputs_of(episode), episode))
        values = [np.asarray(judge(stream(step, tasks))) for step in range(-(-episodes // tasks))]
        found[name] = {score.name: np.concatenate(values)[:episodes]}
    return found


def _written(application: Any, split: str, shots: int, episodes: int, tasks: int) -> Scores:
    """The baselines that write texts."""
    if not (application.text_scores and application.config.evaluation.write):
        return {}
    sampler = application.sampler(split, shots)
    drawn = [sampler.task(*divmod(index, tasks)) for index in range(episodes)]
    written = written_baselines(drawn)
    return {name: judge_written(application.text_scores, texts, drawn) for name, texts in written.items()}
