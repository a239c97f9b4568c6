"""A saved few-shot model that reads texts and writes others: answers, translations, replies."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from fewshot_jax.adaptation.context import packed
from fewshot_jax.adaptation.report import AdaptationReport
from fewshot_jax.adaptation.saving import finite_on_host, save_model
from fewshot_jax.adaptation.scaling import check_finite
from fewshot_jax.applications.table import application_of
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.labels import plain_texts
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.errors import UserError
from fewshot_jax.training.experiment import Experiment, model_of_run, writing_pair
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import PyTree

_BATCH = 32  # texts read at once; a constant, so that each length compiles once


class Writer:
    """A learner adapted to one task, with its language model.

    Args:
        adapted: what ``learner.adapt`` gave.
        model: of the run.
        config: of the run.

    Attributes:
        report: what adapting found; None of a model that was loaded.
    """

    report: AdaptationReport | None = None

    def __init__(self, adapted: PyTree, model: TextModel, config: Config):
        self.adapted, self.model, self.config = packed(adapted, config), model, config
        self._application = application_of(config)
        _, learner = writing_pair(model.functions(training=False), config)

        @jax.jit
        def written(adapted: PyTree, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            out = learner.predict(adapted, batch, jax.random.key(0))
            return out.ids, out.nats

        self._written = written

    def predict(self, sources: Iterable[str]) -> list[str]:
        """What is written after each source, by the most probable tokens or the config's beams.

        Raises:
            UserError: the model's outputs are not finite numbers.
        """
        sources = plain_texts(sources)
        codec, written = self.model.codec, list[str]()
        for start in range(0, len(sources), _BATCH):
            chunk = sources[start : start + _BATCH]
            ids, nats = self._written(self.adapted, self._application.batch_to_write(chunk, codec, _BATCH))
            check_finite(np.asarray(nats)[: len(chunk)], chunk)
            written += self._application.texts_of(np.asarray(ids)[: len(chunk)], chunk, codec)
        return written

    def check(self) -> None:
        """Raise an error if weights and config do not fit each other; computes nothing.

        The text is too long for any bucket and is cut, so that no later one is refused.
        """
        codec = dataclasses.replace(self.model.codec, refuse=False, cut=[0, 0], known=None)
        text = "?\n" + "? " * 2 * codec.max_length
        jax.eval_shape(self._written, self.adapted, self._application.batch_to_write([text], codec, 1))

    def save(self, directory: str | Path) -> None:
        """Write the model to a new directory, whole or not at all.

        Raises:
            UserError: the directory exists and is not empty, or cannot be written.
        """
        save_model(directory, self.adapted, self.config, {}, self.model.save)


def load_writer(directory: Path, adapted: PyTree, config: Config) -> Writer:
    """The writer that `Writer.save` wrote."""
    writer = Writer(adapted, TextModel.open(config, directory, weights=False), config)
    writer.check()
    return writer


def adapt_writer(run: RunDirectory, examples: Sequence[Example]) -> Writer:
    """Adapt the best checkpoint of a run to examples of one task.

    Args:
        run: of an application that writes.
        examples: at least one.

    Raises:
        UserError: the run has no checkpoint, there are no examples, or adapting to them diverged.
    """
    config = run.config()
    application = application_of(config)
    if not examples:
        raise UserError("there are no examples: give at least one")
    if len(tasks := {example.task for example in examples}) > 1:
        raise UserError(f"the examples are of {len(tasks)} tasks ({', '.join(sorted(tasks)[:5])}): give those of one")
    model = model_of_run(run)
    model = dataclasses.replace(model, codec=dataclasses.replace(model.codec, known={}))  # each is read once
    experiment = Experiment(model)
    meta_params, _ = experiment.restore_best(run)
    drawn = [Drawn(list(examples), list(examples[:1]))]
    support = application.episodes_of(drawn, model.codec, len(examples), 1).support
    one = {name: leaf[0] for name, leaf in support.items()}
    adapted = jax.jit(experiment.judging.learner.adapt)(meta_params, one, experiment.keys.evaluation)
    writer = Writer(finite_on_host(adapted), model, config)
    writer.check()  # examples that are read as a context may be too many for the model
    return writer
