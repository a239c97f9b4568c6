"""TF-IDF vectors of texts, for the baselines that need no training."""

from collections.abc import Sequence
from typing import Any

# Words and pairs of them; parts of words, of three to five characters.
ANALYSERS: dict[str, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2)},
    "characters": {"analyzer": "char", "ngram_range": (3, 5)},
}


def tfidf(fit_texts: Sequence[str], texts: Sequence[str]) -> Any:
    """Return TF-IDF vectors of texts, a sparse ``[n, F]``.

    Words (1- and 2-grams) and characters (3- to 5-grams across words), each
    L2-normalised with sublinear counts off, side by side. Vocabulary and IDF are
    fitted on the texts of the training classes only.

    Args:
        fit_texts: texts of the training classes.
        texts: the ``n`` texts of the evaluated split, which episodes point into.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    union = make_union(*(TfidfVectorizer(**options) for options in ANALYSERS.values()))
    union.fit(fit_texts)
    return union.transform(texts)
