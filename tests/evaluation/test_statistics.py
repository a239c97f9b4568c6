"""Means with intervals: Student's t, and the coverage it promises."""

import math

import numpy as np
import pytest
from scipy import stats

from fewshot_jax.evaluation.statistics import Estimate, estimate


def test_four_values_by_hand():
    # Mean 0.5; sum of squares 0.1, so s^2 = 0.1 / 3; t at 0.975 with 3 degrees of freedom is 3.18244631.
    value = estimate([0.3, 0.7, 0.6, 0.4])
    assert value.mean == pytest.approx(0.5)
    assert value.half_width == pytest.approx(3.18244631 * math.sqrt(0.1 / 3 / 4), rel=1e-7)


@pytest.mark.parametrize("size", [2, 7, 600])
def test_scipy_gives_the_same_interval(size):
    values = np.random.default_rng(size).random(size)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    value = estimate(values)
    assert value.mean - value.half_width == pytest.approx(low)
    assert value.mean + value.half_width == pytest.approx(high)


@pytest.mark.parametrize("size", [5, 40])
def test_the_interval_covers_the_mean_in_95_of_100_cases(size):
    rng, trials = np.random.default_rng(0), 2000
    found = [estimate(rng.normal(0.6, 0.1, size)) for _ in range(trials)]
    covered = np.mean([abs(value.mean - 0.6) <= value.half_width for value in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_float32_accuracies_are_averaged_in_double_precision():
    values = np.full(3000, 0.1, np.float32)
    assert estimate(values).mean == pytest.approx(float(np.float32(0.1)), abs=1e-12)


def test_one_value_has_no_finite_interval():
    assert estimate([0.4]) == Estimate(0.4, math.inf)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_an_estimate_prints_as_percent():
    assert Estimate(0.7791, 0.0123).text() == "77.9 ± 1.2"
    assert Estimate(0.7791, 0.0123).text(percent=False) == "0.779 ± 0.012"
    assert Estimate(0.7791, 0.0123).text(sign=True) == "+77.9 ± 1.2"
