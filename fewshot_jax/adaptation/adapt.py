"""From a model and a few examples to a classifier, or to a model that writes: what `adapt` decides."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from fewshot_jax.adaptation.base import Classifier
from fewshot_jax.adaptation.examples import Examples, given_examples
from fewshot_jax.adaptation.fitting import adapt_label_scorer, adapt_start, check_labelled
from fewshot_jax.adaptation.folds import stratified
from fewshot_jax.adaptation.named import NamedModel, find_model
from fewshot_jax.adaptation.policy import Kept, Policy
from fewshot_jax.adaptation.remarks import (
    NO_FOLDS,
    TOO_FEW,
    Remarks,
    changed,
    cut,
    not_judged,
    too_long,
    unfinished,
    unknown_words,
)
from fewshot_jax.adaptation.report import ADAPTED, SIMPLE, AdaptationReport
from fewshot_jax.adaptation.selection import OnProgress, Selection, select
from fewshot_jax.adaptation.simple import SimpleClassifier
from fewshot_jax.adaptation.start import Start, start_of, with_choices
from fewshot_jax.adaptation.summary import record_of
from fewshot_jax.adaptation.writer import Writer, adapt_writer
from fewshot_jax.data.duplicates import distinct_examples
from fewshot_jax.data.examples import Example
from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import TextSplit, text_split
from fewshot_jax.models.sources.names import lasting_name
from fewshot_jax.training.run_directory import RunDirectory


def adapt(
    model: str | Path,
    records_or_texts: Iterable[Any],
    labels: Iterable[Any] | None = None,
    *,
    folds: int = 5,
    repeats: int = 1,
    save: Kept = "better",
) -> Classifier | Writer:
    """Adapt a model to a few examples, as ``fewshot-jax adapt`` does.

    Labelled texts are cross-validated: the adapted model beside TF-IDF with logistic regression, on the same folds.
    The better one is adapted to all texts and returned. A run that writes, or that scores the names of the classes,
    is adapted without cross-validation.

    Args:
        model: "default" (the encoder that ships with the package), a run of `fsj.train`, a pretrained model by any name
            of `fsj.load_pretrained`, a run of `fsj.pretrain`, or a directory that adapt saved, to whose examples
            these are added.
        records_or_texts: `Record`s, of two labels at least; of a run that writes, `Example`s of one task. With
            ``labels`` plain texts.
        labels: the label of each text: strings, integers, floats or booleans.
        folds: of the cross-validation; 0 for none.
        repeats: of the cross-validation, each with other folds.
        save: which model to return: the better one, the adapted one or the simple one.

    Returns:
        A classifier, or a writer. Its ``report`` says what was found and decided, its ``save(directory)`` writes what
        the command writes.

    Raises:
        UserError: there is no such model, or the examples do not fit it, or they are too few.

    Warns:
        Note: what is worth knowing, such as duplicates that were skipped.

    Example:
        ``fsj.adapt("default", ["my card is late", "send money"], labels=["card", "transfer"], folds=0)``
    """
    policy = Policy(folds=folds, repeats=repeats, save=save)
    named = find_model(model)
    return adapt_named(named, given_examples(named, records_or_texts, labels), policy)


def adapt_named(
    named: NamedModel,
    examples: Examples,
    policy: Policy,
    *,
    where: str = "the examples",
    on_progress: OnProgress = lambda text: None,
) -> Classifier | Writer:
    """Adapt a model that was found to examples in its form.

    Args:
        named: the model.
        examples: see `read_examples` and `given_examples`.
        policy: how the model is chosen.
        where: names the examples in messages.
        on_progress: takes a line on each fold.

    Raises:
        UserError: as of `adapt`.
    """
    remarks, skipped = Remarks(), 0
    adapted: Classifier | Writer
    if named.writes:
        adapted, report = _writer(named, cast(Sequence[Example], examples), policy, remarks)
    else:
        given = [*named.examples, *cast(Sequence[Record], examples)]
        where = f"{where}, added to the examples of {named.name}" if named.examples else where
        records, notes, doubts = distinct_examples(given, where)
        skipped = len(given) - len(records)
        remarks.note(*notes)
        remarks.caution(*doubts)
        check_labelled(records)
        if named.scores_names:
            adapted, report = _label_scorer(named, records, policy, remarks)
        else:
            adapted, report = _classifier(named, records, policy, remarks, on_progress)
    adapted.report = dataclasses.replace(
        report, skipped=skipped, notes=tuple(remarks.notes), warnings=tuple(remarks.warnings)
    )
    return adapted


def _classifier(
    named: NamedModel, records: list[Record], policy: Policy, remarks: Remarks, on_progress: OnProgress
) -> tuple[Classifier, AdaptationReport]:
    """Cross-validate, choose, and adapt to all texts."""
    data = text_split(records)
    start = with_choices(start_of(named), len(records))
    remarks.note(*unfinished(named.origin))
    remarks.caution(*changed(named))
    if policy.folds or policy.save != "simple":  # else the encoder reads nothing
        remarks.caution(*unknown_words(named.origin, start.model.codec.tokenizer, data.texts))
        remarks.note(*too_long(start.reader(len(data.classes)), data.texts))
    selection = _cross_validated(start, data, policy, remarks, on_progress)
    kept = policy.kept(selection)
    classifier: Classifier
    if kept == SIMPLE:
        classifier = SimpleClassifier.fit(data.texts, data.label, data.classes)
    else:
        classifier = adapt_start(start, data, selection)
    classifier.examples = records
    report = AdaptationReport(
        start=start.name, source=named.source, saved=kept, examples=len(records), classes=_counts(data)
    )
    if selection is None:
        return classifier, dataclasses.replace(report, right=_right(classifier, records))
    found = record_of(selection, start.with_loop(*selection.choice), data.texts, kept)
    classifier.temperature = found["temperature"]
    return classifier, dataclasses.replace(report, cross_validation=found)


def _cross_validated(
    start: Start, data: TextSplit, policy: Policy, remarks: Remarks, on_progress: OnProgress
) -> Selection | None:
    """What cross-validation finds; None where none is asked for, or nothing can be held out."""
    if not policy.folds:
        remarks.note(NO_FOLDS)
        return None
    if not stratified(data.label, most=policy.folds):
        remarks.note(TOO_FEW)
        return None
    selection = select(start, data, folds=policy.folds, repeats=policy.repeats, on_progress=on_progress)
    remarks.note(*not_judged(data))
    return selection


def _label_scorer(
    named: NamedModel, records: list[Record], policy: Policy, remarks: Remarks
) -> tuple[Classifier, AdaptationReport]:
    """Adapt a run that scores the names of the classes, which is neither cross-validated nor compared."""
    policy.check_unused("a run that scores the names of classes")
    data = text_split(records)
    classifier = adapt_label_scorer(RunDirectory(named.origin), data)
    remarks.note(*unfinished(named.origin))
    remarks.caution(*unknown_words(named.origin, classifier.reader.tokenizer, [*data.texts, *data.classes]))
    remarks.note(*too_long(classifier.reader, data.texts))
    return classifier, AdaptationReport(
        start=lasting_name(named.origin),
        saved=ADAPTED,
        examples=len(records),
        classes=_counts(data),
        right=_right(classifier, records),
    )


def _writer(
    named: NamedModel, examples: Sequence[Example], policy: Policy, remarks: Remarks
) -> tuple[Writer, AdaptationReport]:
    """Adapt a run that writes, which is neither cross-validated nor compared."""
    policy.check_unused(f"a run of {named.application}")
    writer = adapt_writer(RunDirectory(named.origin), examples)
    codec, texts = writer.model.codec, [text for one in examples for text in (one.source, one.target)]
    remarks.note(*unfinished(named.origin))
    remarks.caution(*unknown_words(named.origin, codec.tokenizer, texts))
    remarks.note(*cut(codec))
    return writer, AdaptationReport(start=lasting_name(named.origin), saved=ADAPTED, examples=len(examples))


def _counts(data: TextSplit) -> dict[Any, int]:
    """The number of examples of each class."""
    counts = np.bincount(data.label, minlength=len(data.classes))
    return {name: int(count) for name, count in zip(data.classes, counts, strict=True)}


def _right(classifier: Classifier, records: Sequence[Record]) -> int:
    """How many of the examples that a classifier was adapted to it labels right."""
    predicted = classifier.predict([record.text for record in records])
    return sum(one.label == record.label for one, record in zip(predicted, records, strict=True))
