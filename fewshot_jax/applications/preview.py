"""A training episode as a reader sees it: its texts and their labels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fewshot_jax.applications.classification import ClassApplication
from fewshot_jax.applications.table import build_application
from fewshot_jax.applications.text_classification import TextClassification
from fewshot_jax.applications.writing import Writing
from fewshot_jax.config import Config
from fewshot_jax.config.applications import TEXTS
from fewshot_jax.data.examples import Example
from fewshot_jax.errors import UserError

PARTS = ("support", "query")


class Shown(NamedTuple):
    """An item of an episode.

    Attributes:
        part: "support" or "query".
        read: the text, as the model gets it.
        wanted: the name of its class, or the text to write.
    """

    part: str
    read: str
    wanted: str


def training_episode(config: Config) -> list[Shown]:
    """The first task of the first meta-batch of a run: its support set, then its query set.

    Texts are shown before the tokens are cut, dropped or remapped.

    Args:
        config: of the run.

    Raises:
        UserError: the application has no texts, or its data cannot be used.
    """
    if config.kind not in TEXTS:
        raise UserError(f"application={config.application}: has no texts to show; preview serves {', '.join(TEXTS)}")
    application: Any = build_application(config)
    sampler = application.training_sampler()
    if isinstance(application, Writing):
        return [
            shown for part, examples in zip(PARTS, sampler.task(0, 0), strict=True) for shown in _pairs(part, examples)
        ]
    return _labelled(application, sampler.task(0, 0))


def _pairs(part: str, examples: Sequence[Example]) -> list[Shown]:
    return [Shown(part, example.source, example.target) for example in examples]


def _labelled(application: ClassApplication, episode: Any) -> list[Shown]:
    data = application.splits["train"]
    texts = application.texts("train") if isinstance(application, TextClassification) else data.texts
    names = [*(data.classes[label] for label in data.label), *data.classes]  # names of classes stand behind the texts
    return [
        Shown(part, texts[position], names[position])
        for part, items in zip(PARTS, episode, strict=True)
        for position, real in zip(items.position.tolist(), items.mask.tolist(), strict=True)
        if real
    ]
