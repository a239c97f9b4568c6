"""Metrics of predicted classes, on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Values = Sequence[Any] | np.ndarray


def macro_f1(labels: Values, predictions: Values) -> float:
    """F1 averaged over the classes that are true or predicted for any item, 0 to 1, as scikit-learn has it.

    Args:
        labels: the ``n`` true classes, names or numbers.
        predictions: the ``n`` predicted ones.

    Returns:
        ``sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)``; 0 of no items.

    Raises:
        ValueError: labels and predictions differ in number.
    """
    from sklearn.metrics import f1_score

    if not len(labels) and not len(predictions):
        return 0.0
    return float(f1_score(labels, predictions, average="macro", zero_division=0))
