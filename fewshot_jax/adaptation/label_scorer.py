"""A saved few-shot classifier without a head, which scores the names of its classes."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax

from fewshot_jax.adaptation.classifier import Classifier
from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.applications.label_scoring import one_task, scored_labels
from fewshot_jax.applications.language_model import LanguageModel, language_model, save_language_model
from fewshot_jax.applications.writing import writing_functions
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.records import Record
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

    batch_size = 32  # each text is read once for every class, after all examples where they are the context

    def __init__(self, adapted: PyTree, labels: Sequence[str], model: LanguageModel, config: Config):
        self.adapted, self.labels, self.config, self.model = adapted, list(labels), config, model
        self.tokenizer = model.codec.tokenizer
        self.names = [ids for _, ids in model.codec.encode([Example(" ", label_text(name)) for name in self.labels])]
        functions = scored_labels(
            writing_functions(config, model, training=False),
            ways=len(self.labels),
            per_token=not config.learner.channel,
        )
        self._compile(build_learner(functions, config, training=False))

    def batch(self, texts: Sequence[str], items: int) -> Batch:
        sources = self.model.codec.sources(texts)
        return one_task(self.model.codec, [*sources, *[sources[-1]] * (items - len(sources))], self.names)

    def save(self, directory: str | Path) -> None:
        write = functools.partial(save_language_model, self.model)
        save_model(directory, self.adapted, self.config, {"labels": self.labels}, write)


def saved_scorer_model(config: Config, directory: Path) -> LanguageModel:
    """The language model of a run or a saved model, without its weights."""
    return language_model(config, texts=list, saved=directory, weights=False)


def load_label_scorer(directory: Path, adapted: PyTree, labels: Sequence[str], config: Config) -> LabelScorer:
    """The classifier that `LabelScorer.save` wrote."""
    return LabelScorer(adapted, labels, saved_scorer_model(config, directory), config)


def adapt_label_scorer(run: RunDirectory, config: Config, records: Sequence[Record]) -> LabelScorer:
    """Adapt the best checkpoint of a run to labelled texts.

    Raises:
        UserError: the run has no checkpoint, or two classes have one name.
    """
    model, data = saved_scorer_model(config, run.path), text_split(records)
    names = [label_text(label) for label in data.classes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two labels read '{twice[0]}' as a text, by which alone classes are told apart; rename one")
    functions = writing_functions(config, model, training=True)
    meta_params = restore_best_of(run, functions)
    encoded = [ids for _, ids in model.codec.encode([Example(" ", name) for name in names])]
    support = one_task(model.codec, model.codec.sources(data.texts), encoded, data.label)
    scored = scored_labels(functions, ways=len(names), per_token=not config.learner.channel)
    learner = build_learner(scored, config, training=False)
    adapted = jax.jit(learner.adapt)(meta_params, support, run_keys(config.seed).evaluation)
    return LabelScorer(jax.device_get(adapted), data.classes, model, config)
