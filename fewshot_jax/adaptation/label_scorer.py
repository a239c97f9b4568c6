"""A saved few-shot classifier without a head, which scores the names of its classes."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax

from fewshot_jax.adaptation.classifier import Classifier
from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.label_scoring import one_task, scored_labels
from fewshot_jax.applications.language_model import LanguageModel, language_model, save_language_model
from fewshot_jax.applications.writing import writing_functions
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.records import Record
from fewshot_jax.data.sequences import Ids
from fewshot_jax.data.sets import label_text
from fewshot_jax.data.splits import text_split
from fewshot_jax.errors import UserError
from fewshot_jax.training.evaluate import restore_best_of
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.training.state import run_keys
from fewshot_jax.types import Batch, PyTree


class LabelScorer(Classifier):
    """A learner adapted to one task, with its language model and the names of the classes.

    Args:
        adapted: what ``learner.adapt`` gave.
        labels: of the ``N`` classes, in the order of the outputs.
        model: of the run.
        config: of the run.
    """

    def __init__(self, adapted: PyTree, labels: Sequence[str], model: LanguageModel, config: Config):
        self.adapted, self.labels, self.config, self.model = adapted, list(labels), config, model
        self.tokenizer = model.codec.tokenizer
        self.names = names_of(model, self.labels)
        # Each text is read once for every class, after all examples where they are the context.
        self.batch_size = max(1, 256 // len(self.labels))
        self._compile(build_learner(_functions(config, model, len(self.labels)), config, training=False))

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        sources = self.model.codec.sources(texts)
        return one_task(self.model.codec, [*sources, *[sources[-1]] * (items - len(sources))], self.names)

    def save(self, directory: str | Path) -> None:
        write = functools.partial(save_language_model, self.model)
        save_model(directory, self.adapted, self.config, {"labels": self.labels}, write)


def _functions(config: Config, model: LanguageModel, ways: int) -> Functions:
    functions = writing_functions(config, model, training=False)
    return scored_labels(functions, ways=ways, per_token=not config.learner.channel)


def names_of(model: LanguageModel, labels: Sequence[str]) -> list[Ids]:
    """The token ids of the names of classes, as they are written."""
    return [ids for _, ids in model.codec.encode([Example(" ", label_text(label)) for label in labels])]


def saved_scorer_model(config: Config, directory: Path) -> LanguageModel:
    """The language model of a run or a saved model, without its weights."""
    return language_model(config, texts=list, saved=directory, weights=False)


def load_label_scorer(directory: Path, adapted: PyTree, labels: Sequence[str], config: Config) -> LabelScorer:
    """The classifier that `LabelScorer.save` wrote."""
    return LabelScorer(adapted, labels, saved_scorer_model(config, directory), config)


def adapt_label_scorer(run: RunDirectory, config: Config, records: Sequence[Record]) -> LabelScorer:
    """Adapt the best checkpoint of a run to labelled texts.

    Raises:
        UserError: the run has no checkpoint, or two classes have names that the model cannot tell apart.
    """
    model, data = saved_scorer_model(config, run.path), text_split(records)
    encoded = names_of(model, data.classes)
    read: dict[tuple[int, ...], str] = {}
    for label, ids in zip(data.classes, encoded, strict=True):
        if (other := read.setdefault(tuple(ids), label)) != label:
            raise UserError(
                f"the labels '{other}' and '{label}' are the same tokens to the model, which tells classes by their "
                "names alone; rename one (unknown words are all alike, and long names are cut)"
            )
    meta_params = restore_best_of(run, writing_functions(config, model, training=True))
    support = one_task(model.codec, model.codec.sources(data.texts), encoded, data.label)
    learner = build_learner(_functions(config, model, len(encoded)), config, training=False)
    adapted = jax.jit(learner.adapt)(meta_params, support, run_keys(config.seed).evaluation)
    return LabelScorer(jax.device_get(adapted), data.classes, model, config)
