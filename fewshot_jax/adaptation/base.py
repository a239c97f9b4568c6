"""What every classifier of texts does, whether a learner adapted it or it is the simple one."""

import abc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.adaptation.card import card
from fewshot_jax.adaptation.report import AdaptationReport
from fewshot_jax.adaptation.saving import EXAMPLES
from fewshot_jax.adaptation.scaling import Prediction, most_probable, probabilities
from fewshot_jax.config import Config
from fewshot_jax.data.labels import plain_texts
from fewshot_jax.data.records import Record


class Classifier(abc.ABC):
    """Labels texts.

    Args:
        labels: names of the ``N`` classes, in the order of the outputs.
        temperature: divides the logits before they become probabilities.

    Attributes:
        config: of the run that it was adapted from; None of the simple one.
        report: what adapting found and decided; None of a model that was loaded.
        examples: the examples that it was adapted to, which `save` keeps; empty of a model that was loaded, and of one
            that scores the names of its classes.
    """

    config: Config | None = None
    report: AdaptationReport | None = None
    examples: Sequence[Record] = ()

    def __init__(self, labels: Sequence[Any], temperature: float = 1.0):
        self.labels, self.temperature = list(labels), temperature

    @abc.abstractmethod
    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Logits ``[n, N]`` of the classes."""

    def predict_proba(self, texts: Iterable[str]) -> np.ndarray:
        """Probabilities ``[n, N]`` of the classes, in the order of ``labels``."""
        texts = plain_texts(texts)
        return probabilities(self.logits(texts), texts, self.temperature)

    def predict(self, texts: Iterable[str], threshold: float = 0.0) -> list[Prediction]:
        """The most probable label of each text, or "none of these" where its probability is below a threshold."""
        return most_probable(self.labels, self.predict_proba(texts), threshold)

    def save(self, directory: str | Path) -> None:
        """Write the classifier to a new directory, whole or not at all.

        What `fsj.adapt` found, the examples and the model card are written too.

        Raises:
            UserError: the directory exists and is not empty, or cannot be written.
        """
        directory, report = Path(directory), self.report
        record: dict[str, Any] = {}
        files: dict[str, str] = {}
        if report is not None and self.examples:
            rows = (strict_json.dumps(one._asdict(), ensure_ascii=False) + "\n" for one in self.examples)
            files[EXAMPLES], record["start"] = "".join(rows), report.start
        if report is not None and report.source is not None:
            record["source"] = report.source
        if report is not None and report.cross_validation is not None:
            files["README.md"] = card(report.cross_validation, directory.name, report.source)
            record["cross_validation"] = report.cross_validation
        self._write(directory, record, files)

    @abc.abstractmethod
    def _write(self, directory: Path, record: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Write the weights with what ``model.json`` says besides, and further files by name."""
