"""A saved few-shot classifier: load it, predict with it.

model.safetensors    what the learner adapted: parameters, prototypes
model.json           config, label names, versions
tokenizer.json, tokenizer_config.json
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.applications.text_classification import encode_for, text_functions
from fewshot_jax.config import Config
from fewshot_jax.config_file import from_dict, to_dict
from fewshot_jax.data.loader import bucket, text_batch
from fewshot_jax.data.tokenization import load_tokenizer, save_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import check_writable
from fewshot_jax.types import PyTree
from fewshot_jax.versions import versions

_BATCH = 256  # texts predicted at once; a constant, so that each length compiles once


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
    """

    def __init__(self, adapted: PyTree, labels: Sequence[str], tokenizer: Any, config: Config):
        self.adapted, self.labels, self.tokenizer, self.config = adapted, list(labels), tokenizer, config
        vocab_size = tokenizer.get_vocab_size()
        functions = text_functions(
            config, vocab_size=vocab_size, ways=len(self.labels), training=False, joint_classes=0
        )
        learner = build_learner(functions, config, training=False)

        @jax.jit
        def probabilities(adapted: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            return jax.nn.softmax(learner.predict(adapted, batch, jax.random.key(0)))

        self._probabilities = probabilities

    def check(self) -> None:
        """Raise a ValueError if weights, labels and config do not fit each other; computes nothing."""
        batch = text_batch(encode_for(self.config, self.tokenizer, ["text"]), np.zeros(1, int), 1)
        shape = jax.eval_shape(self._probabilities, self.adapted, batch).shape
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
        for start in range(0, len(texts), _BATCH):
            chunk = list(texts[start : start + _BATCH])
            encoded = encode_for(self.config, self.tokenizer, chunk)
            index = np.minimum(np.arange(_BATCH), len(chunk) - 1)
            length = bucket(int(encoded.lengths.max()), self.config.tokenizer.buckets)
            batch = text_batch(encoded, index, length)
            yield np.asarray(self._probabilities(self.adapted, batch))[: len(chunk)]

    def save(self, directory: str | Path) -> None:
        """Write the classifier to a new directory, whole or not at all.

        Raises:
            UserError: the directory exists and is not empty, or cannot be written.
        """
        from safetensors.numpy import save_file

        directory = Path(directory)
        check_output(directory)
        try:
            directory.absolute().parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.absolute().parent))
        except OSError as error:
            raise UserError(f"{directory}: cannot write here ({error}); see --output") from None
        try:
            save_file(
                {k: np.array(v, order="C") for k, v in flatten_dict(self.adapted, sep="/").items()},
                partial / "model.safetensors",
            )
            save_tokenizer(self.tokenizer, partial)
            record = {"labels": self.labels, "config": to_dict(self.config), "versions": versions()}
            (partial / "model.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            partial.chmod(0o755)
            if directory.exists():
                directory.rmdir()
            os.replace(partial, directory)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"{directory}: cannot write here ({error}); see --output") from None


def check_output(directory: Path) -> None:
    """Raise a UserError if a model cannot be saved as a new directory."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: exists and is not an empty directory; give another --output")
    check_writable(directory, flag="--output")


def load(directory: str | Path) -> Classifier:
    """Load a classifier that ``adapt`` saved.

    Args:
        directory: with ``model.safetensors``, ``model.json`` and the tokenizer.

    Raises:
        UserError: the directory holds no such model, or a damaged one.

    Example:
        ``fsj.load("my-model").predict(["what is my balance?"])``
    """
    from safetensors.numpy import load_file

    directory = Path(directory)
    if not (directory / "model.json").exists():
        what = "does not exist"
        if directory.exists():
            run = (directory / "config.yaml").exists()
            what = "is a run, which is yet to be adapted" if run else "holds no adapted model (no model.json)"
        raise UserError(f"{directory}: {what}; make a model with 'fewshot-jax adapt RUN --data FILE --output DIR'")
    try:
        record = json.loads((directory / "model.json").read_text(encoding="utf-8"))
        adapted = unflatten_dict(load_file(directory / "model.safetensors"), sep="/")
        labels, config = record["labels"], from_dict(record["config"], source=str(directory / "model.json"))
        classifier = Classifier(adapted, labels, load_tokenizer(directory), config)
        classifier.check()
    except Exception as error:  # whatever a torn or edited file can lead to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{directory}: the saved model is damaged ({reason}); adapt and save it again") from error
    return classifier
