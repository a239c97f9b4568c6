"""The configuration of a run: frozen dataclasses, validated when built.

A YAML file gives any subset of the fields (`config_file`); the command line
overrides any of them as ``--section.field value``.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from fewshot_jax.errors import UserError, require

Application = Literal["text_classification", "image_classification", "regression"]
Learner = Literal[
    "maml",
    "fomaml",
    "anil",
    "boil",
    "reptile",
    "meta_sgd",
    "maml_plus_plus",
    "imaml",
    "cavia",
    "proto_maml",
    "protonet",
    "matching_network",
    "r2d2",
    "multi_task",
]
WITHOUT_A_LOOP = ("protonet", "matching_network", "r2d2")
SECOND_ORDER = ("maml", "anil", "boil", "meta_sgd", "maml_plus_plus", "cavia", "proto_maml")  # a rule to choose
OF_CLASSES = (*WITHOUT_A_LOOP, "proto_maml")  # compare embeddings of classes


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
        require(self.vocab_size >= 8, f"tokenizer.vocab_size={self.vocab_size}: expected at least 8")
        require(
            bool(self.buckets) and max(self.buckets) == self.max_length and min(self.buckets) >= 1,
            f"tokenizer.buckets={self.buckets}: expected positive lengths, the largest being "
            f"tokenizer.max_length={self.max_length}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: a transformer encoder of texts, convolutions of images, a perceptron of numbers.

    Attributes:
        width: features of a token, filters of a convolution, or units of a hidden layer.
        layers: transformer blocks, convolutions, or hidden layers.
        heads: attention heads; divides width.
        mlp_width: hidden width of the feed-forward layers.
        norm: "pre" or "post" LayerNorm.
        dropout: rate, in training and for metric learners only.
        feature_scale: length of a text's feature vector before training.
        ngram_width: columns of hashed n-grams, weighted beside the encoder's features; 0 for none.
        context_width: context parameters of a task (cavia).
        lora_rank: rank of a change beside the attention's queries and values, for ``inner.params: lora_|head``;
            0 for none.
        downsample: of images: convolutions of stride 2, or max-pooling after each.
        conv_norm: of convolutions: by the "batch" at hand (the items of a query set then see each other), or by
            "layer" or "group", each image for itself.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_width: int = 128
    norm: Literal["pre", "post"] = "pre"
    dropout: float = 0.0
    feature_scale: float = 4.0
    ngram_width: int = 0
    context_width: int = 0
    lora_rank: int = 0
    downsample: Literal["stride", "max_pool"] = "stride"
    conv_norm: Literal["batch", "layer", "group"] = "batch"

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "mlp_width"):
            require(getattr(self, name) >= 1, f"model.{name}={getattr(self, name)}: expected at least 1")
        for name in ("ngram_width", "context_width", "lora_rank"):
            require(getattr(self, name) >= 0, f"model.{name}={getattr(self, name)}: expected zero or more")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: expected 0 <= rate < 1")
        require(self.feature_scale > 0, f"model.feature_scale={self.feature_scale}: expected a positive number")


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The meta-learning algorithm.

    Attributes:
        name: of the algorithm; with an inner loop, from "maml" to "proto_maml", or without one. "multi_task"
            learns nothing about adapting: joint training on all classes, the baseline of every other.
        gradient: how the inner gradient is differentiated: "auto", "mixed", "reverse" or "first_order"; to be
            chosen for maml, anil, boil, meta_sgd, maml_plus_plus, cavia and proto_maml.
        keep: what an inner step keeps for its backward pass: "all", "gradients", "carry", "sqrt";
            None for what suits the gradient.
        keep_blocks: what a transformer block keeps: "all", "matmul" or "boundary"; None likewise.
        share_first_step: compile the first inner step apart, with parameters shared by the tasks.
        plan: choose gradient, keep, keep_blocks and task_chunk by trial before training starts,
            whatever they are set to: all the choices give the same numbers.
        memory_budget: of the plan on each device, in MiB; None for four fifths of what is free.
        task_chunk: tasks vmapped at once on each device; None for all of a meta-batch.
        distance: "euclidean" or "cosine" (protonet).
        temperature: similarities are divided by it (protonet, matching_network).
        proximal: strength of the pull to the initialisation (imaml).
        cg_steps: steps of conjugate gradients (imaml).
        multi_step_share: first share of training, in which the losses after every inner step count (maml_plus_plus).
        first_order_share: first share of training that is first order (maml_plus_plus).
    """

    name: Learner = "maml"
    gradient: Literal["auto", "mixed", "reverse", "first_order"] = "auto"
    keep: Literal["all", "gradients", "carry", "sqrt"] | None = None
    keep_blocks: Literal["all", "matmul", "boundary"] | None = None
    share_first_step: bool = False
    plan: bool = False
    memory_budget: float | None = None
    task_chunk: int | None = None
    distance: Literal["euclidean", "cosine"] = "euclidean"
    temperature: float = 1.0
    proximal: float = 1.0
    cg_steps: int = 5
    multi_step_share: float = 0.1
    first_order_share: float = 0.3

    def __post_init__(self) -> None:
        require(
            self.task_chunk is None or self.task_chunk >= 1,
            f"learner.task_chunk={self.task_chunk}: expected at least 1",
        )
        require(
            not self.plan or self.gradient != "first_order",
            "learner.plan chooses among exact gradients: leave it out with learner.gradient=first_order",
        )
        require(
            self.memory_budget is None or (self.memory_budget > 0 and self.plan),
            f"learner.memory_budget={self.memory_budget}: expected a positive number of MiB, and learner.plan",
        )
        require(
            self.gradient == "auto" or self.name in SECOND_ORDER,
            f"learner.gradient={self.gradient}: {self.name} has no choice of it; leave it out",
        )
        for name in ("temperature", "proximal"):
            require(getattr(self, name) > 0, f"learner.{name}={getattr(self, name)}: expected a positive number")
        require(self.cg_steps >= 1, f"learner.cg_steps={self.cg_steps}: expected at least 1")
        for name in ("multi_step_share", "first_order_share"):
            require(0 <= getattr(self, name) <= 1, f"learner.{name}={getattr(self, name)}: expected a share, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """The inner loop of gradient-based learners.

    Attributes:
        optimizer: "sgd", "momentum" or "adam".
        rate: its learning rate.
        steps: steps in training.
        test_steps: steps in evaluation and adaptation; None for `steps`.
        params: regular expression on the paths of the leaves that adapt, such as "head", "lora_|head" or
            "norm|bias|head"; None for all. (anil and boil choose themselves.)
        batch_size: support texts drawn at each step; None for all.
    """

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    rate: float = 0.1
    steps: int = 3
    test_steps: int | None = None
    params: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.rate < math.inf, f"inner.rate={self.rate}: expected a positive number")
        require(self.steps >= 0, f"inner.steps={self.steps}: expected zero or more")
        try:
            re.compile(self.params or "")
        except re.error as error:
            raise UserError(f"inner.params={self.params!r}: not a regular expression ({error})") from None
        require(
            self.test_steps is None or self.test_steps >= 0,
            f"inner.test_steps={self.test_steps}: expected zero or more",
        )
        require(
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
            require(getattr(self, name) >= 1, f"outer.{name}={getattr(self, name)}: expected at least 1")
        for name in ("rate", "clip"):
            require(
                0 < getattr(self, name) < math.inf, f"outer.{name}={getattr(self, name)}: expected a positive number"
            )
        require(0 <= self.warmup <= 1, f"outer.warmup={self.warmup}: expected a share of the steps, 0 to 1")
        require(self.weight_decay >= 0, f"outer.weight_decay={self.weight_decay}: expected zero or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation while training, and the final evaluation.

    Attributes:
        every: outer steps between validations and checkpoints.
        validation_episodes: episodes of a validation for each number of shots; their mean chooses the checkpoint.
        episodes: test episodes of an evaluation.
        ways: classes of a test episode.
        shots: an evaluation for each number of shots (for regression: points).
        queries: query texts per class.
        inner_steps: numbers of inner steps to evaluate after beside `inner.test_steps`, each a row of the table.
        tasks: episodes evaluated at once.
        at_end: evaluate on the test classes when training ends.
    """

    every: int = 100
    validation_episodes: int = 100
    episodes: int = 600
    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 10
    inner_steps: tuple[int, ...] = ()
    tasks: int = 20
    at_end: bool = True

    def __post_init__(self) -> None:
        for name in ("every", "validation_episodes", "ways", "queries", "tasks"):
            require(getattr(self, name) >= 1, f"evaluation.{name}={getattr(self, name)}: expected at least 1")
        require(self.episodes >= 2, f"evaluation.episodes={self.episodes}: expected at least 2, for an interval")
        require(bool(self.shots) and min(self.shots) >= 1, f"evaluation.shots={self.shots}: expected positive numbers")
        require(
            min(self.inner_steps, default=0) >= 0,
            f"evaluation.inner_steps={self.inner_steps}: expected numbers of steps, zero or more",
        )


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """What stands beside the learner in the table and costs training; the other floors are always there.

    Fine-tuning is Adam on all parameters. Its rate and number of steps are those that do best on validation
    episodes, for each number of shots.

    Attributes:
        fine_tuning: fine-tune the untrained model on the support set of each test episode.
        multi_task: train the same model jointly on all training classes, on the items of as many episodes
            as the learner saw, into RUN/multi_task; then fine-tune it in the same way.
        rates: rates to choose from.
        steps: most steps.
        episodes: validation episodes for each choice.
    """

    fine_tuning: bool = True
    multi_task: bool = True
    rates: tuple[float, ...] = (0.001, 0.003, 0.01)
    steps: int = 20
    episodes: int = 60

    def __post_init__(self) -> None:
        require(bool(self.rates) and min(self.rates) > 0, f"baselines.rates={self.rates}: expected positive numbers")
        for name in ("steps", "episodes"):
            require(getattr(self, name) >= 1, f"baselines.{name}={getattr(self, name)}: expected at least 1")


_TEXT_MODEL = ("heads", "mlp_width", "norm", "dropout", "feature_scale", "ngram_width", "lora_rank")
_IMAGE_MODEL = ("downsample", "conv_norm")
_SHAPE_OF_SPLIT = ("class_split", "class_split_name", "split_by", "fractions", "split_seed")
# The fields that say something about other applications than this one; to set them here is a mistake.
FOREIGN: dict[Application, dict[str, tuple[str, ...]]] = {
    "text_classification": {"data": ("image_field", "image_size", "invert", "rotations"), "model": _IMAGE_MODEL},
    "image_classification": {
        "data": ("text_field", "group_field", "split_by", "groups", "texts_per_class"),
        "episodes": ("within_group", "token_dropout", "token_remap", "ngram_dropout"),
        "tokenizer": ("kind", "vocab_size", "max_length", "buckets"),
        "model": (*_TEXT_MODEL, "context_width"),
    },
    "regression": {
        "data": (
            *("source", "path", "files", "name", "tfds_split", "text_field", "label_field", "group_field"),
            *("image_field", "image_size", "invert", "rotations", "groups", "texts_per_class", *_SHAPE_OF_SPLIT),
        ),
        "episodes": ("ways", "min_ways", "min_shots", "within_group", "token_dropout", "token_remap", "ngram_dropout"),
        "tokenizer": ("kind", "vocab_size", "max_length", "buckets"),
        "model": (*_TEXT_MODEL, *_IMAGE_MODEL),
        "evaluation": ("ways",),
    },
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: application, data, episodes, model, learner, inner and outer loop, evaluation, baselines."""

    application: Application = "text_classification"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    episodes: EpisodeConfig = field(default_factory=EpisodeConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed={self.seed}: expected zero or more")
        for section, names in FOREIGN[self.application].items():
            given, default = getattr(self, section), type(getattr(self, section))()
            for name in names:
                value = getattr(given, name)
                require(
                    value == getattr(default, name),
                    f"{section}.{name}={value}: {self.application} has no use for it; leave it out",
                )
        require(
            self.application != "text_classification" or self.model.width % self.model.heads == 0,
            f"model.width={self.model.width}: expected a multiple of model.heads={self.model.heads}",
        )
        require(
            self.model.ngram_width > 0 or self.episodes.ngram_dropout == 0,
            f"episodes.ngram_dropout={self.episodes.ngram_dropout}: the model has no n-grams; set model.ngram_width",
        )
        name = self.learner.name
        require(
            self.application != "image_classification" or name != "cavia",
            "learner.name=cavia: the convolutions of images take no context; take maml or one of its relatives",
        )
        require(
            (self.model.context_width > 0) == (name == "cavia"),
            f"model.context_width={self.model.context_width}: cavia needs a positive number, other learners zero",
        )
        require(
            self.application != "regression" or name not in OF_CLASSES,
            f"learner.name={name}: compares classes, of which regression has none; take maml or one of its relatives",
        )
        require(
            not self.evaluation.inner_steps or name not in WITHOUT_A_LOOP,
            f"evaluation.inner_steps={self.evaluation.inner_steps}: {name} has no inner loop; leave it out",
        )
        require(
            self.inner.params is None or name not in ("anil", "boil"),
            f"inner.params: {name} chooses itself what adapts; leave it out, or take maml",
        )
        require(
            self.inner.optimizer == "sgd" or name != "meta_sgd",
            f"inner.optimizer={self.inner.optimizer}: the inner step of meta_sgd is SGD's; take maml_plus_plus",
        )
