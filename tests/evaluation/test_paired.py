"""Paired comparisons: all signs written out and the t-test agree, and no p-value is zero."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fewshot_jax.evaluation.paired import paired


def scores(size, gain, seed=0):
    rng = np.random.default_rng(seed)
    one = rng.random(size)
    return one + gain, one + rng.normal(0, 0.1, size)


@pytest.mark.parametrize("size", [2, 6, 12])
@pytest.mark.parametrize("gain", [0.0, 0.05, -0.2])
def test_few_episodes_are_tested_exactly(size, gain):
    one, other = scores(size, gain)
    found = paired(one, other)
    differences = one - other
    sums = np.array([differences @ signs for signs in itertools.product((1, -1), repeat=size)])
    expected = np.mean(np.abs(sums) >= np.abs(differences.sum()) - 1e-9)
    assert found.exact
    assert found.p_value == pytest.approx(expected)
    assert found.difference.mean == pytest.approx((one - other).mean())


def test_three_differences_by_hand():
    """1, 2, 3: of the eight sums only 6 and -6 are as far from zero; 1, 2, -3: all are as far from it as their zero."""
    assert paired([1, 2, 3], [0, 0, 0]).p_value == 2 / 8
    assert paired([1, 2, 0], [0, 0, 3]).p_value == 1
    assert paired([1, 1, 1], [1, 1, 1]).p_value == 1, "no difference at all"


def test_rounding_separates_no_equal_sums():
    """0.1, 0.2 and 0.3 either way: 0.1 + 0.2 is not 0.3 in binary, but -0.1 - 0.2 + 0.3 counts as zero."""
    assert paired([0.1, 0.2, 0.0], [0.0, 0.0, 0.3]).p_value == 1


@pytest.mark.parametrize("gain", [0.0, 0.01, 0.02])
def test_many_episodes_are_sampled_and_agree_with_the_t_test(gain):
    one, other = scores(300, gain, seed=1)
    found = paired(one, other)
    assert not found.exact
    oracle = stats.ttest_rel(one, other)
    assert found.p_value == pytest.approx(oracle.pvalue, abs=0.02)
    low, high = oracle.confidence_interval(0.95)
    assert found.difference.mean - found.difference.half_width == pytest.approx(low)
    assert found.difference.mean + found.difference.half_width == pytest.approx(high)
    assert found == paired(one, other), "seeded"
    assert found.p_value == paired(other, one).p_value, "two-sided"


def test_a_sampled_p_value_is_never_zero():
    found = paired(np.ones(100), np.zeros(100), flips=999)
    assert found.p_value == 1 / 1000


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(5)
    found = [paired(rng.random(20), rng.random(20), flips=200, seed=i).p_value for i in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_episodes_without_a_score_are_left_out_and_said():
    found = paired([1.0, np.nan, 3.0, 2.0], [0.0, 1.0, np.inf, 0.0])
    assert found.episodes == 2
    assert found.p_value == 2 / 4
    with pytest.raises(ValueError, match="at least two"):
        paired([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="same episodes"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])
