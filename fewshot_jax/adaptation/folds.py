"""Folds of a few labelled texts, and what can be said from the scores on them."""

import math
from collections.abc import Sequence

import numpy as np

from fewshot_jax.evaluation.statistics import Estimate

Fold = tuple[np.ndarray, np.ndarray]  # numbers of the texts that are trained on, and of those that are held out


def stratified(label: np.ndarray, *, most: int, repeats: int = 1, seed: int = 0) -> list[Fold]:
    """Folds that hold out each text once in each repeat, and of each class the same share.

    Args:
        label: ``[n]``.
        most: folds of a repeat; fewer where the smallest class has fewer texts.
        repeats: of the division, each another one.
        seed: of the divisions.

    Returns:
        The folds; none where a class has one text only, which cannot be both trained on and held out.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    count = min(most, int(np.bincount(label)[np.unique(label)].min()))
    if count < 2:
        return []
    folds = RepeatedStratifiedKFold(n_splits=count, n_repeats=repeats, random_state=seed)
    return [(train, test) for train, test in folds.split(np.zeros(len(label)), label)]


def over_folds(values: Sequence[float] | np.ndarray, folds: Sequence[Fold]) -> Estimate:
    """The mean of a score over folds and its 95% interval, for folds whose training texts overlap.

    The variance of the mean of ``J`` folds is that of one times ``1/J + n_test/n_train``: independent folds, whose
    factor would be ``1/J``, are too sure of themselves.

    References:
        Nadeau, Bengio. Inference for the Generalization Error. Machine Learning 52, 2003 (section 3, "corrected
        resampled t-test").
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), math.inf)
    held_out = float(np.mean([len(test) / len(train) for train, test in folds]))
    variance = values.var(ddof=1) * (1 / len(values) + held_out)
    return Estimate(float(values.mean()), float(t.ppf(0.975, len(values) - 1) * math.sqrt(variance)))
