"""``fewshot-jax adapt MODEL --data FILE --output DIR``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewshot_jax.cli.arguments import counted, parse, print_json, quietly
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fewshot_jax.adaptation.readers import Reader
    from fewshot_jax.adaptation.selection import Selection
    from fewshot_jax.adaptation.writer import Writer
    from fewshot_jax.config import Config
    from fewshot_jax.data.records import Record

LITTLE_KNOWN = 0.85  # share of known words below which a warning is due


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Adapt a model to a few examples, say how well it does, and save it.

    Texts with labels are cross-validated beside TF-IDF and logistic regression, and the better model is saved.

    Attributes:
        model: 'default' (the encoder that ships with the package), a run directory of 'fewshot-jax train', a Hugging
            Face directory, or a directory that adapt made, to whose examples these are added.
        data: a CSV, TSV or JSONL file with a text and a label in each row; for runs of other applications a file of
            the form that the run was trained on.
        output: new directory for the adapted model.
        text_field: column or field of the text.
        label_field: column or field of the label.
        save: which model is saved: the better one, the adapted one or the simple one.
        folds: of the cross-validation; 0 for none.
        repeats: of the cross-validation, each with other folds.
        quiet: print the result alone, no progress and no notes.
        as_json: print what was found as JSON.
    """

    model: tyro.conf.Positional[Path]
    data: Path
    output: Path
    text_field: str = "text"
    label_field: str = "label"
    save: Literal["better", "adapted", "simple"] = "better"
    folds: int = 5
    repeats: int = 1
    quiet: bool = False
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "adapt", arguments)
    if parsed.folds < 0 or parsed.folds == 1 or parsed.repeats < 1:
        raise UserError(
            f"--folds {parsed.folds} --repeats {parsed.repeats}: expected at least 2 folds (or 0) and 1 repeat"
        )
    with quietly(parsed.quiet):
        _adapt(parsed)


def _adapt(parsed: Arguments) -> None:
    """Find out what MODEL is, read the examples, and adapt by what fits both."""
    from fewshot_jax.adaptation.named import find_model
    from fewshot_jax.adaptation.saving import check_output
    from fewshot_jax.data.detect import detect_application
    from fewshot_jax.data.duplicates import distinct_examples
    from fewshot_jax.data.files import read_records

    check_output(parsed.output)
    named = find_model(parsed.model)
    model, before, config = named.origin, named.examples, named.config
    if config is not None and named.writes:
        _write(parsed, config)
        return
    text, label = parsed.text_field, parsed.label_field
    found = detect_application(parsed.data, text=text, label=label, prefer="text_classification")
    if found != "text_classification":
        raise UserError(
            f"{parsed.data}: has the columns of {found}, and {model} labels texts; give a run of {found} as MODEL"
        )
    read = [*before, *read_records(parsed.data, text=text, label=label)]
    where = f"{parsed.data}{f', added to the examples of {parsed.model}' if before else ''}"
    records, notes, doubts = distinct_examples(read, where)
    for line in (*(f"note: {note}" for note in notes), *(f"warning: {doubt}" for doubt in doubts)):
        print(line, file=sys.stderr)
    if named.scores_names:
        _score_labels(parsed, records)
        return
    _classify(parsed, model, records)


def _classify(parsed: Arguments, model: Path, records: "list[Record]") -> None:
    """Cross-validate, choose, adapt to all texts and save."""
    from fewshot_jax.adaptation.fitting import adapt_start, check_labelled
    from fewshot_jax.adaptation.folds import rare_classes, stratified
    from fewshot_jax.adaptation.report import ADAPTED, SIMPLE, AdaptationReport
    from fewshot_jax.adaptation.selection import select
    from fewshot_jax.adaptation.simple import SimpleClassifier
    from fewshot_jax.adaptation.start import start_of, with_choices
    from fewshot_jax.adaptation.summary import record_of
    from fewshot_jax.data.splits import text_split

    check_labelled(records)
    data = text_split(records)
    start = with_choices(start_of(model), len(records))
    _tell_unfinished(model)
    if parsed.folds or parsed.save != "simple":  # else the encoder reads nothing
        _tell_unknown(model, start.tokenizer, data.texts)
        tell_too_long(start.reader(len(data.classes)), data.texts)
    selection: Selection | None = None
    if parsed.folds and stratified(data.label, most=parsed.folds):
        tell = (lambda text: None) if parsed.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
        selection = select(start, data, folds=parsed.folds, repeats=parsed.repeats, tell=tell)
        if rare := [data.classes[one] for one in rare_classes(data.label)]:
            print(
                f"note: {len(rare)} of the classes {'has' if len(rare) == 1 else 'have'} too few examples to hold out, "
                f"and {'is' if len(rare) == 1 else 'are'} trained on and not judged: "
                f"'{rare[0]}'{' and more' if len(rare) > 1 else ''}",
                file=sys.stderr,
            )
    elif not parsed.folds:
        print(
            "note: without folds nothing is known of how well the model does, and its probabilities are not calibrated",
            file=sys.stderr,
        )
    else:
        print(
            "note: nothing is cross-validated, and nothing known of how well the model does: at least two classes need "
            "two examples each, one to hold out",
            file=sys.stderr,
        )
    kept = {"better": selection.best if selection else ADAPTED, "adapted": ADAPTED, "simple": SIMPLE}[parsed.save]
    classifier: Any
    if kept == SIMPLE:
        classifier = SimpleClassifier.fit(data.texts, data.label, data.classes)
    else:
        classifier = adapt_start(start, data, selection)
    classifier.examples = records
    if selection is None:
        right = sum(
            one.label == record.label for one, record in zip(classifier.predict(data.texts), records, strict=True)
        )
        classifier.report = AdaptationReport(start=start.name, saved=kept, examples=len(records))
        classifier.save(parsed.output)
        _tell_saved(parsed, len(records), {"saved": kept, "classes": data.classes, "right": right})
        return
    record = record_of(selection, start.with_loop(*selection.choice), data.texts, kept)
    classifier.temperature = record["temperature"]
    classifier.report = AdaptationReport(start=start.name, saved=kept, examples=len(records), cross_validation=record)
    classifier.save(parsed.output)
    if parsed.as_json:
        print_json(record)
    else:
        from rich.console import Console

        Console().print(classifier.report)
        print(f"saved in {parsed.output}")


