"""Few-shot text classification: labelled texts, a tokenizer trained on them, a transformer encoder."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from fewshot_jax.applications.application import Functions, Stream
from fewshot_jax.applications.labelled_texts import LabelledTexts, fingerprint_of_texts, read_data, split_data
from fewshot_jax.applications.text_codec import TOKENIZER, notes_on_cut
from fewshot_jax.applications.text_model import TextModel, fingerprint_of_model
from fewshot_jax.config import Config
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.loader import EncodedTexts, augment, by_frequency, text_episodes
from fewshot_jax.data.sets import label_text
from fewshot_jax.data.splits import TextSplit
from fewshot_jax.data.tokenization import SPECIAL_TOKENS
from fewshot_jax.types import Episode


@dataclass(frozen=True)
class TextClassification(LabelledTexts):
    """The application of one run; see `application.Application`. Its splits are of texts, `TextSplit`.

    Attributes:
        model: the encoder and its tokenizer.
        encoded: the token ids of each split's `texts`.
    """

    model: TextModel
    encoded: dict[str, EncodedTexts]

    @classmethod
    def build(cls, config: Config, saved: Path | None = None) -> Self:
        """Read, split and encode the data of a config.

        Args:
            config: of the run.
            saved: its run directory, where it has one; None to train the tokenizer.

        Raises:
            UserError: the data cannot be read, or cannot fill the episodes.
        """
        notes: list[str] = []
        splits = split_data(read_data(config.data, config.seed, notes), config.data, notes)
        texts = {name: with_label_names(config, split) for name, split in splits.items()}
        model = TextModel.open(config, saved, texts=lambda: texts["train"])
        encoded = {name: model.encode(these) for name, these in texts.items()}
        if model.home is not None and saved is None:
            notes += notes_on_cut(model.codec)
        application = cls(config, splits, model, encoded, notes=tuple(notes))
        application.check_episodes()
        return application

    def functions(self, *, training: bool) -> Functions:
        model = self.model.with_config(self.config, joint_classes=self.joint_classes)
        return model.functions(training=training)

    def texts(self, split: str) -> list[str]:
        """The texts that the positions of `sampler` refer to; names of classes come last, where they are read."""
        return with_label_names(self.config, self.splits[split])

    def record(self) -> dict[str, Any]:
        return {TOKENIZER: self.model.codec.tokenizer.to_str()}

    def save(self, directory: Path) -> None:
        self.model.save(directory)

    def fingerprint(self) -> dict[str, str]:
        return {**fingerprint_of_texts(self.splits), **fingerprint_of_model(self.config)}

    def batches(self, split: str, sampler: EpisodeSampler) -> Stream:
        episodes = self.config.episodes
        changed = episodes.token_dropout or episodes.token_remap or episodes.ngram_dropout
        draw = functools.partial(
            text_episodes,
            self.encoded[split],
            sampler,
            buckets=self.model.codec.buckets,
            class_id=self.class_id(split),
            change=self._augment if changed and split == "train" else None,
        )
        return lambda step, tasks: draw(step=step, tasks=tasks)

    @functools.cached_property
    def _vocabulary(self) -> np.ndarray:
        return by_frequency(self.encoded["train"], special=len(SPECIAL_TOKENS))

    def _augment(self, episode: Episode, rng: np.random.Generator) -> None:
        augment(
            episode,
            rng=rng,
            vocabulary=self._vocabulary,
            token_dropout=self.config.episodes.token_dropout,
            token_remap=self.config.episodes.token_remap,
            mask_id=SPECIAL_TOKENS.index("[MASK]"),
            ngram_dropout=self.config.episodes.ngram_dropout,
        )


def with_label_names(config: Config, split: TextSplit) -> list[str]:
    """The ``n`` texts of a split and, where a config asks for label names, those of its classes as texts."""
    names = split.classes if config.episodes.label_names else []
    return [*split.texts, *(label_text(str(name), config.data.sets) for name in names)]
