"""Floors: what needs no training at all, on the same episodes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fewshot_jax.applications.application import Application
from fewshot_jax.applications.classification import ACCURACY, MACRO_F1
from fewshot_jax.applications.image_classification import ImageClassification
from fewshot_jax.applications.regression import SQUARED_ERROR, Regression
from fewshot_jax.applications.text_classification import TextClassification
from fewshot_jax.applications.writing import Writing
from fewshot_jax.config import WRITES
from fewshot_jax.data.episodes import EpisodeSampler, Items
from fewshot_jax.evaluation.classification_metrics import macro_f1
from fewshot_jax.evaluation.written import judge_written, written_floors
from fewshot_jax.types import Episode

TFIDF, PIXELS, SUPPORT_MEAN, CHANCE = "TF-IDF centroid", "pixel centroid", "mean of the support set", "chance"


# Of TF-IDF: words and pairs of them; parts of words, of three to five characters.
ANALYSERS: dict[str, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2)},
    "characters": {"analyzer": "char", "ngram_range": (3, 5)},
}


def tfidf(fit_texts: Sequence[str], texts: Sequence[str]) -> Any:
    """TF-IDF vectors of texts, a sparse ``[n, F]``.

    Words (1- and 2-grams) and characters (3- to 5-grams across words), each
    L2-normalised with sublinear counts off, side by side. Vocabulary and IDF are
    fitted on the texts of the training classes only.

    Args:
        fit_texts: texts of the training classes.
        texts: the ``n`` texts of the evaluated split, which episodes point into.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    union = make_union(*(TfidfVectorizer(**options) for options in ANALYSERS.values()))
    union.fit(fit_texts)
    return union.transform(texts)


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


def chance(ways: int) -> float:
    """Expected accuracy of guessing among ``ways`` balanced classes."""
    return 1 / ways


Floors = Callable[[int, int, int], dict[str, dict[str, np.ndarray]]]


def _of_classes(application: Any, split: str, name: str, vectors: Any) -> Floors:
    centroid, guess = NearestCentroid(vectors), np.array([chance(application.config.evaluation.ways)])

    def find(shots: int, episodes: int, tasks: int) -> dict[str, dict[str, np.ndarray]]:
        sampler = application.sampler(split, shots)
        return {name: centroid.scores(sampler, episodes=episodes, tasks=tasks), CHANCE: {ACCURACY.name: guess}}

    return find


def _texts(application: TextClassification, split: str) -> Floors:
    return _of_classes(application, split, TFIDF, tfidf(application.texts("train"), application.texts(split)))


def _images(application: ImageClassification, split: str) -> Floors:
    images = application.splits[split].images
    return _of_classes(application, split, PIXELS, images.reshape(len(images), -1).astype(np.float32))


def _regression(application: Regression, split: str) -> Floors:
    def find(shots: int, episodes: int, tasks: int) -> dict[str, dict[str, np.ndarray]]:
        stream = application.stream(split, shots)
        batches = [stream(step, tasks) for step in range(-(-episodes // tasks))]
        errors = [((b.query["y"] - b.support["y"].mean(1, keepdims=True)) ** 2).mean((1, 2)) for b in batches]
        return {SUPPORT_MEAN: {SQUARED_ERROR.name: np.concatenate(errors)[:episodes]}}

    return find


def _writing(application: Writing, split: str) -> Floors:
    def find(shots: int, episodes: int, tasks: int) -> dict[str, dict[str, np.ndarray]]:
        if not application.config.evaluation.write:
            return {}
        sampler = application.sampler(split, shots)
        drawn = [sampler.task(*divmod(index, tasks)) for index in range(episodes)]
        name = application.config.application
        return {floor: judge_written(name, texts, drawn) for floor, texts in written_floors(drawn).items()}

    return find


_FLOORS: dict[str, Callable[[Any, str], Floors]] = {
    "text_classification": _texts,
    "image_classification": _images,
    **dict.fromkeys(WRITES, _writing),
    "regression": _regression,
}


def floors(application: Application, split: str) -> Floors:
    """``(shots, episodes, tasks) -> {name: {score: values [episodes]}}`` over the episodes of ``application.stream``.

    Chance is one number, ``[1]``.
    """
    return _FLOORS[application.config.application](application, split)
