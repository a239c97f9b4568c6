"""Few-shot text classification without a head: a decoder reads a text and scores the names of the classes.

The score of a class is its name's log-likelihood after the text, per token of the name; in the channel form the
text's log-likelihood after the name. With the support set in the context (metaicl) these are in-context learning.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.applications.application import Functions, Stream
from fewshot_jax.applications.labelled_texts import LabelledTexts, fingerprint_of_texts, read_data, split_data
from fewshot_jax.applications.scored_labels import CHOICES
from fewshot_jax.applications.text_codec import TOKENIZER, notes_on_cut
from fewshot_jax.applications.text_model import TextModel, fingerprint_of_model
from fewshot_jax.applications.text_to_text import WRITTEN
from fewshot_jax.config import Config
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.examples import Example
from fewshot_jax.data.loader import bucket
from fewshot_jax.data.sequences import Codec, Ids, sequence_batch
from fewshot_jax.data.sets import label_text
from fewshot_jax.data.splits import TextSplit
from fewshot_jax.types import Episode


@dataclass(frozen=True)
class LabelScoring(LabelledTexts):
    """The application of one run; see `application.Application`. Its splits are of texts, `TextSplit`.

    Attributes:
        model: the language model and its tokenizer.
        sources: the token ids of each split's texts, as they are read.
        names: those of its classes' names, as they are written.
    """

    model: TextModel
    sources: dict[str, list[Ids]]
    names: dict[str, list[Ids]]

    @classmethod
    def build(cls, config: Config, saved: Path | None = None) -> Self:
        """Read, split and encode the data of a config, and its model.

        Raises:
            UserError: the data or the model cannot be used, or cannot fill the episodes.
        """
        notes: list[str] = []
        splits = split_data(read_data(config.data, config.seed, notes), config.data, notes)

        def texts() -> list[str]:
            train: TextSplit = splits["train"]
            return [*train.texts, *candidates(train.classes, config)]

        model = TextModel.open(config, saved, texts=texts)
        sources = {name: model.codec.sources(split.texts) for name, split in splits.items()}
        names = {
            name: [ids for _, ids in model.codec.encode([Example(" ", c) for c in candidates(split.classes, config)])]
            for name, split in splits.items()
        }
        if saved is None:
            notes += notes_on_cut(model.codec)
        application = cls(config, splits, model, sources, names, notes=tuple(notes))
        application.check_episodes()
        return application

    def functions(self, *, training: bool) -> Functions:
        return self.model.with_config(self.config).functions(training=training)

    def batches(self, split: str, sampler: EpisodeSampler) -> Stream:
        sources, names, label = self.sources[split], self.names[split], self.splits[split].label
        codec = self.model.codec
        target_length = bucket(max(map(len, names)), codec.target_buckets)

        def episodes(step: int, tasks: int) -> Episode:
            drawn = sampler.batch(step, tasks)
            length = bucket(max(len(sources[i]) for items in drawn for i in items.position.flat), codec.buckets)
            classes = _classes(
                drawn.support.label, label[drawn.support.position], drawn.support.mask, sampler.size.ways
            )
            shown = sequence_batch(
                [[([], names[c]) if c >= 0 else ([], []) for c in row] for row in classes],
                sampler.size.ways,
                1,
                target_length,
                codec.pad,
            )
            sides = []
            for items in drawn:
                rows = [[(sources[i], names[label[i]]) for i in row] for row in items.position]
                batch = sequence_batch(rows, items.position.shape[1], length, target_length, codec.pad)
                choices = {
                    choice: np.repeat(shown[name][:, None], items.position.shape[1], axis=1)
                    for choice, name in zip(CHOICES, WRITTEN, strict=True)
                }
                sides.append({**batch, **choices, "label": items.label, "mask": items.mask})
            return Episode(*sides)

        return episodes

    def record(self) -> dict[str, Any]:
        return {TOKENIZER: self.model.codec.tokenizer.to_str()}

    def save(self, directory: Path) -> None:
        self.model.save(directory)

    def fingerprint(self) -> dict[str, str]:
        return {
            **fingerprint_of_texts(self.splits),
            **_fingerprint_of_candidates(self.splits, self.config),
            **fingerprint_of_model(self.config),
        }


def _fingerprint_of_candidates(splits: Mapping[str, TextSplit], config: Config) -> dict[str, str]:
    """A hash of what is scored, where that is not the labels alone: earlier runs scored the names of data sets too."""
    if not config.data.sets:
        return {}
    scored = {name: candidates(split.classes, config) for name, split in splits.items()}
    return {"candidates": hashlib.sha256(strict_json.dumps(scored).encode()).hexdigest()}


def candidates(labels: Sequence[str], config: Config) -> list[str]:
    """What is scored for each class: its name as a text, without the name of its data set."""
    return [label_text(str(label), config.data.sets) for label in labels]


def one_task(
    codec: Codec, sources: Sequence[Ids], names: Sequence[Ids], label: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The ``B`` texts of one task, each beside the names of all its ``N`` classes.

    Args:
        codec: of the model.
        sources: ids of the texts, as they are read; at least one.
        names: of the names of the classes, as they are written.
        label: ``[B]``, the class of each text; None where that is asked.
    """
    given = np.zeros(len(sources), np.int32) if label is None else label
    length = bucket(max(map(len, sources)), codec.buckets)
    target_length = bucket(max(map(len, names)), codec.target_buckets)
    pairs = [(source, names[i]) for source, i in zip(sources, given, strict=True)]
    batch = sequence_batch([pairs], len(pairs), length, target_length, codec.pad)
    shown = sequence_batch([[([], name) for name in names]], len(names), 1, target_length, codec.pad)
    choices = {
        choice: np.repeat(shown[name], len(pairs), axis=0) for choice, name in zip(CHOICES, WRITTEN, strict=True)
    }
    return {**{name: leaf[0] for name, leaf in batch.items()}, **choices, "label": given}


def _classes(label: np.ndarray, of_item: np.ndarray, mask: np.ndarray, ways: int) -> np.ndarray:
    """The class of each label of an episode, ``[T, N]``; -1 where there is none."""
    classes = np.full((label.shape[0], ways), -1)
    for task in range(label.shape[0]):
        classes[task, label[task][mask[task]]] = of_item[task][mask[task]]
    return classes
