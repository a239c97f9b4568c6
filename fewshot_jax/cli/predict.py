"""``fewshot-jax predict DIR --input FILE --output FILE``."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fewshot_jax.cli.adapt import refuse_fields, tell_cut
from fewshot_jax.cli.arguments import counted, parse
from fewshot_jax.errors import UserError
from fewshot_jax.whole_file import whole_file


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Label, answer, translate or reply to the rows of a file with an adapted model.

    The output has the rows of the input with predicted_label and probability, or with what was written.

    Attributes:
        model: directory of 'fewshot-jax adapt'.
        input: CSV, TSV or JSONL with a text in each row (questions have a question and a context, or stand in
            SQuAD's JSON; dialogues are JSONL with turns), or plain text with one text per line.
        output: .csv, .tsv or .jsonl file to write.
        text_field: column or field of the text.
        force: write over an output that exists.
    """

    model: tyro.conf.Positional[Path]
    input: Path
    output: Path
    text_field: str = "text"
    force: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "predict", arguments)
    if parsed.output.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(
            f"{parsed.output}: cannot write files of type '{parsed.output.suffix}'; use .csv, .tsv or .jsonl"
        )
    if parsed.output.resolve() == parsed.input.resolve():
        raise UserError(f"{parsed.output}: is the input as well; give another --output")
    if parsed.output.is_dir():
        raise UserError(f"{parsed.output}: is a directory; name a file in it as --output")
    if parsed.output.exists() and not parsed.force:
        raise UserError(f"{parsed.output}: is there already; give another --output, or --force to write over it")
    if not parsed.output.parent.is_dir():
        raise UserError(f"{parsed.output}: there is no directory {parsed.output.parent}; make it, or see --output")
    from fewshot_jax.adaptation.classifier import load
    from fewshot_jax.adaptation.writer import Writer
    from fewshot_jax.applications.table import application_of
    from fewshot_jax.data.files import read_texts

    model = load(parsed.model)
    if isinstance(model, Writer):
        refuse_fields(parsed, model.config)
        rows, sources = application_of(model.config).sources(model.config, parsed.input, model.model)
        _check_free(parsed.input, rows, {"written"})
        written = [{**row, "written": text} for row, text in zip(rows, model.predict(sources), strict=True)]
        tell_cut(model)
        _write(parsed.output, written)
        print(f"wrote to {counted(len(written), 'row')}; in {parsed.output}")
        return
    rows, texts = read_texts(parsed.input, text=parsed.text_field)
    _check_free(parsed.input, rows, {"predicted_label", "probability"})
    predictions = model.predict(texts)
    labelled = [
        {**row, "predicted_label": prediction.label, "probability": round(prediction.probability, 4)}
        for row, prediction in zip(rows, predictions, strict=True)
    ]
    _write(parsed.output, labelled)
    print(f"labelled {counted(len(texts), 'text')}; written to {parsed.output}")


def _check_free(path: Path, rows: list[dict[str, Any]], added: set[str]) -> None:
    if taken := sorted(added & rows[0].keys()):
        raise UserError(f"{path}: has a column '{taken[0]}', which the output adds; rename it")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with whole_file(path) as partial:
            _write_rows(partial, rows, path.suffix)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); see --output") from None


def _write_rows(path: Path, rows: list[dict[str, Any]], suffix: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, delimiter="," if suffix == ".csv" else "\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    """A list or an object, such as the turns of a dialogue, as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
