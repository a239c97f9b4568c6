"""Metrics of predicted classes, on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Values = Sequence[Any] | np.ndarray


def confusion(labels: Values, predictions: Values, classes: Values) -> np.ndarray:
    """Counts ``[N, N]`` int64: row ``i``, column ``j`` are items of ``classes[i]`` predicted as ``classes[j]``.

    Args:
        labels: the ``n`` true classes, names or numbers.
        predictions: the ``n`` predicted ones.
        classes: all ``N`` classes, each once.

    Raises:
        ValueError: labels and predictions differ in number, a class is repeated, or one of
            the labels or predictions is none of the classes.
    """
    labels, predictions, classes = (np.asarray(values).tolist() for values in (labels, predictions, classes))
    if len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels, but {len(predictions)} predictions")
    number = {name: i for i, name in enumerate(classes)}
    if len(number) < len(classes):
        raise ValueError("classes: expected each class once")
    if unknown := [value for value in (*labels, *predictions) if value not in number]:
        raise ValueError(f"{unknown[0]!r} is not among the {len(classes)} classes")
    pairs = np.array([number[a] * len(classes) + number[b] for a, b in zip(labels, predictions, strict=True)], np.int64)
    return np.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), len(classes))


def macro_f1(labels: Values, predictions: Values, classes: Values) -> float:
    """F1 averaged over classes, 0 to 1; that of a class with neither items nor predictions is 0.

    Args and errors as for `confusion`.
    """
    counts = confusion(labels, predictions, classes)
    if not len(counts):
        raise ValueError("classes: expected at least one")
    # 2 TP / (2 TP + FP + FN), whose denominator is the number of items plus that of predictions
    return float(np.mean(2 * counts.diagonal() / np.maximum(counts.sum(0) + counts.sum(1), 1)))
