"""From logits to probabilities that can be believed: temperature scaling on texts that were held out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NONE = "none of these"


class Prediction(NamedTuple):
    """The most probable label of a text, and its probability; where that is below the threshold, `NONE`."""

    label: str
    probability: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``[n, N]``."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(-1, keepdims=True)


def most_probable(labels: Sequence[str], probabilities: np.ndarray, threshold: float = 0.0) -> list[Prediction]:
    """The best label of each row ``[n, N]``, of those that are as probable as the threshold."""
    return [
        Prediction(labels[label] if row[label] >= threshold else NONE, float(row[label]))
        for label, row in zip(probabilities.argmax(-1), probabilities, strict=True)
    ]


def nats(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Minus the log-probability ``[n]`` of the true classes ``label [n]``."""
    from scipy.special import log_softmax

    return -log_softmax(logits, axis=-1)[np.arange(len(label)), label]


def temperature_of(logits: np.ndarray, label: np.ndarray) -> float:
    """The temperature that makes the true classes of some held-out texts most probable.

    Args:
        logits: ``[n, N]``, of models that have not seen the texts.
        label: ``[n]``, their true classes.

    Returns:
        That of least mean nats, from 1/20 to 20.

    References:
        Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017 (section 4.2).
    """
    from scipy.optimize import minimize_scalar

    bound = np.log(20.0)
    found = minimize_scalar(
        lambda log: nats(logits * np.exp(-log), label).mean(), bounds=(-bound, bound), method="bounded"
    )
    return float(np.exp(found.x))
