"""Floors: what needs no meta-learning, on the same episodes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fewshot_jax.data.episodes import Items
from fewshot_jax.types import Episode


class TfidfCentroid:
    """Nearest centroid of TF-IDF vectors, by cosine.

    Words (1- and 2-grams) and characters (3- to 5-grams across words), each
    L2-normalised with sublinear counts off, side by side. Vocabulary and IDF are
    fitted on the texts of the training classes only.

    Args:
        fit_texts: texts of the training classes.
        texts: the ``n`` texts of the evaluated split, which episodes point into.
    """

    def __init__(self, fit_texts: Sequence[str], texts: Sequence[str]):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        union = make_union(TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char", ngram_range=(3, 5)))
        union.fit(fit_texts)
        self._vectors: Any = union.transform(texts)

    def accuracy(self, episode: Episode) -> float:
        """Query accuracy of one episode of `Items` (support ``[S]``, query ``[Q]``)."""
        support, query = (_real(items) for items in episode)
        ways = int(support.label.max()) + 1
        centroids = np.zeros((ways, self._vectors.shape[1]))
        vectors = self._vectors[support.position]
        for label in range(ways):
            centroids[label] = np.asarray(vectors[support.label == label].mean(0))
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
        similarity = self._vectors[query.position] @ centroids.T
        return float((similarity.argmax(1) == query.label).mean())

    def accuracies(self, batch: Callable[[int], Episode], *, episodes: int, tasks: int) -> np.ndarray:
        """Accuracies ``[episodes]`` over the same stream as `episodic.evaluate_episodes`.

        Args:
            batch: ``step -> Episode`` of `Items` with a leading axis of ``tasks``.
            episodes, tasks: how many episodes, and how many in a batch.
        """
        values: list[float] = []
        for step in range(-(-episodes // tasks)):
            support, query = batch(step)
            for task in range(tasks):
                one = Episode(*(Items(*(field[task] for field in items)) for items in (support, query)))
                values.append(self.accuracy(one))
        return np.array(values[:episodes])


def _real(items: Items) -> Items:
    return Items(*(field[items.mask] for field in items))


def chance(ways: int) -> float:
    """Expected accuracy of guessing among ``ways`` balanced classes."""
    return 1 / ways
