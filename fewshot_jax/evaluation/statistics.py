"""Means with confidence intervals over episodes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and the half-width of its 95% confidence interval."""

    mean: float
    half_width: float

    def text(self, *, percent: bool = True, sign: bool = False) -> str:
        """``mean ± half-width``, in percent with one digit or as they are with three.

        One value has no interval, and a mean that is not finite is called so.
        """
        if not math.isfinite(self.mean):
            return "not finite"
        scale, digits = (100, 1) if percent else (1, 3)
        mean = f"{scale * self.mean:{'+' if sign else ''}.{digits}f}"
        return f"{mean} ± {scale * self.half_width:.{digits}f}" if math.isfinite(self.half_width) else mean


def finite_or_none(number: float) -> float | None:
    """A number for JSON: None for what is not finite."""
    return number if math.isfinite(number) else None


def plain(value: Any) -> dict[str, float | None]:
    """A tuple of named numbers, such as an `Estimate`, for JSON."""
    return {name: finite_or_none(number) for name, number in value._asdict().items()}


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and 95% interval by Student's t over independent values (episodes, say).

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("no values to average")
    if values.size == 1:
        return Estimate(float(values[0]), math.inf)
    from scipy.stats import t

    standard_error = values.std(ddof=1) / math.sqrt(values.size)
    return Estimate(float(values.mean()), float(t.ppf(0.975, values.size - 1) * standard_error))
