"""From a config to the data of a run: texts, tokenizer, episodes.

A pure function of the config (and, on resume, of the tokenizer that the run
trained), so that training, evaluation and adaptation build the same things.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.loader import EncodedTexts, augment, by_frequency, encode_texts, text_episodes
from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import TextSplit, divide, read_class_split, split_records
from fewshot_jax.data.tokenization import SPECIAL_TOKENS, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.types import Episode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Streams of episodes that must not coincide: each split draws with its own seed.
_STREAM = {"train": 0, "validation": 1, "test": 2}


def read_data(config: DataConfig, seed: int) -> list[Record]:
    """Read the labelled texts that a config names."""
    if config.source == "generated":
        from fewshot_jax.data.generated import generated_intents

        return generated_intents(seed=seed, groups=config.groups, texts_per_class=config.texts_per_class)
    if config.source == "tfds":
        from fewshot_jax.data.tfds import read_tfds

        if config.name is None:
            raise UserError("data.name: the source 'tfds' needs the name of a data set")
        return read_tfds(
            config.name,
            split=config.tfds_split,
            text=config.text_field,
            label=config.label_field,
            group=config.group_field,
            data_dir=config.path,
        )
    from fewshot_jax.data.files import read_records

    if config.path is None:
        raise UserError("data.path: the source 'files' needs a file or a folder; give --data.path PATH")
    path = Path(config.path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; see data.path")
    paths = [path / name for name in config.files] or [path]
    return [
        record
        for one in paths
        for record in read_records(one, text=config.text_field, label=config.label_field, group=config.group_field)
    ]


def split_data(records: list[Record], config: DataConfig) -> dict[str, TextSplit]:
    """Divide records into class-disjoint train, validation and test splits."""
    if config.class_split is not None:
        members = read_class_split(Path(config.path or ".") / config.class_split, config.class_split_name)
        return split_records(records, members, by="label")
    names = sorted({getattr(record, config.split_by) for record in records})
    if names == [""]:  # files without a group_field
        raise UserError("data.split_by: the texts have no groups to split by; set data.group_field, or split by label")
    return split_records(records, divide(names, config.fractions, config.split_seed), by=config.split_by)


@dataclass(frozen=True)
class Experiment:
    """The data side of a run.

    Attributes:
        config: resolved.
        splits: train, validation and test texts, class-disjoint.
        tokenizer: trained on the training texts.
        encoded: the token ids of each split.
    """

    config: Config
    splits: dict[str, TextSplit]
    tokenizer: "Tokenizer"
    encoded: dict[str, EncodedTexts]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.get_vocab_size()

    def sampler(self, split: str, *, ways: int, shots: int, queries: int) -> EpisodeSampler:
        """Episodes of fixed size from a split, the same for every learner."""
        return self._sampler(split, "evaluation", ways=ways, shots=shots, queries=queries)

    def training_sampler(self) -> EpisodeSampler:
        """The episodes of meta-training."""
        episodes = self.config.episodes
        sizes = {name: getattr(episodes, name) for name in ("ways", "shots", "queries", "min_ways", "min_shots")}
        return self._sampler("train", "episodes", **sizes)

    def _sampler(self, split: str, section: str, **sizes: int) -> EpisodeSampler:
        data = self.splits[split]
        return EpisodeSampler(
            data.label,
            **sizes,
            seed=3 * self.config.seed + _STREAM[split],
            group=data.group if self.config.episodes.within_group else None,
            class_names=data.classes,
            split=split,
            section=section,
        )

    def batch(self, split: str, sampler: EpisodeSampler, step: int, tasks: int) -> Episode:
        """The meta-batch of a step as arrays; augmented in training only."""
        episodes = self.config.episodes
        change = None
        if split == "train" and (episodes.token_dropout or episodes.token_remap or episodes.ngram_dropout):
            change = self._augment
        return text_episodes(
            self.encoded[split], sampler, step=step, tasks=tasks, buckets=self.config.tokenizer.buckets, change=change
        )

    def fingerprint(self) -> dict[str, str]:
        """A hash of the texts and labels of each split."""
        return {
            name: hashlib.sha256(json.dumps([split.texts, split.label.tolist(), split.classes]).encode()).hexdigest()
            for name, split in self.splits.items()
        }

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


def encode_for(config: Config, tokenizer: "Tokenizer", texts: Sequence[str]) -> EncodedTexts:
    """Encode texts as the model of a config reads them."""
    return encode_texts(tokenizer, texts, max_length=config.tokenizer.max_length, ngram_width=config.model.ngram_width)


def build_experiment(config: Config, tokenizer: "Tokenizer | None" = None) -> Experiment:
    """Read, split and encode the data of a config.

    Args:
        config: of the run.
        tokenizer: the run's own, where it has one; None to train it.

    Raises:
        UserError: the data cannot be read, or cannot fill the episodes.
    """
    splits = split_data(read_data(config.data, config.seed), config.data)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            splits["train"].texts, kind=config.tokenizer.kind, vocab_size=config.tokenizer.vocab_size
        )
    encoded = {name: encode_for(config, tokenizer, split.texts) for name, split in splits.items()}
    experiment = Experiment(config, splits, tokenizer, encoded)
    experiment.training_sampler()
    evaluation = config.evaluation
    for split in ("validation", "test"):
        experiment.sampler(split, ways=evaluation.ways, shots=max(evaluation.shots), queries=evaluation.queries)
    return experiment
