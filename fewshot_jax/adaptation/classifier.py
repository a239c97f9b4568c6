"""A saved few-shot classifier: load it, predict with it."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fewshot_jax.adaptation.saving import read_model, save_model
from fewshot_jax.adaptation.writer import Writer, load_writer
from fewshot_jax.applications.language_model import LanguageModel, save_language_model
from fewshot_jax.applications.text_classification import encode_for, pretrained_encoder, text_functions
from fewshot_jax.config import WRITES, Config
from fewshot_jax.data.loader import bucket, text_batch
from fewshot_jax.data.tokenization import load_tokenizer, save_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.training.learners import build_learner
from fewshot_jax.types import Batch, MetaLearner, PyTree


class Prediction(NamedTuple):
    """The most probable label of a text, and its probability."""

    label: str
    probability: float


class Classifier:
    """A learner adapted to one task, with its tokenizer and label names.

    Args:
        adapted: what ``learner.adapt`` gave.
        labels: names of the ``N`` classes, in the order of the outputs.
        tokenizer: of the run.
        config: of the run.
        pretrained: the model that the run started from; None for a new one.
    """

    batch_size = 256  # texts predicted at once; a constant, so that each length compiles once

    def __init__(
        self,
        adapted: PyTree,
        labels: Sequence[str],
        tokenizer: Any,
        config: Config,
        pretrained: LanguageModel | None = None,
    ):
        self.adapted, self.labels, self.tokenizer, self.config = adapted, list(labels), tokenizer, config
        self.pretrained = pretrained
        functions = text_functions(
            config,
            vocab_size=tokenizer.get_vocab_size(),
            ways=len(self.labels),
            training=False,
            joint_classes=0,
            pretrained=pretrained,
        )
        self._compile(build_learner(functions, config, training=False))

    def _compile(self, learner: MetaLearner) -> None:
        @jax.jit
        def probabilities(adapted: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            return jax.nn.softmax(learner.predict(adapted, batch, jax.random.key(0)))

        self._probabilities = probabilities

    def check(self) -> None:
        """Raise a ValueError if weights, labels and config do not fit each other; computes nothing."""
        shape = jax.eval_shape(self._probabilities, self.adapted, self.batch(["text"], 1)).shape
        if shape[-1] != len(self.labels):
            raise ValueError(f"weights for {shape[-1]} classes, but {len(self.labels)} labels")

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities ``[n, N]`` of the classes, in the order of ``labels``."""
        rows = list(self._batches(texts))
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The most probable label of each text."""
        probabilities = self.predict_proba(texts)
        best = probabilities.argmax(-1)
        return [
            Prediction(self.labels[label], float(row[label])) for label, row in zip(best, probabilities, strict=True)
        ]

    def _batches(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Batches of one size and few lengths, so that nothing is compiled twice."""
        if isinstance(texts, str):
            raise TypeError("predict takes a list of texts, not one string")
        for start in range(0, len(texts), self.batch_size):
            chunk = list(texts[start : start + self.batch_size])
            batch = self.batch(chunk, self.batch_size)
            yield np.asarray(self._probabilities(self.adapted, batch))[: len(chunk)]

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        """Texts as the learner reads them, with so many slots."""
        encoded = encode_for(self.config, self.tokenizer, texts, self.pretrained)
        index = np.minimum(np.arange(items), len(texts) - 1)
        return text_batch(encoded, index, bucket(int(encoded.lengths.max()), self.config.tokenizer.buckets))

    def save(self, directory: str | Path) -> None:
        """Write the classifier to a new directory, whole or not at all.

        Raises:
            UserError: the directory exists and is not empty, or cannot be written.
        """
        write = functools.partial(save_tokenizer, self.tokenizer)
        if self.pretrained is not None:
            write = functools.partial(save_language_model, self.pretrained)
        save_model(directory, self.adapted, self.config, {"labels": self.labels}, write)


def load(directory: str | Path) -> "Classifier | Writer":
    """Load a model that ``adapt`` saved: a `Classifier` of texts, or a `Writer` of others.

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
        if config.application in WRITES:
            return load_writer(directory, adapted, config)
        labels = record["labels"]
        if config.kind == "label_scoring":
            from fewshot_jax.adaptation.label_scorer import load_label_scorer

            classifier: Classifier = load_label_scorer(directory, adapted, labels, config)
        else:
            model = pretrained_encoder(config, directory, weights=False)
            tokenizer = load_tokenizer(directory) if model is None else model.codec.tokenizer
            classifier = Classifier(adapted, labels, tokenizer, config, model)
        classifier.check()
    except UserError:
        raise
    except Exception as error:  # whatever a torn or edited file can lead to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{directory}: the saved model is damaged ({reason}); adapt and save it again") from error
    return classifier
