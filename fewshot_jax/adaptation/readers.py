"""How an adapted classifier reads texts: with a head, or by the names of its classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fewshot_jax.adaptation.encoder_files import Stored, store_encoder
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.label_scoring import one_task
from fewshot_jax.applications.text_functions import name_functions
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.loader import bucket, text_batch
from fewshot_jax.data.sequences import Ids
from fewshot_jax.data.sets import label_text
from fewshot_jax.data.tokenization import save_tokenizer
from fewshot_jax.types import Batch, PyTree

_TOKENS = 2**15  # of a batch of texts
CANDIDATES = "candidates"  # in model.json: the texts that are scored for the classes, in the order of the labels


class Reader(Protocol):
    """Texts to batches, for the functions that judge them.

    Attributes:
        functions: whose outputs are logits ``[B, N]`` of the classes.
        tokenizer: of the texts.
        batch_size: texts read at once; a constant, so that each length compiles once.
    """

    functions: Functions
    tokenizer: Any
    batch_size: int

    @property
    def max_length(self) -> int:
        """Most tokens of a text."""

    def cut(self, texts: Sequence[str]) -> int:
        """How many of some texts are too long, and read in part."""

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        """Texts as ``items`` rows, ``[items, ...]``; those beyond the last text repeat it."""

    def longest(self) -> Batch:
        """One row of the largest bucket, ``[1, ...]``, of no text: its shapes are what counts."""

    def store(self, adapted: PyTree) -> Stored:
        """How it is stored beside what a learner adapted."""


class HeadReader:
    """For a head on the features of an encoder.

    Args:
        model: of the run.
        ways: number of classes ``N``.
    """

    batch_size = 256

    def __init__(self, model: TextModel, ways: int):
        self.model, self.tokenizer = model, model.codec.tokenizer
        self.functions = model.functions(ways, training=False)
        # Of long texts fewer: the scores of attention take rows times tokens squared.
        self.batch_size = min(self.batch_size, max(16, _TOKENS // max(model.codec.buckets)))

    @property
    def max_length(self) -> int:
        return self.model.codec.max_length

    def cut(self, texts: Sequence[str]) -> int:
        return self.model.codec.too_long(texts)

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        encoded = self.model.encode(texts)
        index = np.minimum(np.arange(items), len(texts) - 1)
        return text_batch(encoded, index, bucket(int(encoded.lengths.max()), self.model.codec.buckets))

    def longest(self) -> Batch:
        return text_batch(self.model.encode(["text"]), np.zeros(1, int), max(self.model.codec.buckets))

    def store(self, adapted: PyTree) -> Stored:
        if self.model.home is None:  # in the directory itself, as the first saved models had it
            return Stored(lambda directory: save_tokenizer(self.tokenizer, directory))
        return store_encoder(self.model, adapted)


class NameReader:
    """For a language model that scores the names of the classes.

    Args:
        model: of the run.
        names: of the classes, as texts.
    """

    def __init__(self, model: TextModel, names: Sequence[str]):
        self.model, self.tokenizer = model, model.codec.tokenizer
        self._record = {CANDIDATES: list(names)}
        self.names: list[Ids] = [ids for _, ids in model.codec.encode([Example(" ", name) for name in names])]
        # Each text is read once for every class, after all examples where they are the context.
        self.batch_size = max(1, 256 // len(self.names))
        self.functions = name_functions(model, len(self.names), False)

    @property
    def max_length(self) -> int:
        return self.model.codec.max_length

    def cut(self, texts: Sequence[str]) -> int:
        return self.model.codec.too_long(texts)

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        sources = self.model.codec.sources(texts)
        return one_task(self.model.codec, [*sources, *[sources[-1]] * (items - len(sources))], self.names)

    def longest(self) -> Batch:
        return one_task(self.model.codec, [np.zeros(self.max_length, np.int32)], self.names)

    def store(self, adapted: PyTree) -> Stored:
        del adapted
        return Stored(self.model.save, self._record)


def saved_reader(config: Config, directory: Path, record: Mapping[str, Any]) -> Reader:
    """The reader that was stored with an adapted model.

    Args:
        config: of the saved model.
        directory: of the saved model.
        record: its ``model.json``.
    """
    labels = record["labels"]
    model = TextModel.open(config, directory, weights=False)
    if config.record.tokens:  # it scores the names of the classes
        # A model that names no candidates is older: it was adapted to labels with the names of their data sets.
        names = record.get(CANDIDATES, [label_text(str(label)) for label in labels])
        if len(names) != len(labels):
            raise ValueError(f"{len(names)} candidates, but {len(labels)} labels")
        return NameReader(model, names)
    return HeadReader(model, len(labels))
