"""The hierarchical bootstrap: its standard errors by closed forms, and the coverage it promises."""

import math

import numpy as np
import pytest
from scipy import stats

from fewshot_jax.evaluation.bootstrap import Interval, hierarchical_bootstrap, interval_over, resampled_means
from fewshot_jax.evaluation.statistics import estimate


def test_equal_groups_leave_the_standard_error_of_all_their_values():
    """Resampling n values of variance s^2 in each of G groups that are copies of each other: s^2 / (G n)."""
    values = np.random.default_rng(0).normal(0.6, 0.1, 50)
    means = resampled_means([values] * 8, resamples=20_000, rng=np.random.default_rng(1))
    assert means.mean() == pytest.approx(values.mean(), abs=5 * values.std() / math.sqrt(8 * 50 * 20_000))
    assert means.std() == pytest.approx(values.std() / math.sqrt(8 * 50), rel=0.03)


def test_groups_without_spread_inside_leave_the_standard_error_of_their_means():
    """Values m_g that are constant in each of G groups: the variance of the m_g over G."""
    centres = np.random.default_rng(0).normal(size=7)
    groups = [np.full(30, centre) for centre in centres]
    means = resampled_means(groups, resamples=20_000, rng=np.random.default_rng(1))
    assert means.std() == pytest.approx(centres.std() / math.sqrt(7), rel=0.03)


def test_both_levels_add_up():
    """Var = (variance of the groups' means + mean variance inside / n) / G, all with divisors G and n."""
    rng = np.random.default_rng(2)
    groups = [rng.normal(rng.normal(), 2.0, 25) for _ in range(6)]
    between, inside = np.var([group.mean() for group in groups]), np.mean([group.var() for group in groups])
    means = resampled_means(groups, resamples=20_000, rng=rng)
    assert means.std() == pytest.approx(math.sqrt((between + inside / 25) / 6), rel=0.03)


@pytest.mark.parametrize(("groups", "resamples"), [(5, 4000), (8, 2000)])
def test_the_interval_covers_the_mean_in_95_of_100_cases(groups, resamples):
    """Balanced normal data with standard deviation 1 between groups and 1 inside, 20 values a group."""
    rng, trials = np.random.default_rng(3), 300
    covered = 0
    for _ in range(trials):
        data = [rng.normal(centre, 1, 20) for centre in rng.normal(0.3, 1, groups)]
        found = hierarchical_bootstrap(data, resamples=resamples, rng=rng)
        covered += found.low <= 0.3 <= found.high
    assert abs(covered / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials)


def test_plain_percentiles_and_students_t_over_episodes_cover_less():
    """What the interval is for: with five groups neither of the usual ones comes near 95%."""
    rng, trials = np.random.default_rng(4), 300
    plain = pooled = 0
    for _ in range(trials):
        data = [rng.normal(centre, 1, 20) for centre in rng.normal(0, 1, 5)]
        low, high = np.quantile(resampled_means(data, resamples=500, rng=rng), (0.025, 0.975))
        over_episodes = estimate(np.concatenate(data))
        plain += low <= 0 <= high
        pooled += abs(over_episodes.mean) <= over_episodes.half_width
    assert plain / trials < 0.92
    assert pooled / trials < 0.7


def test_the_interval_of_constant_groups_is_students_t_over_their_means():
    """To the accuracy of a normal: the expanded percentiles are those of t with G - 1 degrees of freedom."""
    centres = np.array([0.1, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.95])
    groups = [np.full(3, centre) for centre in centres]
    found = hierarchical_bootstrap(groups, resamples=40_000, rng=np.random.default_rng(0))
    low, high = stats.ttest_1samp(centres, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(centres.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_groups_count_alike_whatever_their_size():
    groups = [np.zeros(100), np.ones(2)]
    assert hierarchical_bootstrap(groups, resamples=10, rng=np.random.default_rng(0)).mean == 0.5


def test_five_groups_are_resampled_and_four_are_not():
    groups = [np.full(10, 0.2 * number) + np.linspace(0, 0.01, 10) for number in range(5)]
    pooled = estimate(np.concatenate(groups[:4]))
    assert interval_over(groups[:4]) == Interval(
        pooled.mean, pooled.mean - pooled.half_width, pooled.mean + pooled.half_width
    )
    assert interval_over(groups) == interval_over(groups), "seeded"
    assert interval_over(groups).high - interval_over(groups).low > 4 * estimate(np.concatenate(groups)).half_width


def test_what_cannot_be_resampled():
    rng = np.random.default_rng(0)
    for groups in ([], [np.ones(3)], [np.ones(3), np.ones(0)]):
        with pytest.raises(ValueError, match="two groups"):
            hierarchical_bootstrap(groups, rng=rng)
    assert math.isnan(hierarchical_bootstrap([np.array([1, np.nan]), np.ones(2)], rng=rng).low)


def test_an_interval_prints_as_percent():
    assert Interval(0.7791, 0.7512, 0.8).text() == "77.9 [75.1, 80.0]"
    assert Interval(0.0791, -0.0112, 0.1).text(sign=True) == "+7.9 [-1.1, +10.0]"
    assert Interval(1.5, 1.25, 1.75).text(percent=False) == "1.500 [1.250, 1.750]"
