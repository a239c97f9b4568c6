"""From logits to probabilities that can be believed: temperature scaling on texts that were held out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewshot_jax.errors import UserError

IMPOSSIBLE = -1e6  # a logit below it is of a class that cannot be predicted
NONE = "none of these"


class Prediction(NamedTuple):
    """The most probable label of a text, and its probability; where that is below the threshold, `NONE`."""

    label: str
    probability: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``[n, N]``."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(-1, keepdims=True)


def check_finite(outputs: np.ndarray, texts: Sequence[str]) -> None:
    """Raise a UserError that names the first text with an output ``[n, ...]`` that is no finite number."""
    if (bad := np.flatnonzero(~np.isfinite(outputs).all(axis=tuple(range(1, outputs.ndim))))).size:
        text = texts[int(bad[0])]
        raise UserError(
            f"the model's outputs are not finite numbers for {bad.size} of {len(texts)} texts, such as texts[{bad[0]}] "
            f"('{text[:40]}'): the weights are damaged or do not fit the tokenizer, or a text needs more positions "
            "than the model has. Adapt again, start from another model, or shorten the text."
        )


def probabilities(logits: np.ndarray, texts: Sequence[str], temperature: float) -> np.ndarray:
    """The `softmax` ``[n, N]`` of the logits of some texts, divided by a temperature.

    Raises:
        UserError: those of a text are not finite.
    """
    check_finite(logits, texts)
    return softmax(logits / np.float32(temperature))


def most_probable(labels: Sequence[str], probabilities: np.ndarray, threshold: float = 0.0) -> list[Prediction]:
    """The best label of each row ``[n, N]``, of those that are as probable as the threshold.

    Raises:
        ValueError: the threshold is no probability.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: expected a probability, 0 to 1")
    return [
        Prediction(labels[label] if row[label] >= threshold else NONE, float(row[label]))
        for label, row in zip(probabilities.argmax(-1), probabilities, strict=True)
    ]


def nats(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Minus the log-probability ``[n]`` of the true classes ``label [n]``."""
    from scipy.special import log_softmax

    return -log_softmax(logits, axis=-1)[np.arange(len(label)), label]


def temperature_of(logits: np.ndarray, label: np.ndarray, texts: int | None = None) -> float:
    """The temperature that makes the true classes of some held-out texts most probable.

    Args:
        logits: ``[n, N]``, of models that have not seen the texts.
        label: ``[n]``, their true classes.
        texts: how many different texts there are, ``m``; None for all.

    Returns:
        That of least mean nats, from 1/20 to 20. The true classes have the probability ``(m + 1) / (m + 2)``, the rest
        of it is of all classes alike: where all texts are right, a few of them do not make a model sure of itself.

    References:
        Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017 (section 4.2).
        Platt. Probabilistic Outputs for Support Vector Machines. 1999 (section 2.2, the targets).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    other, bound = 1 / ((len(label) if texts is None else texts) + 2), np.log(20.0)

    def lost(log: float) -> float:
        scaled = log_softmax(logits * np.exp(-log), axis=-1)
        # A class that cannot be predicted has no share of the rest.
        of_all = np.where(logits > IMPOSSIBLE, scaled, 0).sum(1) / (logits > IMPOSSIBLE).sum(1)
        true = scaled[np.arange(len(label)), label]
        return -float(((1 - other) * true + other * of_all).mean())

    return float(np.exp(minimize_scalar(lost, bounds=(-bound, bound), method="bounded").x))
