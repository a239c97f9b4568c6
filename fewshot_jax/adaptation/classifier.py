"""A classifier that a learner adapted, and how any saved model is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewshot_jax.adaptation.base import Classifier
from fewshot_jax.adaptation.context import packed
from fewshot_jax.adaptation.readers import Reader, saved_reader
from fewshot_jax.adaptation.saving import read_model, save_model
from fewshot_jax.adaptation.simple import load_simple
from fewshot_jax.adaptation.writer import Writer, load_writer
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError, first_line
from fewshot_jax.training.experiment import judging_pair
from fewshot_jax.types import PyTree

FEW = 16  # texts that are not worth a whole batch


class AdaptedClassifier(Classifier):
    """A learner adapted to one task, with its label names and what reads its texts.

    Args:
        adapted: what ``learner.adapt`` gave.
        labels: names of the ``N`` classes, in the order of the outputs.
        config: of the run.
        reader: of the texts.
        temperature: that its logits are divided by, for probabilities.
    """

    def __init__(
        self, adapted: PyTree, labels: Sequence[str], config: Config, reader: Reader, temperature: float = 1.0
    ):
        super().__init__(labels, temperature)
        self.adapted, self.config, self.reader = packed(adapted, config), config, reader
        _, learner = judging_pair(reader.functions, config)

        @jax.jit
        def logits(adapted: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            return learner.predict(adapted, batch, jax.random.key(0))

        self._logits = logits

    def check(self) -> None:
        """Raise a ValueError if weights, labels and config do not fit each other; computes nothing.

        The text is as long as any may be, so that no later one is refused.
        """
        shape = jax.eval_shape(self._logits, self.adapted, self.reader.longest()).shape
        if shape[-1] != len(self.labels):
            raise ValueError(f"weights for {shape[-1]} classes, but {len(self.labels)} labels")

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        rows = list(self._batches(texts))
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def _batches(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Batches of two sizes and few lengths, so that nothing is compiled twice."""
        size = self.reader.batch_size
        if len(texts) <= FEW:
            size = min(FEW, size)
        for start in range(0, len(texts), size):
            chunk = texts[start : start + size]
            yield np.asarray(self._logits(self.adapted, self.reader.batch(chunk, size)))[: len(chunk)]

    def _write(self, directory: Path, record: Mapping[str, Any], files: Mapping[str, str]) -> None:
        stored = self.reader.store(self.adapted)
        described = {**record, **stored.record, "labels": self.labels, "temperature": self.temperature}
        save_model(directory, self.adapted, self.config, described, stored.write, files, stored.elsewhere)


def load(directory: str | Path) -> Classifier | Writer:
    """Load a model that ``adapt`` saved: a classifier of texts, or a `Writer` of others.

    Args:
        directory: with ``model.safetensors``, ``model.json`` and the tokenizer.

    Raises:
        UserError: the directory holds no such model, or a damaged one.

    Example:
        ``fsj.load("my-model").predict(["what is my balance?"])``
    """
    directory = Path(directory)
    try:
        adapted, config, record = read_model(directory)
        if config is None:
            return load_simple(directory, adapted, record)
        if config.record.pairs:
            return load_writer(directory, adapted, config)
        labels = record["labels"]
        reader = saved_reader(config, directory, record)
        classifier = AdaptedClassifier(adapted, labels, config, reader, record.get("temperature", 1.0))
        classifier.check()
    except UserError:
        raise
    except Exception as error:  # whatever a torn or edited file can lead to
        raise UserError(
            f"{directory}: the saved model is damaged ({first_line(error)}); adapt and save it again"
        ) from error
    return classifier
