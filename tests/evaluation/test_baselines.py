"""The baselines: TF-IDF against a dense implementation of its own, fitted on training texts only."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fewshot_jax.applications.image_classification import ImageClassification
from fewshot_jax.applications.regression import Regression
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.episodes import EpisodeSampler, EpisodeSize, Items
from fewshot_jax.data.images import ImageSplit
from fewshot_jax.data.tfidf import tfidf
from fewshot_jax.evaluation.baselines import NearestCentroid, baselines_of
from fewshot_jax.types import Episode

WORDS = ["book", "a", "table", "for", "two", "cancel", "my", "lunch", "print", "photos", "order", "some", "tea", "send"]


def make_texts(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 8))) for _ in range(count)]


def word_ngrams(text):
    words = re.findall(r"\b\w\w+\b", text.lower())  # words of two letters or more
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def char_ngrams(text):
    return [text[i : i + n] for n in (3, 4, 5) for i in range(len(text) - n + 1)]


def dense_tfidf(fit_texts, texts, ngrams):
    """Counts times ln((1 + n) / (1 + df)) + 1, scaled to length one, in a dense matrix."""
    documents = [set(ngrams(text)) for text in fit_texts]
    vocabulary = sorted(set.union(*documents))
    column = {ngram: i for i, ngram in enumerate(vocabulary)}
    df = np.array([sum(ngram in document for document in documents) for ngram in vocabulary])
    idf = np.log((1 + len(fit_texts)) / (1 + df)) + 1
    matrix = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        for ngram, count in Counter(ngrams(text)).items():
            if ngram in column:
                matrix[row, column[ngram]] = count * idf[column[ngram]]
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def nearest_centroid(vectors, support, query):
    ways = support.label.max() + 1
    centroids = np.stack([vectors[support.position[support.label == c]].mean(0) for c in range(ways)])
    cosine = vectors[query.position] @ centroids.T / np.linalg.norm(centroids, axis=1)
    return (cosine.argmax(1) == query.label).mean()


def accuracy(centroid, episode):
    true, predicted = centroid.predict(episode)
    return (true == predicted).mean()


def test_accuracy_is_that_of_a_dense_implementation():
    fit_texts, texts = make_texts(30, 0), make_texts(60, 1)
    centroid = NearestCentroid(tfidf(fit_texts, texts))
    vectors = np.hstack([dense_tfidf(fit_texts, texts, ngrams) for ngrams in (word_ngrams, char_ngrams)])
    sampler = EpisodeSampler(np.repeat(np.arange(6), 10), EpisodeSize(ways=3, shots=2, queries=5))
    episodes = [sampler.task(step, 0) for step in range(30)]
    ours = [accuracy(centroid, episode) for episode in episodes]
    assert ours == pytest.approx([nearest_centroid(vectors, *episode) for episode in episodes])
    assert len(set(ours)) > 3, "the episodes differ in difficulty"


def items(position, label, mask=None):
    mask = np.ones(len(position), bool) if mask is None else np.array(mask)
    return Items(np.array(position, np.int32), np.array(label, np.int32), mask)


@pytest.mark.parametrize(("known", "expected"), [("", 0.5), (" qqq zzz", 1.0)])
def test_a_word_absent_from_the_training_texts_has_no_effect(known, expected):
    # Nothing but the unseen word tells the classes apart; ties go to label 0.
    texts = ["book qqq", "book zzz", "book zzz", "book qqq"]
    centroid = NearestCentroid(tfidf(["book table", f"book lunch{known}"], texts))
    assert accuracy(centroid, Episode(items([0, 1], [0, 1]), items([2, 3], [1, 0]))) == expected


def test_padded_items_do_not_count():
    texts = ["book tea", "send mail", "book tea", "send mail", "tea"]
    centroid = NearestCentroid(tfidf(["book tea", "send mail"], texts))
    real = Episode(items([0, 1], [0, 1]), items([2, 3, 4], [0, 1, 1]))
    padded = Episode(
        items([0, 1, 0, 0], [0, 1, 0, 0], [True, True, False, False]),
        items([2, 3, 4, 0], [0, 1, 1, 0], [True, True, True, False]),
    )
    assert accuracy(centroid, padded) == accuracy(centroid, real) == pytest.approx(2 / 3)


def test_scores_follow_the_stream_and_are_those_of_scikit_learn():
    texts = make_texts(60, 1)
    centroid = NearestCentroid(tfidf(make_texts(30, 0), texts))
    sampler = EpisodeSampler(np.repeat(np.arange(6), 10), EpisodeSize(ways=3, shots=2, queries=5))
    values = centroid.scores(sampler, episodes=10, tasks=4)
    one_by_one = [centroid.predict(sampler.task(i // 4, i % 4)) for i in range(10)]
    assert values["accuracy"].tolist() == [accuracy_score(*judged[:2]) for judged in one_by_one]
    assert values["macro F1"].tolist() == pytest.approx(
        [f1_score(*judged[:2], average="macro") for judged in one_by_one]
    )


def test_regression_stands_beside_the_mean_of_the_support_set():
    application = Regression(from_dict({"application": "regression", "evaluation": {"shots": [2]}}))
    error = baselines_of(application, "test")(2, 5, 3)["mean of the support set"]["mean squared error"]
    batches = [application.stream("test", 2)(step, 3) for step in range(2)]
    wanted = [
        ((query - support.mean()) ** 2).mean()
        for batch in batches
        for support, query in zip(batch.support["y"], batch.query["y"], strict=True)
    ]
    np.testing.assert_allclose(error, wanted[:5], rtol=1e-5)


def test_images_stand_beside_centroids_of_their_pixels_and_chance():
    images = np.arange(3 * 12 * 4).reshape(-1, 2, 2).astype(np.uint8)
    split = ImageSplit(images, np.repeat(np.arange(3, dtype=np.int32), 12), ["a", "b", "c"])
    config = from_dict({"application": "image_classification", "evaluation": {"ways": 2, "queries": 3}})
    found = baselines_of(ImageClassification(config, {"test": split}), "test")(2, 4, 2)
    assert found.keys() == {"pixel centroid", "chance"}
    assert found["chance"]["accuracy"] == [0.5]
    assert found["pixel centroid"]["accuracy"].shape == (4,)
