"""Few-shot text classification: labelled texts, a tokenizer trained on them, a transformer encoder."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.applications.application import READING, Functions, Stream
from fewshot_jax.applications.classification import (
    ClassApplication,
    class_members,
    data_files,
)
from fewshot_jax.applications.text_codec import TOKENIZER, notes_on_cut
from fewshot_jax.applications.text_model import TextModel, fingerprint_of_model
from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.labels import tidy_records
from fewshot_jax.data.loader import EncodedTexts, augment, by_frequency, text_episodes
from fewshot_jax.data.records import Record
from fewshot_jax.data.sets import label_text, read_sets
from fewshot_jax.data.splits import TextSplit, split_records
from fewshot_jax.data.tokenization import SPECIAL_TOKENS
from fewshot_jax.errors import UserError
from fewshot_jax.types import Episode

if TYPE_CHECKING:
    pass


def read_data(config: DataConfig, seed: int, notes: list[str] | None = None) -> list[Record]:
    """Read the labelled texts that a config names.

    Args:
        config: of the data.
        seed: of generated data.
        notes: gets what to tell of the names of labels; None to leave it out.

    Raises:
        UserError: the data cannot be read, or two of its labels are the same number.
    """
    records, told = tidy_records(_read(config, seed, notes), config.path or config.name or config.source)
    if notes is not None:
        notes += told
    return records


def _read(config: DataConfig, seed: int, notes: list[str] | None) -> list[Record]:
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

    if config.source == "smlmt":
        from fewshot_jax.data.smlmt import smlmt_records

        texts = [text for path in data_files(config) for text in raw_texts(path, config.text_field)]
        words, length = config.smlmt_words, config.smlmt_length
        return smlmt_records(texts, max_words=words, max_length=length, shared=False, seed=seed)
    if config.sets:
        if config.path is None:
            raise UserError("data.path: data.sets are files or folders under a path; give --data.path PATH")
        return read_sets(
            config.path,
            config.sets,
            files=config.files,
            text=config.text_field,
            label=config.label_field,
            group=config.group_field,
            notes=notes,
        )
    return [
        record
        for path in data_files(config)
        for record in read_records(path, text=config.text_field, label=config.label_field, group=config.group_field)
    ]


def raw_texts(path: Path, field: str) -> list[str]:
    """The documents of a file, or of all files of a folder."""
    from fewshot_jax.config.pretraining import CorpusConfig
    from fewshot_jax.data.pretraining.documents import read_documents

    return read_documents(CorpusConfig(path=str(path), text_field=field))


def split_data(records: list[Record], config: DataConfig, notes: list[str] | None = None) -> dict[str, TextSplit]:
    """Divide records into class-disjoint train, validation and test splits, without duplicates; see `split_records`."""
    by = config.split_by
    names = sorted({getattr(record, by) for record in records})
    if names == [""]:  # files without a group_field
        raise UserError("data.split_by: the texts have no groups to split by; set data.group_field, or split by label")
    splits = split_records(records, class_members(names, config), by=by, notes=notes)
    if not splits["train"].texts:
        found = f"{len(names)} {by}{'' if len(names) == 1 else 's'}"
        raise UserError(
            f"train split: has no texts: the data has {found} to divide among three splits; add some, or see "
            "data.fractions and data.class_split"
        )
    return splits


@dataclass(frozen=True)
class TextClassification(ClassApplication):
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


def fingerprint_of_texts(splits: Mapping[str, TextSplit]) -> dict[str, str]:
    """A hash of the texts, labels and classes of each split, and how they are read."""
    return READING | {
        name: hashlib.sha256(strict_json.dumps([split.texts, split.label.tolist(), split.classes]).encode()).hexdigest()
        for name, split in splits.items()
    }


def with_label_names(config: Config, split: TextSplit) -> list[str]:
    """The ``n`` texts of a split and, where a config asks for label names, those of its classes as texts."""
    names = split.classes if config.episodes.label_names else []
    return [*split.texts, *(label_text(str(name), config.data.sets) for name in names)]
