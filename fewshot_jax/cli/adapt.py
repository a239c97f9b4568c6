"""``fewshot-jax adapt RUN --data FILE --output DIR``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from fewshot_jax.cli.arguments import counted, parse
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fewshot_jax.adaptation.writer import Writer
    from fewshot_jax.config import Config

MUCH_UNKNOWN = 0.3  # share of unknown tokens above which a warning is due


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Adapt a meta-trained run to a few examples and save the model.

    Attributes:
        model: run directory of 'fewshot-jax train'.
        data: of classification, a CSV, TSV or JSONL file with a text and a label in each row; of other applications
            a file of the form that the run was trained on.
        output: new directory for the adapted model.
        text_field: column or field of the text.
        label_field: column or field of the label.
    """

    model: tyro.conf.Positional[Path]
    data: Path
    output: Path
    text_field: str = "text"
    label_field: str = "label"


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "adapt", arguments)
    from fewshot_jax.adaptation.adapt import adapt
    from fewshot_jax.adaptation.classifier import Classifier
    from fewshot_jax.adaptation.saving import check_output
    from fewshot_jax.adaptation.writer import Writer, saved_model
    from fewshot_jax.applications.table import application_of
    from fewshot_jax.config import WRITES
    from fewshot_jax.data.fields import TASK_FIELD
    from fewshot_jax.data.files import read_records
    from fewshot_jax.training.run_directory import RunDirectory

    check_output(parsed.output)
    config = RunDirectory(parsed.model).config()
    if config.application in WRITES:
        refuse_fields(parsed, config)
        application, model = application_of(config), saved_model(config, parsed.model)
        one_task = dataclasses.replace(config, data=dataclasses.replace(config.data, task_field=TASK_FIELD))
        examples = application.read(one_task, parsed.data, model)  # whose task need not be named
        writer = adapt(parsed.model, examples)
        assert isinstance(writer, Writer)
        _tell_unfinished(parsed.model)
        _tell_unknown(parsed.model, writer.model.codec.tokenizer, [t for e in examples for t in (e.source, e.target)])
        tell_cut(writer)
        writer.save(parsed.output)
        print(f"adapted to {counted(len(examples), 'example')}; saved in {parsed.output}")
        return
    records = read_records(parsed.data, text=parsed.text_field, label=parsed.label_field)
    classifier = adapt(parsed.model, records)
    assert isinstance(classifier, Classifier)
    _tell_unfinished(parsed.model)
    texts = [record.text for record in records]
    names = classifier.labels if classifier.config.kind == "label_scoring" else []  # which are read too
    _tell_unknown(parsed.model, classifier.reader.tokenizer, [*texts, *names])
    right = sum(given.label == record.label for given, record in zip(classifier.predict(texts), records, strict=True))
    classifier.save(parsed.output)
    print(
        f"adapted to {counted(len(records), 'example')} of {len(classifier.labels)} classes, of which it labels "
        f"{right} right; saved in {parsed.output}"
    )


def refuse_fields(arguments: Any, config: "Config") -> None:
    """Raise where a text or label field is named to an application that has fields of its own."""
    for field in ("text_field", "label_field"):
        value = getattr(arguments, field, None)
        if value is not None and value != field.removesuffix("_field"):
            raise UserError(
                f"--{field.replace('_', '-')}={value}: {config.application} does not read it; its fields are those of "
                "the run's config (data)"
            )


def _tell_unknown(run: Path, tokenizer: "Tokenizer", texts: Sequence[str]) -> None:
    from fewshot_jax.adaptation.adapt import unknown_share

    if (unknown := unknown_share(tokenizer, texts)) > MUCH_UNKNOWN:
        print(
            f"warning: the tokenizer of {run} knows {1 - unknown:.0%} of the words of these texts: expect little, and "
            "train a run on texts like yours",
            file=sys.stderr,
        )


def tell_cut(writer: "Writer") -> None:
    """Say how many of the texts that a writer has read were too long for it."""
    for count, what in zip(writer.model.codec.cut, ("source", "target"), strict=False):
        if count:
            print(f"{counted(count, what)} too long for the model, and cut", file=sys.stderr)


def _tell_unfinished(run: Path) -> None:
    from fewshot_jax.training.run_directory import RunDirectory

    if RunDirectory(run).result() is None:
        print(f"note: {run} is unfinished; this is its best checkpoint so far", file=sys.stderr)
