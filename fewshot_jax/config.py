"""The configuration of a run: frozen dataclasses, validated when built.

A YAML file gives any subset of the fields; the command line overrides any of
them as ``--section.field value``. Unknown fields are refused with the nearest
name.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from fewshot_jax.errors import UserError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the labelled texts come from and how classes are split.

    Attributes:
        source: "generated" (ships with the package), "files" or "tfds".
        path: "files": a file, or a folder that holds `files`; "tfds": its data_dir.
        files: "files": names under `path` to read together; empty for `path` itself.
        name: "tfds": the data set's name.
        tfds_split: "tfds": which of its splits to read.
        text_field: column or field of the text.
        label_field: column or field of the label.
        group_field: column or field of the group (a domain, say); None for no groups.
        class_split: a JSON file under `path` with the classes of each split; None to divide by `fractions`.
        class_split_name: which entry of that file.
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
    split_by: Literal["label", "group"] = "label"
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    split_seed: int = 0
    groups: int = 200
    texts_per_class: int = 20

    def __post_init__(self) -> None:
        _check(
            min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) < 1e-6,
            f"data.fractions={self.fractions}: expected three shares (train, validation, test) of sum 1",
        )
        _check(self.texts_per_class >= 1, f"data.texts_per_class={self.texts_per_class}: expected at least 1")
        _check(self.groups >= 3, f"data.groups={self.groups}: expected at least 3, one for each split")


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
            _check(getattr(self, name) >= 1, f"episodes.{name}={getattr(self, name)}: expected at least 1")
        for name, most in (("min_ways", self.ways), ("min_shots", self.shots)):
            value = getattr(self, name)
            _check(value is None or 1 <= value <= most, f"episodes.{name}={value}: expected 1 to {most}")
        for name in ("token_dropout", "token_remap", "ngram_dropout"):
            _check(0 <= getattr(self, name) < 1, f"episodes.{name}={getattr(self, name)}: expected 0 <= share < 1")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer, trained on the texts of the training classes.

    Attributes:
        kind: "wordpiece", or "word" for whole words.
        vocab_size: most entries.
        max_length: longest text in tokens; longer ones are cut.
        buckets: lengths that batches are padded to; each costs a compilation.
    """

    kind: Literal["wordpiece", "word"] = "wordpiece"
    vocab_size: int = 4096
    max_length: int = 32
    buckets: tuple[int, ...] = (16, 32)

    def __post_init__(self) -> None:
        _check(self.vocab_size >= 8, f"tokenizer.vocab_size={self.vocab_size}: expected at least 8")
        _check(
            bool(self.buckets) and max(self.buckets) == self.max_length and min(self.buckets) >= 1,
            f"tokenizer.buckets={self.buckets}: expected positive lengths, the largest being "
            f"tokenizer.max_length={self.max_length}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder.

    Attributes:
        width: features of a token.
        layers: transformer blocks.
        heads: attention heads; divides width.
        mlp_width: hidden width of the feed-forward layers.
        norm: "pre" or "post" LayerNorm.
        dropout: rate, in training and for metric learners only.
        feature_scale: length of a text's feature vector before training.
        ngram_width: columns of hashed n-grams, weighted beside the encoder's features; 0 for none.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_width: int = 128
    norm: Literal["pre", "post"] = "pre"
    dropout: float = 0.0
    feature_scale: float = 4.0
    ngram_width: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_width"):
            _check(getattr(self, name) >= 1, f"model.{name}={getattr(self, name)}: expected at least 1")
        _check(
            self.width % self.heads == 0, f"model.width={self.width}: expected a multiple of model.heads={self.heads}"
        )
        _check(self.ngram_width >= 0, f"model.ngram_width={self.ngram_width}: expected zero or more")
        _check(0 <= self.dropout < 1, f"model.dropout={self.dropout}: expected 0 <= rate < 1")
        _check(self.feature_scale > 0, f"model.feature_scale={self.feature_scale}: expected a positive number")


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The meta-learning algorithm.

    Attributes:
        name: "maml" or "protonet".
        gradient: how the inner gradient is differentiated (maml): "auto", "mixed", "reverse" or "first_order".
        keep: what an inner step keeps for its backward pass (maml): "all", "gradients", "carry", "sqrt";
            None for what suits the gradient.
        keep_blocks: what a transformer block keeps: "all", "matmul" or "boundary"; None likewise (maml).
        share_first_step: compile the first inner step apart, with parameters shared by the tasks (maml).
        plan: choose gradient, keep, keep_blocks and task_chunk by trial before training starts.
        memory_budget: of the plan on each device, in MiB; None for four fifths of what is free.
        task_chunk: tasks vmapped at once on each device; None for all of a meta-batch.
        distance: "euclidean" or "cosine" (protonet).
        temperature: logits are similarities divided by it (protonet).
    """

    name: Literal["maml", "protonet"] = "maml"
    gradient: Literal["auto", "mixed", "reverse", "first_order"] = "auto"
    keep: Literal["all", "gradients", "carry", "sqrt"] | None = None
    keep_blocks: Literal["all", "matmul", "boundary"] | None = None
    share_first_step: bool = False
    plan: bool = False
    memory_budget: float | None = None
    task_chunk: int | None = None
    distance: Literal["euclidean", "cosine"] = "euclidean"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check(
            self.task_chunk is None or self.task_chunk >= 1,
            f"learner.task_chunk={self.task_chunk}: expected at least 1",
        )
        _check(
            self.memory_budget is None or (self.memory_budget > 0 and self.plan),
            f"learner.memory_budget={self.memory_budget}: expected a positive number of MiB, and learner.plan",
        )
        _check(self.temperature > 0, f"learner.temperature={self.temperature}: expected a positive number")


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """The inner loop of gradient-based learners.

    Attributes:
        optimizer: "sgd", "momentum" or "adam".
        rate: its learning rate.
        steps: steps in training.
        test_steps: steps in evaluation and adaptation; None for `steps`.
        params: regular expression on the paths of the leaves that adapt; None for all.
        batch_size: support texts drawn at each step; None for all.
    """

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    rate: float = 0.1
    steps: int = 3
    test_steps: int | None = None
    params: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        _check(0 < self.rate < math.inf, f"inner.rate={self.rate}: expected a positive number")
        _check(self.steps >= 0, f"inner.steps={self.steps}: expected zero or more")
        try:
            re.compile(self.params or "")
        except re.error as error:
            raise UserError(f"inner.params={self.params!r}: not a regular expression ({error})") from None
        _check(
            self.test_steps is None or self.test_steps >= 0,
            f"inner.test_steps={self.test_steps}: expected zero or more",
        )
        _check(
            self.batch_size is None or self.batch_size >= 1, f"inner.batch_size={self.batch_size}: expected at least 1"
        )


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """The outer loop: AdamW with linear warm-up, cosine decay and clipping.

    Attributes:
        steps: outer steps.
        tasks: tasks in a meta-batch.
        rate: peak learning rate.
        warmup: share of the steps that warm up.
        weight_decay: of AdamW, decoupled.
        clip: global norm that the meta-gradient is clipped to.
    """

    steps: int = 1000
    tasks: int = 8
    rate: float = 1e-3
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "tasks"):
            _check(getattr(self, name) >= 1, f"outer.{name}={getattr(self, name)}: expected at least 1")
        for name in ("rate", "clip"):
            _check(
                0 < getattr(self, name) < math.inf, f"outer.{name}={getattr(self, name)}: expected a positive number"
            )
        _check(0 <= self.warmup <= 1, f"outer.warmup={self.warmup}: expected a share of the steps, 0 to 1")
        _check(self.weight_decay >= 0, f"outer.weight_decay={self.weight_decay}: expected zero or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation while training, and the final evaluation.

    Attributes:
        every: outer steps between validations and checkpoints.
        validation_episodes: episodes of a validation for each number of shots; their mean chooses the checkpoint.
        episodes: test episodes of an evaluation.
        ways: classes of a test episode.
        shots: an evaluation for each number of shots.
        queries: query texts per class.
        tasks: episodes evaluated at once.
        at_end: evaluate on the test classes when training ends.
    """

    every: int = 100
    validation_episodes: int = 100
    episodes: int = 600
    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 10
    tasks: int = 20
    at_end: bool = True

    def __post_init__(self) -> None:
        for name in ("every", "validation_episodes", "episodes", "ways", "queries", "tasks"):
            _check(getattr(self, name) >= 1, f"evaluation.{name}={getattr(self, name)}: expected at least 1")
        _check(self.episodes >= 2, f"evaluation.episodes={self.episodes}: expected at least 2, for an interval")
        _check(bool(self.shots) and min(self.shots) >= 1, f"evaluation.shots={self.shots}: expected positive numbers")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: data, episodes, model, learner, inner and outer loop, evaluation."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    episodes: EpisodeConfig = field(default_factory=EpisodeConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _check(self.seed >= 0, f"seed={self.seed}: expected zero or more")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` or the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Check a YAML value against a field's type; lists become tuples, ints floats."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return _convert(value, next(option for option in options if option is not type(None)), where)
    if origin is Literal:
        _check(value in options, f"{where}: {value!r} is not one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        _check(isinstance(value, list | tuple), f"{where}: expected a list, got {value!r}")
        items = [options[0]] * len(value) if options[-1] is Ellipsis else list(options)
        _check(len(items) == len(value), f"{where}: expected {len(items)} values, got {len(value)}")
        return tuple(_convert(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, items, strict=True)))
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as a string
            return float(value)
        except ValueError:
            pass
    correct = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _check(correct, f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def from_dict(values: Mapping[str, Any], *, source: str = "config") -> Config:
    """Build a `Config` from nested mappings.

    Args:
        values: sections and fields; those absent keep their defaults.
        source: the file's name, for messages.

    Raises:
        UserError: an unknown field (with the nearest name), a value of a wrong
            type or out of range.
    """

    def build(cls: type, values: Any, prefix: str) -> Any:
        _check(isinstance(values, Mapping), f"{source}: {prefix or 'the file'} should be a mapping, got {values!r}")
        kinds = typing.get_type_hints(cls)
        arguments = {}
        for name, value in values.items():
            where = f"{prefix}{name}"
            _check(name in kinds, f"{source}: unknown field '{where}'; {nearest(str(name), kinds)}")
            if dataclasses.is_dataclass(kinds[name]):
                arguments[name] = build(kinds[name], {} if value is None else value, f"{where}.")
            else:
                arguments[name] = _convert(value, kinds[name], f"{source}: {where}")
        return cls(**arguments)

    try:
        return build(Config, values, "")
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(source) else f"{source}: {message}") from None


def to_dict(config: Config) -> dict[str, Any]:
    """The inverse of `from_dict`, made of plain lists and scalars."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def read_config(path: str | Path) -> Config:
    """Read a YAML file.

    Raises:
        UserError: the file is missing, is no YAML, or has a wrong field; the
            message names the file and the line or the field.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the config ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML ({getattr(error, 'problem', error)})") from None
    return from_dict({} if values is None else values, source=str(path))


def write_config(config: Config, path: Path) -> None:
    """Write every field of a config as YAML."""
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def differences(old: Config, new: Config, *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Fields that differ, as ``"outer.rate: 0.001 -> 0.01"``, but those whose names start as `ignore` says."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in values.items():
            out.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
        return out

    before, after = flat(to_dict(old)), flat(to_dict(new))
    return [
        f"{name}: {before[name]} -> {after[name]}"
        for name in after
        if before[name] != after[name] and not name.startswith(ignore)
    ]
