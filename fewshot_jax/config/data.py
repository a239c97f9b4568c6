"""Where the data comes from, and what episodes and tokens are made of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fewshot_jax.config.names import check_name
from fewshot_jax.config.sources import SOURCE_RECORDS, SourceRecord, source_record
from fewshot_jax.errors import require

if TYPE_CHECKING:
    SourceName = str
else:
    SourceName = Literal[tuple(SOURCE_RECORDS)] | str  # the help of the command line lists the names


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the labelled texts or images come from and how classes are split.

    Attributes:
        source: "generated" (ships with the package), "files", "tfds", or "smlmt": raw text, whose classes are the
            words that its sentences have masked, so that no labels are needed (`data.smlmt`). A function of your
            own is named as package.module:function.
        path: "files", "smlmt": a file, or a folder that holds `files`; "tfds": its data_dir.
        files: "files": names under `path` to read together; empty for `path` itself. With `sets`, the names to read
            in those of the sets that are folders; empty for all that can be read.
        sets: "files": several data sets, files or folders under `path`; see `episodes.domain_power`. Each label is
            prefixed with the name of its data set: "banking/refund" for sets banking.csv or banking.
        name: "tfds": the data set's name.
        tfds_split: "tfds": which of its splits to read.
        text_field: column or field of the text.
        label_field: column or field of the label.
        group_field: column or field of the group (a domain, say); None for no groups, or with `sets` for the data
            sets as groups.
        class_split: a JSON file with the classes (or, with `split_by`, the groups) of each split, under `path` or as a
            path of its own; for images also "vinyals", Omniglot's split in three files under `path`; None to divide
            by `fractions`.
        class_split_name: which entry of that file.
        image_field: "tfds": feature of the image.
        image_size: "tfds": images are averaged down to so many pixels a side.
        invert: "tfds": turn black on white into white on black.
        rotations: the turns of a class of images by 90, 180 and 270 degrees are classes too.
        split_by: divide "label"s, or whole "group"s.
        fractions: shares of train, validation and test classes (or groups).
        split_seed: seed of that division.
        folds: divide the classes (or groups, or tasks) into so many parts, one of which is the test split; `fractions`
            then divides the others into training and validation. None for no parts.
        fold: which part, from 0.
        groups: "generated": number of groups of six classes.
        texts_per_class: "generated": texts in each class.
        smlmt_words: "smlmt": most classes: the most frequent words that have 30 sentences, but for the first 50. A
            sentence serves one word.
        smlmt_length: "smlmt": longest sentence, in words; what `tokenizer.max_length` cuts may be the mask.
        source_field: column or field of the text to translate.
        target_field: column or field of its translation.
        task_field: column or field of an example's task (an article, a language pair); where a file has none, its
            name is the task.
        split_files: `files` are three, of the train, validation and test split; otherwise tasks are divided.
        history: turns before a reply that are read; None for all.
        options: of a function of your own, which gets them as they stand here; built-in sources have none.
    """

    source: SourceName = "generated"
    path: str | None = None
    files: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
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
    folds: int | None = None
    fold: int = 0
    groups: int = 200
    texts_per_class: int = 20
    smlmt_words: int = 1000
    smlmt_length: int = 24
    source_field: str = "source"
    target_field: str = "target"
    task_field: str = "task"
    split_files: bool = False
    history: int | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def record(self) -> SourceRecord:
        """What is known of the source without reading it."""
        return source_record(self.source)

    def __post_init__(self) -> None:
        check_name("data.source", self.source, SOURCE_RECORDS)
        require(
            not self.options or self.record.takes_options,
            f"data.options={self.options}: are of a source of your own; leave them out with {self.source}",
        )
        for name in ("path", "files", "split_files"):
            value = getattr(self, name)
            require(
                not value or self.record.has_paths,
                f"data.{name}={value}: {self.source} reads data.options alone; leave it out, or put it there",
            )
        require(
            min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) < 1e-6,
            f"data.fractions={self.fractions}: expected three shares (train, validation, test) of sum 1",
        )
        require(
            not self.sets or self.source == "files",
            f"data.sets={self.sets}: they are read by the source 'files'; set data.source to it, or leave them out",
        )
        require(self.folds is None or self.folds >= 2, f"data.folds={self.folds}: expected at least 2, or null")
        require(
            0 <= self.fold < (self.folds or 1),
            f"data.fold={self.fold}: expected 0 to {(self.folds or 1) - 1}, as data.folds={self.folds}",
        )
        require(
            self.folds is None or self.class_split is None,
            f"data.folds={self.folds}: data.class_split={self.class_split} says which classes are tested; leave one of "
            "the two out",
        )
        require(
            self.folds is None or self.fractions[0] + self.fractions[1] > 0,
            f"data.fractions={self.fractions}: expected a share of training, with data.folds={self.folds}",
        )
        require(
            not self.split_files or len(self.files) == 3,
            f"data.files={self.files}: expected three, of the train, validation and test split, with data.split_files",
        )
        require(self.history is None or self.history >= 1, f"data.history={self.history}: expected at least 1, or null")
        require(self.image_size >= 1, f"data.image_size={self.image_size}: expected at least 1")
        require(self.texts_per_class >= 1, f"data.texts_per_class={self.texts_per_class}: expected at least 1")
        require(self.smlmt_words >= 3, f"data.smlmt_words={self.smlmt_words}: expected at least 3, one for each split")
        require(self.smlmt_length >= 5, f"data.smlmt_length={self.smlmt_length}: expected at least 5 words")
        require(self.groups >= 3, f"data.groups={self.groups}: expected at least 3, one for each split")


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """The training episodes, and how their tokens are augmented (in training only).

    `label_names`, `within_group` and `domain_power` shape the episodes of evaluation too.

    Attributes:
        ways: most classes in an episode.
        shots: most support texts per class, its name not counted.
        queries: query texts per class.
        min_ways: episodes draw their ways from min_ways..ways; None for always the most.
        min_shots: likewise for shots.
        uneven: each class of an episode draws a number of shots of its own, which min_shots must then bound.
        label_names: the name of each class ("book_a_flight" read as "book a flight") is one more support text of it,
            in training, evaluation and adaptation.
        within_group: the classes of an episode come from one group.
        domain_power: with `data.sets`, the classes of an episode come from one data set, which is drawn with a
            probability proportional to the number of its classes in the split to this power (or from one group of
            `data.group_field`): 0 for all data sets alike, 1 for all classes alike.
        token_dropout: share of tokens replaced by the mask token.
        token_remap: share of the vocabulary permuted among itself, anew in each episode.
        ngram_dropout: share of the n-gram columns set to zero, anew in each episode.
    """

    ways: int = 5
    shots: int = 5
    queries: int = 5
    min_ways: int | None = None
    min_shots: int | None = None
    uneven: bool = False
    label_names: bool = False
    within_group: bool = False
    domain_power: float = 0.5
    token_dropout: float = 0.0
    token_remap: float = 0.0
    ngram_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1)):
            require(getattr(self, name) >= least, f"episodes.{name}={getattr(self, name)}: expected at least {least}")
        for name, least, most in (("min_ways", 2, self.ways), ("min_shots", 1, self.shots)):
            value = getattr(self, name)
            require(value is None or least <= value <= most, f"episodes.{name}={value}: expected {least} to {most}")
        require(
            not self.uneven or self.min_shots is not None,
            f"episodes.uneven={self.uneven}: expected the fewest shots of a class beside it; set episodes.min_shots",
        )
        require(0 <= self.domain_power <= 1, f"episodes.domain_power={self.domain_power}: expected 0 to 1")
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
        target_max_length, target_buckets: the same of what is written; the first bounds answers that are pointed to.
        windows: of an encoder that points to answers: a longer context is read in up to so many windows.
        stride: tokens from the beginning of a window to that of the next; 0 for half of the context's room in one.
        too_long: "cut" longer texts and count them, or "refuse" them.
        source_language, target_language: of a pretrained model that translates between several languages, the codes
            by which its tokenizer knows them ("eng_Latn" and "fra_Latn" of NLLB, "en" and "fr" of M2M-100; of a
            Marian model the target alone, "fra"); None where it has none.
    """

    kind: Literal["wordpiece", "word", "bpe"] = "wordpiece"
    vocab_size: int = 4096
    max_length: int = 32
    buckets: tuple[int, ...] = (16, 32)
    target_max_length: int = 16
    target_buckets: tuple[int, ...] = (16,)
    windows: int = 1
    stride: int = 0
    too_long: Literal["cut", "refuse"] = "cut"
    source_language: str | None = None
    target_language: str | None = None

    def __post_init__(self) -> None:
        require(self.vocab_size >= 8, f"tokenizer.vocab_size={self.vocab_size}: expected at least 8")
        require(self.windows >= 1, f"tokenizer.windows={self.windows}: expected at least 1")
        require(self.stride >= 0, f"tokenizer.stride={self.stride}: expected zero or more")
        for longest, buckets in (("max_length", "buckets"), ("target_max_length", "target_buckets")):
            lengths, most = getattr(self, buckets), getattr(self, longest)
            require(
                bool(lengths) and max(lengths) == most and min(lengths) >= 1,
                f"tokenizer.{buckets}={lengths}: expected positive lengths, the largest being "
                f"tokenizer.{longest}={most}",
            )
