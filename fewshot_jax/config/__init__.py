"""The configuration of a run: frozen dataclasses, validated when built.

A YAML file gives any subset of the fields (`config_file`); the command line
overrides any of them as ``--section.field value``.
"""

from dataclasses import dataclass, field

from fewshot_jax.config.applications import APPLIES, WRITES, Application, Kind
from fewshot_jax.config.data import DataConfig, EpisodeConfig, TokenizerConfig
from fewshot_jax.config.evaluation import BaselineConfig, EvaluationConfig
from fewshot_jax.config.learner import SECOND_ORDER, WITHOUT_A_LOOP, InnerConfig, Learner, LearnerConfig
from fewshot_jax.config.model import ModelConfig, OuterConfig
from fewshot_jax.config.rules import check_data, check_learner, check_model
from fewshot_jax.config.running import ParallelConfig, RecoveryConfig
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
    "ParallelConfig",
    "RecoveryConfig",
    "TokenizerConfig",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: application, data, episodes, model, learner, inner and outer loop, evaluation, baselines, devices."""

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
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed={self.seed}: expected zero or more")
        for section, fields in APPLIES.items():
            given, default = getattr(self, section), type(getattr(self, section))()
            for name, applications in fields.items():
                value = getattr(given, name)
                require(
                    self.kind in applications or value == getattr(default, name),
                    f"{section}.{name}={value}: {self.application} has no use for it; leave it out",
                )
        check_data(self)
        check_model(self)
        check_learner(self)

    @property
    def kind(self) -> Kind:
        """The application, as `APPLIES` names it."""
        scores = self.application == "text_classification" and self.model.classifier == "label_names"
        return "label_scoring" if scores else self.application
