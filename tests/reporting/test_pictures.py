"""Pictures take any text and any number that data may hold; planes are those of the largest variance."""

import numpy as np
import pytest

from fewshot_jax.evaluation.confusion import Confusion
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.reporting.class_sections import confused_pairs
from fewshot_jax.reporting.classes import MOST_CLASSES, matrix, most_confused, planes
from fewshot_jax.reporting.curves import over_shots
from fewshot_jax.reporting.embedding import Embedding, principal_plane
from fewshot_jax.reporting.figures import figure, legend, png, shown

ODD = [r"$\frac{1$", "$x^2$", "_hidden", "a\nb\tc", "<script>alert(1)</script>", "=1+1", "日本語", "x" * 200, ""]


@pytest.mark.parametrize("name", ODD)
def test_text_from_data_is_drawn_as_it_is(name):
    made, axes = figure()
    axes.plot([0, 1], label=shown(name) or "no name")
    legend(made, axes)
    assert png(made, axes).startswith(b"\x89PNG")
    (drawn,) = made.legends[0].get_texts()
    text, is_formula = drawn._preprocess_math(drawn.get_text())
    assert not is_formula
    assert text.strip()[:4] == (" ".join(name.split()) or "no name")[:4]


def test_a_matrix_shows_the_most_confused_classes_alone():
    size = MOST_CLASSES + 10
    counts = 5 * np.eye(size, dtype=int)
    counts[38, 3] = 2
    confusion = Confusion([ODD[i % len(ODD)] + str(i) for i in range(size)], counts, np.full((size, size), 10))
    chosen = most_confused(confusion)
    assert len(chosen) == MOST_CLASSES and {3, 38} <= set(chosen) and chosen == sorted(chosen)
    assert confused_pairs(confusion) == [(confusion.classes[38], confusion.classes[3], 2, 2 / 7)]
    picture = matrix(confusion, 1)
    assert picture.png.startswith(b"\x89PNG") and picture.wide


def test_features_that_adaptation_leaves_alone_are_one_picture():
    plane = principal_plane(np.random.default_rng(0).normal(size=(6, 3)))
    label, support = np.array([0, 1, 0, 1, 0, 1]), np.arange(6) < 2
    sides = {"label": label, "support": support, "classes": ODD[:2], "shots": 1}
    (alone,) = planes(Embedding(before=plane, after=None, prototypes=True, **sides))
    assert "A star is a prototype" in alone.alt and "2 support and 4 query items" in alone.alt
    assert len(planes(Embedding(before=plane, after=plane, prototypes=False, **sides))) == 2


def test_a_curve_takes_scores_that_are_not_finite():
    rows = {
        "maml": {1: Estimate(float("nan"), float("nan")), 5: Estimate(2.5, 0.1)},
        "floor": {1: Estimate(float("nan"), float("nan")), 5: Estimate(float("nan"), float("nan"))},
    }
    picture = over_shots(rows, solid=["maml"], colours={}, name="x", unit="nats", scale=1, classes=False)
    assert picture.png.startswith(b"\x89PNG") and "2.5 at 5" in picture.alt


def test_a_plane_keeps_the_distances_of_points_that_lie_in_one():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(12, 2)) * [3, 1]
    turned = flat @ np.linalg.qr(rng.normal(size=(7, 7)))[0][:2] + 5
    plane = principal_plane(turned)

    def distances(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    np.testing.assert_allclose(distances(plane.points), distances(flat), atol=1e-9)
    assert plane.shares.sum() == pytest.approx(1) and plane.shares[0] > plane.shares[1]


@pytest.mark.parametrize("features", [np.ones((4, 1)), np.ones((1, 5)), np.arange(3.0)[:, None]])
def test_a_plane_of_fewer_dimensions_is_padded(features):
    plane = principal_plane(features)
    assert plane.points.shape == (len(features), 2) and np.isfinite(plane.points).all()
    assert plane.shares.shape == (2,) and np.isfinite(plane.shares).all()
