"""From the name of an application in a config to its class: one table."""

from pathlib import Path
from typing import Any

from fewshot_jax.applications.application import Application, Score
from fewshot_jax.applications.dialogue import Dialogue
from fewshot_jax.applications.image_classification import ImageClassification
from fewshot_jax.applications.label_scoring import LabelScoring
from fewshot_jax.applications.question_answering import QuestionAnswering
from fewshot_jax.applications.regression import Regression
from fewshot_jax.applications.span_question_answering import SpanQuestionAnswering
from fewshot_jax.applications.text_classification import TextClassification
from fewshot_jax.applications.translation import Translation
from fewshot_jax.config import Config

APPLICATIONS: dict[str, Any] = {  # by the names of `config.applications`
    "text_classification": TextClassification,
    "label_scoring": LabelScoring,
    "image_classification": ImageClassification,
    "question_answering": QuestionAnswering,
    "span_question_answering": SpanQuestionAnswering,
    "translation": Translation,
    "dialogue": Dialogue,
    "regression": Regression,
}


def application_of(config: Config) -> Any:
    """Return the class of a config's application, or of the kind that it is of."""
    return APPLICATIONS[config.kind]


def build_application(config: Config, saved: Path | None = None) -> Application:
    """Read the data of a config.

    Args:
        config: of the run.
        saved: its run directory, where it has one.

    Raises:
        UserError: the data cannot be read, or cannot fill the episodes.
    """
    return application_of(config).build(config, saved)


def score_of(config: Config) -> Score:
    """How the outputs of a config's application are judged."""
    return application_of(config).score
