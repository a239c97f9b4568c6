"""Hashed n-grams: what a text is spelled with, as a vector of fixed width and no vocabulary."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def hashed_ngrams(texts: Sequence[str], width: int) -> Any:
    """Count words (1- and 2-grams) and characters inside words (3- to 5-grams), hashed to columns.

    A count ``c`` becomes ``log(1 + c)``. Half of the n-grams count negatively, by
    a second hash, so that those that share a column cancel on average instead of
    looking alike. Nothing is fitted: unseen words have a place of their own.

    Args:
        texts: ``n`` texts.
        width: number of columns; more keep more n-grams apart.

    Returns:
        A scipy sparse matrix ``[n, width]``, float32.

    References:
        Weinberger et al. Feature Hashing for Large Scale Multitask Learning.
        ICML 2009 (signed hashing: section 2).
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(ngram_range=(1, 2)).build_analyzer()
    characters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5)).build_analyzer()

    def both(text: str) -> list[str]:
        return [f"word {ngram}" for ngram in words(text)] + [f"characters {ngram}" for ngram in characters(text)]

    counts = HashingVectorizer(analyzer=both, n_features=width, norm=None, dtype=np.float32).transform(texts)
    counts.data = np.sign(counts.data) * np.log1p(np.abs(counts.data))
    return counts.tocsr()
