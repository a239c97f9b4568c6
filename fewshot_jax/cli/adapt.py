"""``fewshot-jax adapt RUN --data FILE --output DIR``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fewshot_jax.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Adapt a meta-trained run to labelled texts and save the model.

    Attributes:
        model: run directory of 'fewshot-jax train'.
        data: CSV, TSV or JSONL file with a text and a label in each row.
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
    from fewshot_jax.adaptation.classifier import check_output
    from fewshot_jax.data.files import read_records

    check_output(parsed.output)
    records = read_records(parsed.data, text=parsed.text_field, label=parsed.label_field)
    classifier = adapt(parsed.model, records)
    classifier.save(parsed.output)
    print(f"adapted to {len(records)} examples of {len(classifier.labels)} classes; saved in {parsed.output}")
