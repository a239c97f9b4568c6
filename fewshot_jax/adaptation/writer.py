"""A saved few-shot model that reads texts and writes others: answers, translations, replies."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.applications.language_model import LanguageModel, language_model, save_language_model
from fewshot_jax.applications.table import APPLICATIONS
from fewshot_jax.applications.writing import batch_of, writing_functions
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.loader import bucket
from fewshot_jax.data.sequences import sequence_batch
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.errors import UserError
from fewshot_jax.training.evaluate import restore_best
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.training.state import initial_state, run_keys
from fewshot_jax.types import PyTree

_BATCH = 32  # texts read at once; a constant, so that each length compiles once


class Writer:
    """A learner adapted to one task, with its language model.

    Args:
        adapted: what ``learner.adapt`` gave.
        model: of the run.
        config: of the run.
    """

    def __init__(self, adapted: PyTree, model: LanguageModel, config: Config):
        self.adapted, self.model, self.config = adapted, model, config
        functions = writing_functions(config, model, training=False)
        learner = build_learner(functions._replace(output_fn=functions.write_fn), config, training=False)  # type: ignore[arg-type]

        @jax.jit
        def ids(adapted: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            return learner.predict(adapted, batch, jax.random.key(0)).ids

        self._ids = ids

    def predict(self, sources: Sequence[str]) -> list[str]:
        """What is written after each source, by the most probable tokens or the config's beams."""
        if isinstance(sources, str):
            raise TypeError("predict takes a list of texts, not one string")
        codec, written = self.model.codec, list[str]()
        for start in range(0, len(sources), _BATCH):
            encoded = codec.sources(sources[start : start + _BATCH])
            length = bucket(max(map(len, encoded)), codec.buckets)
            rows = [(ids, [codec.end]) for ids in (*encoded, *[encoded[-1]] * (_BATCH - len(encoded)))]
            batch = sequence_batch([rows], _BATCH, length, codec.target_max_length, codec.pad)
            ids = np.asarray(self._ids(self.adapted, {name: leaf[0] for name, leaf in batch.items()}))
            written += codec.decode(ids[: len(encoded)])
        return written

    def check(self) -> None:
        """Raise an error if weights and config do not fit each other; computes nothing."""
        rows = [([*self.model.codec.begin, *self.model.codec.middle], [self.model.codec.end])]
        batch = sequence_batch([rows], 1, self.model.codec.buckets[0], 1, self.model.codec.pad)
        jax.eval_shape(self._ids, self.adapted, {name: leaf[0] for name, leaf in batch.items()})

    def save(self, directory: str | Path) -> None:
        """Write the model to a new directory, whole or not at all.

        Raises:
            UserError: the directory exists and is not empty, or cannot be written.
        """
        save_model(
            directory, self.adapted, self.config, {}, lambda path: save_language_model(self.model, self.config, path)
        )


def load_writer(directory: Path, adapted: PyTree, config: Config) -> Writer:
    """The writer that `Writer.save` wrote."""
    writer = Writer(adapted, saved_model(config, directory), config)
    writer.check()
    return writer


def saved_model(config: Config, directory: Path) -> LanguageModel:
    """The language model of a run or a saved model, without its weights."""
    keep_end = APPLICATIONS[config.application].keep_end
    return language_model(config, keep_end=keep_end, texts=list, saved=directory, weights=False)


def adapt_writer(run: RunDirectory, examples: Sequence[Example]) -> Writer:
    """Adapt the best checkpoint of a run to examples of one task.

    Args:
        run: of an application that writes.
        examples: at least one.

    Raises:
        UserError: the run has no checkpoint, or there are no examples.
    """
    config = run.config()
    if not examples:
        raise UserError("there are no examples: give at least one")
    model = saved_model(config, run.path)
    shapes = jax.eval_shape(lambda: initial_state(config, writing_functions(config, model, training=True)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    meta_params, _ = restore_best(run, like)
    support = batch_of([Drawn(list(examples), list(examples[:1]))], model.codec, len(examples), 1).support
    learner = build_learner(writing_functions(config, model, training=False), config, training=False)
    one = {name: leaf[0] for name, leaf in support.items()}
    adapted = jax.jit(learner.adapt)(meta_params, one, run_keys(config.seed).evaluation)
    return Writer(jax.device_get(adapted), model, config)
