"""What the applications of labelled texts share: how their data is read and divided, and what it says of itself."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fewshot_jax import strict_json
from fewshot_jax.applications.application import READING
from fewshot_jax.applications.classification import ClassApplication
from fewshot_jax.applications.optional import PARTS, By, Shown, SplitTexts
from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.files import Problems, read_records
from fewshot_jax.data.labels import tidy_records
from fewshot_jax.data.records import Record
from fewshot_jax.data.sets import label_text
from fewshot_jax.data.sources import Request, read_source
from fewshot_jax.data.splits import TextSplit, class_members, split_records
from fewshot_jax.data.tfidf import tfidf
from fewshot_jax.data.validate import FileFormat, Item
from fewshot_jax.errors import UserError, require

TFIDF = "TF-IDF centroid"


def _items(path: Path, text: str, label: str, problems: Problems | None) -> list[Item]:
    return [Item({"text": r.text}, r.label) for r in read_records(path, text=text, label=label, problems=problems)]


class LabelledTexts(ClassApplication):
    """An application whose splits are of labelled texts, `TextSplit`."""

    file_format: ClassVar[FileFormat | None] = FileFormat(_items, labelled=True)

    def texts(self, split: str) -> list[str]:
        """The texts that the positions of `sampler` refer to."""
        return self.splits[split].texts

    @classmethod
    def read_splits(cls, config: Config) -> dict[str, Any]:
        return split_data(_records(_undivided(config.data), config.seed), config.data)

    @classmethod
    def division(cls, config: Config, by: By | None, flag: str) -> DataConfig:
        del flag
        data = config.data
        if by == "domain":
            require(
                data.source == "generated" or bool(data.sets) or data.group_field is not None,
                "--by domain: the texts have no domains; name their field with --data.group_field, or list data sets "
                "in --data.sets",
            )
            return dataclasses.replace(data, split_by="group")
        if by == "file":
            require(
                bool(data.sets), "--by file: there is one data set; list files or folders of data.path in --data.sets"
            )
            return dataclasses.replace(data, split_by="group", group_field=None)
        return data if by is None else dataclasses.replace(data, split_by="label")

    @classmethod
    def divided_by(cls, config: Config, classes: tuple[str, ...]) -> tuple[str, ...]:
        known, by = set(classes), config.data.split_by
        records = _records(_undivided(config.data), config.seed)
        return tuple(sorted({getattr(record, by) for record in records if record.label in known}))

    def split_texts(self) -> SplitTexts | None:
        sets = self.config.data.sets
        return SplitTexts(
            {name: split.texts for name, split in self.splits.items()},
            {name: [label_text(label, sets) for label in split.classes] for name, split in self.splits.items()},
        )

    def centroid_vectors(self, split: str) -> tuple[str, Any] | None:
        return TFIDF, tfidf(self.texts("train"), self.texts(split))

    def first_episode(self) -> list[Shown]:
        data, texts = self.splits["train"], self.texts("train")
        names = [*(data.classes[label] for label in data.label), *data.classes]  # those of classes stand behind texts
        return [
            Shown(part, texts[position], names[position])
            for part, items in zip(PARTS, self.training_sampler().task(0, 0), strict=True)
            for position, real in zip(items.position.tolist(), items.mask.tolist(), strict=True)
            if real
        ]


def read_data(config: DataConfig, seed: int, notes: list[str] | None = None) -> list[Record]:
    """Read the labelled texts that a config names.

    Args:
        config: of the data.
        seed: of generated data.
        notes: gets what to tell of the names of labels; None to leave it out.

    Raises:
        UserError: the data cannot be read, or two of its labels are the same number.
    """
    read = read_source(Request(config, seed, notes), Record)
    records, told = tidy_records(read, config.path or config.name or config.source)
    if notes is not None:
        notes += told
    return records


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


def fingerprint_of_texts(splits: Mapping[str, TextSplit]) -> dict[str, str]:
    """A hash of the texts, labels and classes of each split, and how they are read."""
    return READING | {
        name: hashlib.sha256(strict_json.dumps([split.texts, split.label.tolist(), split.classes]).encode()).hexdigest()
        for name, split in splits.items()
    }


def _undivided(data: DataConfig) -> DataConfig:
    """The data without its division, of which all folds and seeds have the same."""
    return dataclasses.replace(data, folds=None, fold=0, split_seed=0)


@functools.lru_cache(maxsize=1)
def _records(data: DataConfig, seed: int) -> list[Record]:
    return read_data(data, seed)
