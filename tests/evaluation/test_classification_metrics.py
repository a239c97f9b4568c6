"""Confusion matrix and macro F1 are those of scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.applications.classification import macro_f1_of_episode
from fewshot_jax.evaluation.classification_metrics import confusion, macro_f1
from fewshot_jax.types import Episode

metrics = pytest.importorskip("sklearn.metrics")

CLASSES = ["book", "cancel", "print", "never seen"]


def draw(seed, count=40):
    """Labels and predictions, of which none is of the last class."""
    rng = np.random.default_rng(seed)
    return ([CLASSES[i] for i in rng.integers(0, 3, count)] for _ in range(2))


@pytest.mark.parametrize("seed", range(5))
def test_names_of_classes(seed):
    labels, predictions = draw(seed)
    np.testing.assert_array_equal(
        confusion(labels, predictions, CLASSES), metrics.confusion_matrix(labels, predictions, labels=CLASSES)
    )
    expected = metrics.f1_score(labels, predictions, labels=CLASSES, average="macro", zero_division=0)
    assert macro_f1(labels, predictions, CLASSES) == pytest.approx(expected, abs=1e-12)


def test_numbers_of_classes_as_arrays():
    labels, predictions = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2])
    assert confusion(labels, predictions, range(3)).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 2]]
    assert macro_f1(labels, predictions, range(3)) == pytest.approx((1 + 0 + 0.8) / 3)


def test_no_items():
    assert confusion([], [], ["a", "b"]).tolist() == [[0, 0], [0, 0]]
    assert macro_f1([], [], ["a", "b"]) == 0


@pytest.mark.parametrize(
    ("labels", "predictions", "classes", "message"),
    [
        (["a"], ["a", "b"], ["a", "b"], "1 labels, but 2 predictions"),
        (["a"], ["c"], ["a", "b"], "'c' is not among the 2 classes"),
        (["a"], ["a"], ["a", "a"], "each class once"),
        ([], [], [], "at least one"),
    ],
)
def test_what_does_not_fit_is_refused(labels, predictions, classes, message):
    with pytest.raises(ValueError, match=message):
        macro_f1(labels, predictions, classes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ways", [3, 5])
def test_the_score_of_an_episode_counts_real_queries_and_present_classes(seed, ways):
    rng = np.random.default_rng(seed)
    count = 24
    support = {"label": jnp.array([0, 1, 2, 1, ways - 1]), "mask": jnp.array([True] * 4 + [False])}
    query = {"label": jnp.asarray(rng.integers(0, 3, count)), "mask": jnp.asarray(rng.random(count) < 0.7)}
    logits = rng.normal(size=(count, ways)) + 2 * (np.arange(ways) > 2)  # absent classes have the largest logits
    score = jax.jit(macro_f1_of_episode)(jnp.asarray(logits, jnp.float32), Episode(support, query))
    real = np.asarray(query["mask"])
    gold, given = np.asarray(query["label"])[real], logits[real, :3].argmax(-1)
    expected = metrics.f1_score(gold, given, labels=[0, 1, 2], average="macro", zero_division=0)
    assert float(score) == pytest.approx(expected, abs=1e-6)


def test_the_score_of_an_episode_is_the_metric_of_its_predictions():
    rng = np.random.default_rng(0)
    label, logits = np.tile(np.arange(4), 5), rng.normal(size=(20, 4))
    episode = Episode(
        {"label": jnp.arange(4), "mask": jnp.ones(4, bool)}, {"label": jnp.asarray(label), "mask": jnp.ones(20, bool)}
    )
    score = macro_f1_of_episode(jnp.asarray(logits), episode)
    assert float(score) == pytest.approx(macro_f1(label, logits.argmax(-1), range(4)), abs=1e-6)
