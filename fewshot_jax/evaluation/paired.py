"""Two learners on the same episodes: the difference, its interval, and a p-value by a paired permutation test."""

from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.evaluation.statistics import Estimate, estimate


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
    exact = 2**differences.size <= flips
    sums = _all_sums(differences) if exact else _some_sums(differences, flips, np.random.default_rng(seed))
    observed = abs(differences.sum())
    # Sums of the same numbers in another order are equal but for rounding, and have to count as such.
    extreme = int(np.sum(np.abs(sums) >= observed - 1e-12 * np.abs(differences).sum()))
    p_value = extreme / sums.size if exact else (extreme + 1) / (sums.size + 1)
    return Paired(estimate(differences), p_value, exact, differences.size)


def _all_sums(differences: np.ndarray) -> np.ndarray:
    """Sums under all ``2 ** n`` choices of signs."""
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _some_sums(differences: np.ndarray, flips: int, rng: np.random.Generator) -> np.ndarray:
    parts = np.array_split(np.arange(flips), 1 + flips * differences.size // 8_000_000)
    return np.concatenate(
        [(2.0 * rng.integers(2, size=(part.size, differences.size), dtype=np.int8) - 1) @ differences for part in parts]
    )
