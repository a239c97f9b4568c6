"""Folds of a few labelled texts, and what can be said from the scores on them."""

import math
from collections.abc import Sequence

import numpy as np

from fewshot_jax.evaluation.statistics import Estimate

Fold = tuple[np.ndarray, np.ndarray]  # numbers of the texts that are trained on, and of those that are held out


def rare_classes(label: np.ndarray) -> list[int]:
    """The classes with too few texts to be held out: fewer than three, or than two where few classes have three.

    Of three texts two are left to choose a rate on, one held out from the other.
    """
    classes, counts = np.unique(label, return_counts=True)
    least = 3 if (counts >= 3).sum() > 1 else 2
    return [int(one) for one, count in zip(classes, counts, strict=True) if count < least]


def stratified(label: np.ndarray, *, most: int, repeats: int = 1, seed: int = 0) -> list[Fold]:
    """Folds that hold out each text once in each repeat, and of each class the same share.

    The texts of `rare_classes` are trained on in every fold.

    Args:
        label: ``[n]``.
        most: folds of a repeat; fewer where the smallest of the other classes has fewer texts.
        repeats: of the division, each another one.
        seed: of the divisions.

    Returns:
        The folds; none where fewer than two classes can be held out.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    rare = np.isin(label, rare_classes(label))
    always, divided = np.flatnonzero(rare), np.flatnonzero(~rare)
    counts = np.unique(label[divided], return_counts=True)[1]
    if len(counts) < 2:
        return []
    folds = RepeatedStratifiedKFold(n_splits=min(most, int(counts.min())), n_repeats=repeats, random_state=seed)
    return [
        (np.sort(np.concatenate([divided[train], always])), divided[test])
        for train, test in folds.split(divided[:, None], label[divided])
    ]


def over_folds(values: Sequence[float] | np.ndarray, folds: Sequence[Fold]) -> Estimate:
    """The mean of a score over folds and its 95% interval, for folds whose training texts overlap.

    The variance of the mean of ``J`` folds is that of one times ``1/J + n_test/n_train``: independent folds, whose
    factor would be ``1/J``, are too sure of themselves.

    References:
        Nadeau, Bengio. Inference for the Generalization Error. Machine Learning 52, 2003 (section 3, "corrected
        resampled t-test").

    Returns:
        The estimate; folds that agree entirely do not say how others would differ, so its interval is then infinite.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if len(values) < 2 or values.std() < 1e-12:
        return Estimate(float(values.mean()), math.inf)
    held_out = float(np.mean([len(test) / len(train) for train, test in folds]))
    variance = values.var(ddof=1) * (1 / len(values) + held_out)
    return Estimate(float(values.mean()), float(t.ppf(0.975, len(values) - 1) * math.sqrt(variance)))
