"""The configuration of a run: frozen dataclasses, validated when built.

A YAML file gives any subset of the fields (`config_file`); the command line
overrides any of them as ``--section.field value``.
"""

from dataclasses import dataclass, field
from typing import Literal

from fewshot_jax.config.data import DataConfig, EpisodeConfig, TokenizerConfig
from fewshot_jax.config.evaluation import BaselineConfig, EvaluationConfig
from fewshot_jax.config.learner import METRIC, SECOND_ORDER, WITHOUT_A_LOOP, InnerConfig, Learner, LearnerConfig
from fewshot_jax.config.model import ModelConfig, OuterConfig
from fewshot_jax.errors import require

__all__ = [
    "APPLIES",
    "SECOND_ORDER",
    "WITHOUT_A_LOOP",
    "WRITES",
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

Application = Literal[
    "text_classification", "image_classification", "question_answering", "translation", "dialogue", "regression"
]
WRITES: tuple[Application, ...] = ("question_answering", "translation", "dialogue")  # read a text and write another
OF_CLASSES = (*METRIC, "proto_maml")  # learners that compare embeddings of classes

# An application, or "label_scoring" for text classification by a decoder that scores the names of the classes.
Kind = Application | Literal["label_scoring"]
_HEADS: tuple[Kind, ...] = ("text_classification",)
_LABELS: tuple[Kind, ...] = (*_HEADS, "label_scoring")
_IMAGES: tuple[Kind, ...] = ("image_classification",)
WRITERS: tuple[Kind, ...] = (*WRITES, "label_scoring")  # their model predicts tokens
_CLASSES, _TEXTS, _DATA = (*_LABELS, *_IMAGES), (*_LABELS, *WRITES), (*_LABELS, *_IMAGES, *WRITES)
# Of the fields that say something about some applications only: which those are. To set them elsewhere is a mistake.
APPLIES: dict[str, dict[str, tuple[Kind, ...]]] = {
    "data": {
        **dict.fromkeys(("source", "path", "files"), _DATA),
        **dict.fromkeys(("class_split", "class_split_name", "fractions", "split_seed"), _DATA),
        **dict.fromkeys(("name", "tfds_split", "label_field"), _CLASSES),
        **dict.fromkeys(("text_field", "group_field", "split_by", "sets", "groups", "texts_per_class"), _LABELS),
        **dict.fromkeys(("image_field", "image_size", "invert", "rotations"), _IMAGES),
        **dict.fromkeys(("task_field", "split_files"), WRITES),
        **dict.fromkeys(("source_field", "target_field"), ("translation",)),
        "history": ("dialogue",),
    },
    "episodes": {
        **dict.fromkeys(("ways", "min_ways", "uneven"), _CLASSES),
        "min_shots": _DATA,
        **dict.fromkeys(("within_group", "domain_power"), _LABELS),
        **dict.fromkeys(("label_names", "token_dropout", "token_remap", "ngram_dropout"), _HEADS),
    },
    "tokenizer": {
        **dict.fromkeys(("kind", "vocab_size", "max_length", "buckets"), _TEXTS),
        **dict.fromkeys(("target_max_length", "target_buckets", "too_long"), WRITERS),
        **dict.fromkeys(("windows", "stride"), ("question_answering",)),
    },
    "model": {
        **dict.fromkeys(("heads", "mlp_width", "dropout", "lora_rank"), _TEXTS),
        **dict.fromkeys(("norm", "feature_scale", "ngram_width"), _HEADS),
        "classifier": _LABELS,
        "context_width": (*_HEADS, "regression"),
        "compute_dtype": _DATA,
        **dict.fromkeys(("downsample", "conv_norm"), _IMAGES),
        **dict.fromkeys(("architecture", "pretrained"), WRITERS),
    },
    "learner": {"channel": ("label_scoring",)},
    "evaluation": {**dict.fromkeys(("ways", "uneven"), _CLASSES), **dict.fromkeys(("write", "beams"), WRITES)},
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
        for section, fields in APPLIES.items():
            given, default = getattr(self, section), type(getattr(self, section))()
            for field_name, applications in fields.items():
                value = getattr(given, field_name)
                require(
                    self.kind in applications or value == getattr(default, field_name),
                    f"{section}.{field_name}={value}: {self.application} has no use for it; leave it out",
                )
        require(
            self.application not in _TEXTS or self.model.width % self.model.heads == 0,
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
            bool(self.data.sets) or self.episodes.domain_power == EpisodeConfig().domain_power,
            f"episodes.domain_power={self.episodes.domain_power}: there is one data set; set data.sets, or leave it "
            "out",
        )
        require(
            self.kind in (*_HEADS, *_IMAGES) or name not in OF_CLASSES,
            f"learner.name={name}: compares embeddings of classes, of which {self.kind} has none; "
            "take maml or one of its relatives",
        )
        require(
            self.kind not in WRITERS or name != "cavia",
            "learner.name=cavia: a language model takes no context; take maml or one of its relatives",
        )
        encoder = self.model.architecture == "encoder"
        require(
            not encoder or self.application == "question_answering",
            f"model.architecture=encoder: points to answers in a text, and writes nothing; {self.application} takes "
            "decoder or encoder_decoder",
        )
        for more in ("windows", "stride"):
            value = getattr(self.tokenizer, more)
            require(
                encoder or value == getattr(TokenizerConfig(), more),
                f"tokenizer.{more}={value}: only an encoder points to answers in windows; set "
                "model.architecture=encoder, or leave it out",
            )
        require(
            not encoder or self.evaluation.beams == 1,
            f"evaluation.beams={self.evaluation.beams}: an encoder points to answers without a search; leave it out",
        )
        require(
            name != "metaicl" or (self.kind in WRITERS and self.model.architecture == "decoder"),
            "learner.name=metaicl: reads its examples before it writes; take an application that writes "
            f"({', '.join(WRITES)}), or model.classifier=label_names, with model.architecture=decoder",
        )
        require(
            self.kind not in WRITES or self.data.source == "files" or not (self.data.files or self.data.split_files),
            f"data.files={self.data.files}: tasks are generated; set data.source to files, or leave it out",
        )
        require(
            self.kind not in WRITES
            or encoder
            or self.tokenizer.kind != "wordpiece"
            or self.model.pretrained is not None,
            "tokenizer.kind=wordpiece: forgets case and spaces of what is written; take bpe, or word for generated "
            "tasks",
        )
        require(
            self.kind not in WRITERS or self.model.architecture != "decoder" or self.model.dropout == 0,
            f"model.dropout={self.model.dropout}: a decoder has none; leave it out",
        )
        require(
            self.kind not in WRITERS
            or self.model.pretrained is not None
            or self.model.width % (2 * self.model.heads) == 0,
            f"model.width={self.model.width}: expected a multiple of twice model.heads={self.model.heads}",
        )
        require(
            not self.learner.channel or name == "metaicl",
            f"learner.channel={self.learner.channel}: is a form of metaicl; leave it out with {name}",
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

    @property
    def kind(self) -> Kind:
        """The application, as `APPLIES` names it."""
        scores = self.application == "text_classification" and self.model.classifier == "label_names"
        return "label_scoring" if scores else self.application