def _score_labels(parsed: Arguments, records: "list[Record]") -> None:
    """Adapt a run that scores the names of the classes."""
    _refuse_choices(parsed, "a run that scores the names of classes")
    from fewshot_jax.adaptation.classifier import AdaptedClassifier
    from fewshot_jax.adaptation.fitting import adapt
    from fewshot_jax.adaptation.report import ADAPTED

    classifier = adapt(parsed.model, records)
    assert isinstance(classifier, AdaptedClassifier)
    _tell_unfinished(parsed.model)
    texts = [record.text for record in records]
    _tell_unknown(parsed.model, classifier.reader.tokenizer, [*texts, *classifier.labels])
    tell_too_long(classifier.reader, texts)
    right = sum(given.label == record.label for given, record in zip(classifier.predict(texts), records, strict=True))
    classifier.save(parsed.output)
    _tell_saved(parsed, len(records), {"saved": ADAPTED, "classes": classifier.labels, "right": right})


def _write(parsed: Arguments, config: "Config") -> None:
    """Adapt a run that writes."""
    from fewshot_jax.adaptation.fitting import adapt
    from fewshot_jax.adaptation.report import ADAPTED
    from fewshot_jax.adaptation.writer import Writer, saved_model
    from fewshot_jax.applications.table import application_of
    from fewshot_jax.data.fields import TASK_FIELD

    refuse_fields(parsed, config)
    _refuse_choices(parsed, f"a run of {config.application}")
    application, model = application_of(config), saved_model(config, parsed.model)
    one_task = dataclasses.replace(config, data=dataclasses.replace(config.data, task_field=TASK_FIELD))
    examples = application.read(one_task, parsed.data, model)  # whose task need not be named
    writer = adapt(parsed.model, examples)
    assert isinstance(writer, Writer)
    _tell_unfinished(parsed.model)
    _tell_unknown(parsed.model, writer.model.codec.tokenizer, [t for e in examples for t in (e.source, e.target)])
    tell_cut(writer)
    writer.save(parsed.output)
    _tell_saved(parsed, len(examples), {"saved": ADAPTED})


def _tell_saved(parsed: Arguments, examples: int, said: dict[str, Any]) -> None:
    """Report a model that was not cross-validated."""
    if parsed.as_json:
        print_json({**said, "examples": examples, "cross_validation": None})
        return
    classes = (
        f" of {len(said['classes'])} classes, and labels {said['right']} of them right, which it has seen"
        if "right" in said
        else ""
    )
    print(f"adapted to {counted(examples, 'example')}{classes}; saved in {parsed.output}")


def _refuse_choices(parsed: Arguments, kind: str) -> None:
    """Raise where a cross-validation is asked for, of what has none."""
    for name, value, usual in (("save", parsed.save, "better"), ("repeats", parsed.repeats, 1)):
        if value != usual:
            raise UserError(f"--{name} {value}: {kind} is not cross-validated, nor compared; leave it out")
    if parsed.folds not in (0, 5):
        raise UserError(f"--folds {parsed.folds}: {kind} is not cross-validated; leave it out")


def refuse_fields(arguments: Any, config: "Config") -> None:
    """Raise where a text or label field is named to an application that has fields of its own."""
    for field in ("text_field", "label_field"):
        value = getattr(arguments, field, None)
        if value is not None and value != field.removesuffix("_field"):
            raise UserError(
                f"--{field.replace('_', '-')}={value}: {config.application} does not read it; its fields are those of "
                "the run's config (data)"
            )


def _tell_unknown(model: Path, tokenizer: "Tokenizer", texts: Sequence[str]) -> None:
    from fewshot_jax.adaptation.start import known_share

    if (known := known_share(tokenizer, texts)) < LITTLE_KNOWN:
        print(
            f"warning: the tokenizer of {model} knows {known:.0%} of the words of these texts: expect little, and "
            "train a run on texts like yours",
            file=sys.stderr,
        )


def tell_cut(writer: "Writer") -> None:
    """Say how many of the texts that a writer has read were too long for it."""
    for count, what in zip(writer.model.codec.cut, ("source", "target"), strict=False):
        if count:
            print(f"{counted(count, what)} too long for the model, and cut", file=sys.stderr)


def tell_too_long(reader: "Reader", texts: Sequence[str]) -> None:
    """Say how many texts a classifier reads in part."""
    if count := reader.cut(texts):
        print(
            f"note: {counted(count, 'text')} longer than {reader.max_length} tokens; the rest is not read",
            file=sys.stderr,
        )


def _tell_unfinished(model: Path) -> None:
    from fewshot_jax.adaptation.named import is_run
    from fewshot_jax.training.run_directory import RunDirectory

    if is_run(model) and RunDirectory(model).result() is None:
        print(f"note: {model} is unfinished; this is its best checkpoint so far", file=sys.stderr)
