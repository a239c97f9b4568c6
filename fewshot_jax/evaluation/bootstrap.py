"""Intervals over groups (folds, or else trainings of other seeds) that each have many values (episodes)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.evaluation.statistics import estimate

LEAST_GROUPS = 5  # below it a resample of groups says next to nothing about the groups that were not drawn


class Interval(NamedTuple):
    """A mean and its 95% confidence interval from ``low`` to ``high``."""

    mean: float
    low: float
    high: float

    def text(self, *, percent: bool = True, sign: bool = False) -> str:
        """``mean [low, high]``, in percent with one digit or as they are with three; see `Estimate.text`."""
        if not math.isfinite(self.mean):
            return "not finite"
        scale, digits = (100, 1) if percent else (1, 3)
        mean, low, high = (f"{scale * value:{'+' if sign else ''}.{digits}f}" for value in self)
        return f"{mean} [{low}, {high}]" if math.isfinite(self.high - self.low) else mean


def interval_over(groups: Sequence[np.ndarray], *, seed: int = 0) -> Interval:
    """The hierarchical bootstrap of five groups or more; Student's t over the values of all groups below that.

    Args:
        groups: the values ``[n]`` of each group.
        seed: of the bootstrap.
    """
    if len(groups) >= LEAST_GROUPS:
        resamples = max(2_000, 50_000 // len(groups))  # the tails of few groups are cut far out
        return hierarchical_bootstrap(groups, resamples=resamples, rng=np.random.default_rng(seed))
    of_all = estimate(np.concatenate(groups))
    return Interval(of_all.mean, of_all.mean - of_all.half_width, of_all.mean + of_all.half_width)


def hierarchical_bootstrap(
    groups: Sequence[np.ndarray], *, resamples: int = 10_000, rng: np.random.Generator
) -> Interval:
    """Mean of the groups' means, and its 95% interval by resampling groups, then values within each.

    The interval is the expanded percentile interval for the number of groups: a resample of ``n`` groups is too narrow
    by ``sqrt((n - 1) / n)``, and its tails are those of a normal where a t with ``n - 1`` degrees is due; so its tails
    of probability ``Phi(-sqrt(n / (n - 1)) t)`` are cut, ``t`` being the 0.975 quantile. Where groups differ little the
    interval is too wide: the variance of values within a group then counts twice.

    A group is what was drawn independently. The values of several trainings that hold out the same classes are one
    group: what those have in common is one draw, and what their seeds add is in the variance of the groups' means.

    Args:
        groups: the values ``[n]`` of each group, at least two groups; they count alike, whatever their size.
        resamples: how many.
        rng: of the resampling.

    Returns:
        The interval; NaN where a value is.

    Raises:
        ValueError: there are fewer than two groups, or one is empty.

    References:
        Davison, Hinkley. Bootstrap Methods and Their Application. 1997 (section 3.8: hierarchical data).
        Saravanan, Berman, Sober. Application of the Hierarchical Bootstrap to Multi-Level Data in Neuroscience. NBDT
        2020 (both levels with replacement).
        Hesterberg. What Teachers Should Know About the Bootstrap. The American Statistician 2015 (expanded percentile).
    """
    values = [np.asarray(group, np.float64) for group in groups]
    if len(values) < 2 or min(group.size for group in values) == 0:
        raise ValueError(f"expected two groups at least, none of them empty; got {[group.size for group in values]}")
    mean = float(np.mean([group.mean() for group in values]))
    if not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan)
    from scipy.stats import norm, t

    count = len(values)
    tail = norm.cdf(-math.sqrt(count / (count - 1)) * t.ppf(0.975, count - 1))
    low, high = np.quantile(resampled_means(values, resamples=resamples, rng=rng), (tail, 1 - tail))
    return Interval(mean, float(low), float(high))


def resampled_means(groups: Sequence[np.ndarray], *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means ``[resamples]`` of as many groups, drawn with replacement, and as many values of each, likewise.

    Args and errors as of `hierarchical_bootstrap`.
    """
    chosen = rng.integers(len(groups), size=(resamples, len(groups)))
    means = np.empty(chosen.shape)
    for number, values in enumerate(groups):
        places = np.flatnonzero(chosen == number)
        for some in np.array_split(places, 1 + places.size * values.size // 2_000_000):  # 16 MB at a time
            draws: Any = rng.integers(values.size, size=(some.size, values.size), dtype=np.int32)
            means.flat[some] = values[draws].mean(1)
    return means.mean(1)
