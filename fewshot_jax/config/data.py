"""Where the data comes from, and what episodes and tokens are made of it."""

from dataclasses import dataclass
from typing import Literal

from fewshot_jax.errors import require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the labelled texts or images come from and how classes are split.

    Attributes:
        source: "generated" (ships with the package), "files" or "tfds".
        path: "files": a file, or a folder that holds `files`; "tfds": its data_dir.
        files: "files": names under `path` to read together; empty for `path` itself.
        name: "tfds": the data set's name.
        tfds_split: "tfds": which of its splits to read.
        text_field: column or field of the text.
        label_field: column or field of the label.
        group_field: column or field of the group (a domain, say); None for no groups.
        class_split: a JSON file with the classes of each split, under `path` or as a path of its own; for images
            also "vinyals", Omniglot's split in three files under `path`; None to divide by `fractions`.
        class_split_name: which entry of that file.
        image_field: "tfds": feature of the image.
        image_size: "tfds": images are averaged down to so many pixels a side.
        invert: "tfds": turn black on white into white on black.
        rotations: the turns of a class of images by 90, 180 and 270 degrees are classes too.
        split_by: divide "label"s, or whole "group"s.
        fractions: shares of train, validation and test classes (or groups).
        split_seed: seed of that division.
        groups: "generated": number of groups of six classes.
        texts_per_class: "generated": texts in each class.
    """

    source: Literal["generated", "files", "tfds"] = "generated"
    path: str | None = None
    files: tuple[str, ...] = ()
    name: str | None = None
    tfds_split: str = "train"
    text_field: str = "text"
    label_field: str = "label"
    group_field: str | None = None
    class_split: str | None = None
    class_split_name: str | None = None
    image_field: str = "image"
    image_size: int = 28
    invert: bool = False
    rotations: bool = False
    split_by: Literal["label", "group"] = "label"
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    split_seed: int = 0
    groups: int = 200
    texts_per_class: int = 20

    def __post_init__(self) -> None:
        require(
            min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) < 1e-6,
            f"data.fractions={self.fractions}: expected three shares (train, validation, test) of sum 1",
        )
        require(self.image_size >= 1, f"data.image_size={self.image_size}: expected at least 1")
        require(self.texts_per_class >= 1, f"data.texts_per_class={self.texts_per_class}: expected at least 1")
        require(self.groups >= 3, f"data.groups={self.groups}: expected at least 3, one for each split")


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """The training episodes, and how their tokens are augmented (in training only).

    Attributes:
        ways: most classes in an episode.
        shots: most support texts per class.
        queries: query texts per class.
        min_ways: episodes draw their ways from min_ways..ways; None for always the most.
        min_shots: likewise for shots.
        within_group: the classes of an episode come from one group.
        token_dropout: share of tokens replaced by the mask token.
        token_remap: share of the vocabulary permuted among itself, anew in each episode.
        ngram_dropout: share of the n-gram columns set to zero, anew in each episode.
    """

    ways: int = 5
    shots: int = 5
    queries: int = 5
    min_ways: int | None = None
    min_shots: int | None = None
    within_group: bool = False
    token_dropout: float = 0.0
    token_remap: float = 0.0
    ngram_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ways", "shots", "queries"):
            require(getattr(self, name) >= 1, f"episodes.{name}={getattr(self, name)}: expected at least 1")
        for name, most in (("min_ways", self.ways), ("min_shots", self.shots)):
            value = getattr(self, name)
            require(value is None or 1 <= value <= most, f"episodes.{name}={value}: expected 1 to {most}")
        for name in ("token_dropout", "token_remap", "ngram_dropout"):
            require(0 <= getattr(self, name) < 1, f"episodes.{name}={getattr(self, name)}: expected 0 <= share < 1")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer, trained on the texts of the training classes.

    Attributes:
        kind: "wordpiece", "word" for whole words, or "bpe" for pairs of bytes.
        vocab_size: most entries.
        max_length: longest text in tokens; longer ones are cut.
        buckets: lengths that batches are padded to; each costs a compilation.
    """

    kind: Literal["wordpiece", "word", "bpe"] = "wordpiece"
    vocab_size: int = 4096
    max_length: int = 32
    buckets: tuple[int, ...] = (16, 32)

    def __post_init__(self) -> None:
        require(self.vocab_size >= 8, f"tokenizer.vocab_size={self.vocab_size}: expected at least 8")
        require(
            bool(self.buckets) and max(self.buckets) == self.max_length and min(self.buckets) >= 1,
            f"tokenizer.buckets={self.buckets}: expected positive lengths, the largest being "
            f"tokenizer.max_length={self.max_length}",
        )
