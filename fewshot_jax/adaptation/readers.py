"""How an adapted classifier reads texts: with a head, or by the names of its classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.label_scoring import one_task, scored_labels
from fewshot_jax.applications.language_model import LanguageModel, language_model, save_language_model
from fewshot_jax.applications.text_classification import encode_for, lengths_of, pretrained_encoder, text_functions
from fewshot_jax.applications.writing import writing_functions
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.loader import bucket, text_batch
from fewshot_jax.data.sequences import Ids
from fewshot_jax.data.sets import label_text
from fewshot_jax.data.tokenization import load_tokenizer, save_tokenizer
from fewshot_jax.types import Batch

CANDIDATES = "candidates"  # in model.json: the texts that are scored for the classes, in the order of the labels


class Reader(Protocol):
    """Texts to batches, for the functions that judge them.

    Attributes:
        functions: whose outputs are logits ``[B, N]`` of the classes.
        tokenizer: of the texts.
        batch_size: texts read at once; a constant, so that each length compiles once.
        record: what ``model.json`` says of it.
    """

    functions: Functions
    tokenizer: Any
    batch_size: int
    record: Mapping[str, Any]

    @property
    def max_length(self) -> int:
        """Most tokens of a text."""

    def cut(self, texts: Sequence[str]) -> int:
        """How many of some texts are too long, and read in part."""

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        """Texts as ``items`` rows, ``[items, ...]``; those beyond the last text repeat it."""

    def longest(self) -> Batch:
        """One row of the largest bucket, ``[1, ...]``, of no text: its shapes are what counts."""

    def save(self, directory: Path) -> None:
        """Write what reads them into a directory."""


class HeadReader:
    """For a head on the features of an encoder.

    Args:
        config: of the run.
        tokenizer: of the run.
        ways: number of classes ``N``.
        pretrained: the model that the run started from; None for a new one.
    """

    batch_size = 256
    record: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, config: Config, tokenizer: Any, ways: int, pretrained: LanguageModel | None = None):
        self.config, self.tokenizer, self.pretrained = config, tokenizer, pretrained
        sizes = {"vocab_size": tokenizer.get_vocab_size(), "ways": ways, "joint_classes": 0}
        self.functions = text_functions(config, **sizes, training=False, pretrained=pretrained)

    @property
    def max_length(self) -> int:
        return lengths_of(self.config, self.pretrained)[0]

    def cut(self, texts: Sequence[str]) -> int:
        if self.pretrained is not None:
            return self.pretrained.codec.too_long(texts)
        encodings = self.tokenizer.encode_batch(list(texts))
        return sum(len(encoding.ids) > self.max_length for encoding in encodings)

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        encoded = encode_for(self.config, self.tokenizer, texts, self.pretrained)
        index = np.minimum(np.arange(items), len(texts) - 1)
        _, buckets = lengths_of(self.config, self.pretrained)
        return text_batch(encoded, index, bucket(int(encoded.lengths.max()), buckets))

    def longest(self) -> Batch:
        encoded = encode_for(self.config, self.tokenizer, ["text"], self.pretrained)
        return text_batch(encoded, np.zeros(1, int), max(lengths_of(self.config, self.pretrained)[1]))

    def save(self, directory: Path) -> None:
        if self.pretrained is None:
            save_tokenizer(self.tokenizer, directory)
        else:
            save_language_model(self.pretrained, directory)


class NameReader:
    """For a language model that scores the names of the classes.

    Args:
        config: of the run.
        model: of the run.
        names: of the classes, as texts.
    """

    def __init__(self, config: Config, model: LanguageModel, names: Sequence[str]):
        self.model, self.tokenizer = model, model.codec.tokenizer
        self.record: Mapping[str, Any] = {CANDIDATES: list(names)}
        self.names: list[Ids] = [ids for _, ids in model.codec.encode([Example(" ", name) for name in names])]
        # Each text is read once for every class, after all examples where they are the context.
        self.batch_size = max(1, 256 // len(self.names))
        self.functions = scored_labels(
            writing_functions(config, model, training=False),
            ways=len(self.names),
            per_token=not config.learner.channel,
        )

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

    def save(self, directory: Path) -> None:
        save_language_model(self.model, directory)


def saved_reader(config: Config, directory: Path, record: Mapping[str, Any]) -> Reader:
    """The reader that `Reader.save` wrote.

    Args:
        config: of the saved model.
        directory: of the saved model.
        record: its ``model.json``.
    """
    labels = record["labels"]
    if config.kind == "label_scoring":
        # A model that names no candidates is older: it was adapted to labels with the names of their data sets.
        names = record.get(CANDIDATES, [label_text(str(label)) for label in labels])
        if len(names) != len(labels):
            raise ValueError(f"{len(names)} candidates, but {len(labels)} labels")
        return NameReader(config, language_model(config, texts=list, saved=directory, weights=False), names)
    model = pretrained_encoder(config, directory, weights=False)
    tokenizer = load_tokenizer(directory) if model is None else model.codec.tokenizer
    return HeadReader(config, tokenizer, len(labels), model)
