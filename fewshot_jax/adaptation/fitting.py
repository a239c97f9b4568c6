"""From the start of an adaptation and labelled texts to a classifier, without a choice of models."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from fewshot_jax.adaptation.classifier import AdaptedClassifier
from fewshot_jax.adaptation.readers import NameReader, Reader
from fewshot_jax.adaptation.saving import finite_on_host
from fewshot_jax.adaptation.scaling import NONE
from fewshot_jax.adaptation.selection import Adaptations, Selection
from fewshot_jax.adaptation.start import Start
from fewshot_jax.applications.label_scoring import candidates, one_task
from fewshot_jax.applications.text_classification import with_label_names
from fewshot_jax.config import Config
from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import TextSplit
from fewshot_jax.errors import UserError
from fewshot_jax.runs.state import run_keys
from fewshot_jax.training.experiment import Experiment, judging_pair, model_of_run
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import Batch, MetaParams


def check_labelled(records: Sequence[Record]) -> None:
    """Raise a UserError if some texts are none, or of one class only."""
    if not records:
        raise UserError("there are no examples: give labelled texts of at least two classes")
    if len(labels := {record.label for record in records}) < 2:
        raise UserError(f"the examples have one label only ('{labels.pop()}'): a classifier needs at least two")
    if NONE in labels:
        raise UserError(f"'{NONE}' is the label of texts below the threshold; give the class another name")


def adapt_start(start: Start, data: TextSplit, selection: Selection | None = None) -> AdaptedClassifier:
    """Adapt a text classifier, by its config's learner, to all texts of some classes.

    Args:
        start: see `start.start_of`.
        data: the texts.
        selection: what cross-validation of the same start and texts has found; None to take the start's usual loop.

    Raises:
        UserError: it diverged.
    """
    factor, steps = start.usual if selection is None else selection.choice
    if start.on_features:
        if selection is None:
            one = dataclasses.replace(start, steps=(steps,))
            encoded = Adaptations(one, data, support=len(data.label), query=1)
        else:
            encoded = selection.adaptations
        adapted = finite_on_host({**start.meta_params["params"], "head": encoded.head(factor, steps)})
        return AdaptedClassifier(
            adapted, data.classes, start.with_loop(factor, steps).config, start.reader(len(data.classes))
        )
    start = start.with_loop(factor, steps)
    texts = with_label_names(start.config, data)
    names = np.arange(len(texts) - len(data.texts), dtype=np.int32)
    reader = start.reader(len(data.classes))
    support = {
        **reader.batch(texts, len(texts)),
        "label": np.concatenate([data.label, names]),
        "mask": np.ones(len(texts), bool),
    }
    return _adapted(start.meta_params, support, data.classes, start.config, reader)


def adapt_label_scorer(run: RunDirectory, data: TextSplit) -> AdaptedClassifier:
    """Adapt the best checkpoint of a run that scores the names of the classes.

    Args:
        run: of text classification, with ``model.classifier: label_names``.
        data: the texts.

    Raises:
        UserError: the run has no checkpoint, two names are the same tokens, the texts are too many, or it diverged.
    """
    config = run.config()
    model = model_of_run(run)
    reader = NameReader(model, candidates(data.classes, config))
    read: dict[tuple[int, ...], str] = {}
    for label, ids in zip(data.classes, reader.names, strict=True):
        if (other := read.setdefault(tuple(ids), label)) != label:
            raise UserError(
                f"the labels '{other}' and '{label}' are the same tokens to the model, which tells classes by their "
                "names alone; rename one (unknown words are all alike, and long names are cut)"
            )
    meta_params, _ = Experiment(model).restore_best(run)
    support = one_task(model.codec, model.codec.sources(data.texts), reader.names, data.label)
    classifier = _adapted(meta_params, support, data.classes, config, reader)
    classifier.check()  # examples that are read as a context may be too many for the model
    return classifier


def _adapted(
    meta_params: MetaParams, support: Batch, labels: Sequence[str], config: Config, reader: Reader
) -> AdaptedClassifier:
    _, learner = judging_pair(reader.functions, config)
    adapted = jax.jit(learner.adapt)(meta_params, support, run_keys(config.seed).evaluation)
    return AdaptedClassifier(finite_on_host(adapted), labels, config, reader)
