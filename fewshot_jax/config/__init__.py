"""The configuration of a run: frozen dataclasses, validated when built.

A YAML file gives any subset of the fields (`config_file`); the command line
overrides any of them as ``--section.field value``.
"""

from dataclasses import dataclass, field
from typing import Literal

from fewshot_jax.config.data import DataConfig, EpisodeConfig, TokenizerConfig
from fewshot_jax.config.evaluation import BaselineConfig, EvaluationConfig
from fewshot_jax.config.learner import SECOND_ORDER, WITHOUT_A_LOOP, InnerConfig, Learner, LearnerConfig
from fewshot_jax.config.model import ModelConfig, OuterConfig
from fewshot_jax.errors import require

__all__ = [
    "FOREIGN",
    "SECOND_ORDER",
    "WITHOUT_A_LOOP",
    "Application",
    "BaselineConfig",
    "Config",
    "DataConfig",
    "EpisodeConfig",
    "EvaluationConfig",
    "InnerConfig",
    "Learner",
    "LearnerConfig",
    "ModelConfig",
    "OuterConfig",
    "TokenizerConfig",
]

Application = Literal["text_classification", "image_classification", "regression"]
OF_CLASSES = (*WITHOUT_A_LOOP, "proto_maml")  # compare embeddings of classes

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
        "model": (*_TEXT_MODEL, *_IMAGE_MODEL, "compute_dtype"),
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
        name = self.learner.name
        require(
            self.application != "image_classification" or name != "cavia",
            "learner.name=cavia: the convolutions of images take no context; take maml or one of its relatives",
        )
        for section, names in FOREIGN[self.application].items():
            given, default = getattr(self, section), type(getattr(self, section))()
            for foreign in names:
                value = getattr(given, foreign)
                require(
                    value == getattr(default, foreign),
                    f"{section}.{foreign}={value}: {self.application} has no use for it; leave it out",
                )
        require(
            self.application != "text_classification" or self.model.width % self.model.heads == 0,
            f"model.width={self.model.width}: expected a multiple of model.heads={self.model.heads}",
        )
        require(
            self.model.ngram_width > 0 or self.episodes.ngram_dropout == 0,
            f"episodes.ngram_dropout={self.episodes.ngram_dropout}: the model has no n-grams; set model.ngram_width",
        )
        require(  # multi_task as the baseline of cavia has its model, whose context stays at zero
            (self.model.context_width > 0) == (name == "cavia") or name == "multi_task",
            f"model.context_width={self.model.context_width}: cavia needs a positive number, other learners zero",
        )
        require(
            self.application != "regression" or name not in OF_CLASSES,
            f"learner.name={name}: compares classes, of which regression has none; take maml or one of its relatives",
        )
        for more in ("inner_steps", "tune_rates"):
            value = getattr(self.evaluation, more)
            require(
                not value or name not in WITHOUT_A_LOOP,
                f"evaluation.{more}={value}: {name} has no inner loop; leave it out",
            )
        require(
            self.inner.params is None or name not in ("anil", "boil"),
            f"inner.params: {name} chooses itself what adapts; leave it out, or take maml",
        )
        require(
            self.inner.optimizer == "sgd" or name != "meta_sgd",
            f"inner.optimizer={self.inner.optimizer}: the inner step of meta_sgd is SGD's; take maml_plus_plus",
        )
