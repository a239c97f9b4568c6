"""Two learners on the same episodes: the difference, its interval, and a p-value by a paired permutation test."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.evaluation.statistics import Estimate, estimate

_BATCH_NUMBERS = 2_000_000  # differences in one batch of flips: bounds the memory of the test


class Paired(NamedTuple):
    """A paired comparison.

    Attributes:
        difference: mean over episodes of one minus the other, with its 95% interval by Student's t.
        p_value: two-sided, of the hypothesis that the two could be exchanged in each episode.
        exact: all exchanges were tried, not a sample of them.
        episodes: that both have a finite score in.
    """

    difference: Estimate
    p_value: float
    exact: bool
    episodes: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {**self._asdict(), "difference": self.difference._asdict()}


def paired(one: np.ndarray, other: np.ndarray, *, flips: int = 10_000, seed: int = 0) -> Paired:
    """Compare scores of the same episodes.

    Args:
        one, other: ``[episodes]``; what is not finite in either is left out.
        flips: of signs, drawn where there are more than so many; of a sample the observed signs count as one more.
        seed: of the sample.

    Raises:
        ValueError: the numbers of episodes differ, or fewer than two are left.

    References:
        Fisher. The Design of Experiments. 1935 (section 21: the signs of paired differences).
        Phipson, Smyth. Permutation P-Values Should Never Be Zero. SAGMB 2010 ((b + 1) / (m + 1) of a sample).
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        raise ValueError(f"expected the same episodes, got {one.shape} and {other.shape}")
    differences = one - other
    differences = differences[np.isfinite(differences)]
    if differences.size < 2:
        raise ValueError("expected at least two episodes with finite scores of both")
    from scipy import stats

    test = stats.permutation_test(
        (differences,),
        partial(_extremeness, scale=np.abs(differences).sum()),
        permutation_type="samples",  # of one sample: flips of its signs
        vectorized=True,
        n_resamples=flips,
        batch=max(1, _BATCH_NUMBERS // differences.size),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return Paired(estimate(differences), float(test.pvalue), 2**differences.size <= flips, differences.size)


def _extremeness(differences: np.ndarray, axis: int, *, scale: float) -> np.ndarray:
    """Return how far sums of signed differences are from zero, as a share of the largest possible sum.

    Equal sums differ by rounding when their terms have another order; 12 decimals make them equal again.
    """
    return np.round(np.abs(differences.sum(axis)) / (scale or 1.0), 12)
