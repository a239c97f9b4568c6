"""The simple model that an adapted one has to beat: TF-IDF and logistic regression, from scikit-learn."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.adaptation.base import Classifier
from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.data.tfidf import ANALYSERS

KIND = "tfidf"
TERMS = "terms.json"
STRENGTH = 10.0  # C of the regression, the inverse of its regularisation
MOST_TERMS = 50_000  # of words, and of characters: the most frequent ones
# Of many classes fewer, so that fitting (L-BFGS keeps some 25 numbers of double precision a weight) takes below 1 GB.
MOST_WEIGHTS = 2_000_000
LEAST_TERMS = 5_000


class SimpleClassifier(Classifier):
    """Logits ``x W + b`` of a text's TF-IDF vector ``x [F]``, L2-normalised for words and for characters.

    Args:
        terms: of each of `ANALYSERS`, in the order of their weights.
        arrays: ``kernel [F, N]``, ``bias [N]``, and the IDF of each of `ANALYSERS`.
        labels: names of the ``N`` classes.
        temperature: that the logits are divided by.
    """

    def __init__(
        self,
        terms: dict[str, list[str]],
        arrays: dict[str, np.ndarray],
        labels: Sequence[str],
        temperature: float = 1.0,
    ):
        super().__init__(labels, temperature)
        self.terms, self.arrays = terms, arrays
        self._vectorizers = [_vectorizer(name, terms[name], arrays[name]) for name in ANALYSERS]

    @classmethod
    def fit(cls, texts: Sequence[str], label: np.ndarray, labels: Sequence[str]) -> Self:
        """Fit the terms, their IDF and the regression.

        Args:
            texts: ``n`` of them.
            label: ``[n]``, numbers below the number of labels; a class may have no text, and is then never predicted.
            labels: names of the classes.
        """
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        terms, arrays, vectors = {}, {}, []
        most = min(MOST_TERMS, max(LEAST_TERMS, MOST_WEIGHTS // len(labels)))
        for name, options in ANALYSERS.items():
            vectorizer = TfidfVectorizer(**options, max_features=most)
            try:
                vectors.append(vectorizer.fit_transform(texts))
            except ValueError:  # no term in any text, as of characters in texts of one letter
                vectorizer = TfidfVectorizer(**options, vocabulary=[" "]).fit(texts)
                vectors.append(vectorizer.transform(texts))
            terms[name], arrays[name] = vectorizer.get_feature_names_out().tolist(), vectorizer.idf_
        regression = LogisticRegression(C=STRENGTH, max_iter=1000).fit(hstack(vectors), label)
        kernel, bias = regression.coef_.T, regression.intercept_
        if kernel.shape[1] == 1:  # of two classes: the logit of the second one
            kernel, bias = np.concatenate([-kernel, kernel], 1) / 2, np.concatenate([-bias, bias]) / 2
        present = regression.classes_
        whole = {
            "kernel": np.zeros((len(kernel), len(labels)), np.float32),
            "bias": np.full(len(labels), -1e9, np.float32),
        }
        whole["kernel"][:, present], whole["bias"][present] = kernel, bias
        return cls(terms, {**whole, **{name: arrays[name].astype(np.float32) for name in ANALYSERS}}, labels)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        from scipy.sparse import hstack

        if not texts:
            return np.zeros((0, len(self.labels)), np.float32)
        vectors = hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers])
        return np.asarray(vectors @ self.arrays["kernel"] + self.arrays["bias"])

    def _write(self, directory: Path, record: Mapping[str, Any], files: Mapping[str, str]) -> None:
        def write_terms(partial: Path) -> None:
            (partial / TERMS).write_text(strict_json.dumps(self.terms, ensure_ascii=False) + "\n", encoding="utf-8")

        described = {**record, "kind": KIND, "labels": self.labels, "temperature": self.temperature}
        save_model(directory, self.arrays, None, described, write_terms, files)


def load_simple(directory: Path, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> SimpleClassifier:
    """What `SimpleClassifier.save` wrote."""
    terms = json.loads((directory / TERMS).read_text(encoding="utf-8"))
    features, ways = arrays["kernel"].shape
    if features != sum(map(len, terms.values())) or ways != len(record["labels"]) or ways != len(arrays["bias"]):
        raise ValueError("weights, terms and labels do not fit each other")
    return SimpleClassifier(terms, arrays, record["labels"], record["temperature"])


def _vectorizer(name: str, terms: list[str], idf: np.ndarray) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**ANALYSERS[name], vocabulary=terms)
    vectorizer.idf_ = idf.astype(np.float64)
    return vectorizer
