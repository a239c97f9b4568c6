"""The configuration of a run: frozen dataclasses, validated when built.

A YAML file gives any subset of the fields (`config_file`); the command line
overrides any of them as ``--section.field value``.
"""

from dataclasses import dataclass, field

from fewshot_jax.config.applications import (
    APPLICATION_NAMES,
    APPLICATION_RECORDS,
    APPLIES,
    WRITES,
    ApplicationName,
    ApplicationRecord,
    check_fields,
    kind_of,
)
from fewshot_jax.config.data import DataConfig, EpisodeConfig, TokenizerConfig
from fewshot_jax.config.evaluation import BaselineConfig, EvaluationConfig
from fewshot_jax.config.learner import InnerConfig, LearnerConfig, LearnerName
from fewshot_jax.config.learner_rules import check_learner
from fewshot_jax.config.learners import SECOND_ORDER, WITHOUT_A_LOOP
from fewshot_jax.config.model import ModelConfig, OuterConfig
from fewshot_jax.config.names import nearest
from fewshot_jax.config.rules import check_data, check_model
from fewshot_jax.config.running import ParallelConfig, RecoveryConfig
from fewshot_jax.errors import require

__all__ = [
    "APPLICATION_NAMES",
    "APPLICATION_RECORDS",
    "APPLIES",
    "SECOND_ORDER",
    "WITHOUT_A_LOOP",
    "WRITES",
    "ApplicationName",
    "BaselineConfig",
    "Config",
    "DataConfig",
    "EpisodeConfig",
    "EvaluationConfig",
    "InnerConfig",
    "LearnerConfig",
    "LearnerName",
    "ModelConfig",
    "OuterConfig",
    "ParallelConfig",
    "RecoveryConfig",
    "TokenizerConfig",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: application, data, episodes, model, learner, inner and outer loop, evaluation, baselines, devices."""

    application: ApplicationName = "text_classification"
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
        require(
            self.application in APPLICATION_NAMES,
            f"application: {self.application!r} is unknown; {nearest(self.application, APPLICATION_NAMES)}",
        )
        require(self.seed >= 0, f"seed={self.seed}: expected zero or more")
        check_fields(self)
        check_data(self)
        check_model(self)
        for check in self.record.checks:
            check(self)
        check_learner(self)

    @property
    def kind(self) -> str:
        """The application, or the kind of it that the config makes of it: a name of `config.applications`."""
        return kind_of(self.application, self)

    @property
    def record(self) -> ApplicationRecord:
        """What is known of the application without building it."""
        return APPLICATION_RECORDS[self.kind]
