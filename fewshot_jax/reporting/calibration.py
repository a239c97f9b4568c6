"""How far the confidence of a classifier is from its accuracy."""

from typing import Any, NamedTuple

import numpy as np

BINS = 15  # as in the paper's tables


class Calibration(NamedTuple):
    """Confidence and accuracy of predictions, in bins of equal width.

    Attributes:
        edges: ``[M + 1]``, from 0 to 1; bin ``m`` holds the confidences above its lower edge, up to the upper one.
        items: ``[M]`` predictions.
        confidence, accuracy: ``[M]`` means; NaN in an empty bin.
        error: the expected calibration error, from 0 to 1; NaN without predictions.
    """

    edges: np.ndarray
    items: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; null in an empty bin."""
        full = self.items > 0
        return {
            "expected_calibration_error": None if np.isnan(self.error) else self.error,
            "edges": self.edges.tolist(),
            "items": self.items.tolist(),
            **{
                name: [value if there else None for value, there in zip(values.tolist(), full, strict=True)]
                for name, values in (("confidence", self.confidence), ("accuracy", self.accuracy))
            },
        }


def calibrate(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> Calibration:
    """The expected calibration error of predictions, and the bins behind it.

    ECE = sum over bins of (share of the predictions) * abs(accuracy - mean confidence).

    Args:
        confidence: ``[n]``, the probability of the predicted class.
        correct: ``[n]`` bool.
        bins: how many.

    References:
        Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017. Equations 1 to 3.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")  # the upper edge belongs to its bin
    items = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means, shares = (np.bincount(place, values, bins) / items for values in (confidence, correct))
        gaps = np.where(items > 0, np.abs(means - shares), 0)
    error = float(items @ gaps / confidence.size) if confidence.size else float("nan")
    return Calibration(edges, items, means, shares, error)
