"""``fewshot-jax predict DIR --input FILE --output FILE``."""

import contextlib
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import atomic_file, cannot_write
from fewshot_jax.cli.adapt import refuse_fields
from fewshot_jax.cli.arguments import parse, quietly
from fewshot_jax.data.names import counted
from fewshot_jax.data.spreadsheet import columns_of_csv, encoding_of, safe_cell
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from fewshot_jax.adaptation.scaling import Prediction

STREAM = Path("-")  # stdin, stdout
SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Label, answer, translate or reply to the rows of a file with an adapted model.

    The output has the rows of the input with predicted_label and probability, or with what was written. A row whose
    text is blank gets no label.

    Attributes:
        model: directory of 'fewshot-jax adapt'.
        input: CSV, TSV or JSONL with a text in each row (questions have a question and a context, or stand in
            SQuAD's JSON; dialogues are JSONL with turns), or plain text with one text per line; '-' for stdin, which
            may be JSONL, CSV or plain text.
        output: .csv, .tsv or .jsonl file to write; '-' for JSONL on stdout.
        text_field: column or field of the text.
        threshold: a text whose most probable label is less probable than this, 0 to 1, is labelled 'none of these'.
        force: write over an output that exists.
        quiet: print the result alone, no notes.
    """

    model: tyro.conf.Positional[Path]
    input: Path = STREAM
    output: Path = STREAM
    text_field: str = "text"
    threshold: float = 0.0
    force: bool = False
    quiet: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "predict", arguments)
    _check(parsed)
    with quietly(parsed.quiet):
        _predict(parsed)


def _predict(parsed: Arguments) -> None:
    """Load the model, read the rows, and write them with what the model says."""
    from fewshot_jax.adaptation.classifier import AdaptedClassifier, load
    from fewshot_jax.adaptation.remarks import cut, too_long
    from fewshot_jax.adaptation.writer import Writer
    from fewshot_jax.applications.table import application_of
    from fewshot_jax.data.files import read_texts

    model = load(parsed.model)
    with _given(parsed.input, parsed.text_field) as path:
        if isinstance(model, Writer):
            refuse_fields(parsed, model.config.application)
            if parsed.threshold:
                raise UserError(
                    f"--threshold {parsed.threshold}: {parsed.model} writes texts, and has no probabilities"
                )
            rows, sources = application_of(model.config).sources(model.config, path, model.model)
            _check_free(path, rows, {"written"})
            made = [{**row, "written": text} for row, text in zip(rows, model.predict(sources), strict=True)]
            _note(*cut(model.model.codec))
            said = f"wrote to {counted(len(made), 'row')}"
        else:
            rows, texts = read_texts(path, text=parsed.text_field, blanks=True)
            _tell_blank(path, parsed.text_field, texts)
            if isinstance(model, AdaptedClassifier):
                _note(*too_long(model.reader, texts))
            _check_free(path, rows, {"predicted_label", "probability"})
            labelled = iter(model.predict([text for text in texts if text], threshold=parsed.threshold))
            made = [
                {**row, **_columns(next(labelled) if text else None)} for row, text in zip(rows, texts, strict=True)
            ]
            said = f"labelled {counted(sum(map(bool, texts)), 'text')}"
    if parsed.output == STREAM:
        sys.stdout.writelines(_lines(parsed.output, made))
        return
    _write(parsed.output, made)
    print(f"{said}; written to {parsed.output}")


def _check(parsed: Arguments) -> None:
    """Raise a UserError if the output cannot be written, or a number is out of range."""
    output = parsed.output
    if not 0 <= parsed.threshold <= 1:
        raise UserError(f"--threshold {parsed.threshold}: expected a probability, 0 to 1")
    if output == STREAM:
        return
    if output.suffix not in SUFFIXES:
        raise UserError(f"{output}: cannot write files of type '{output.suffix}'; use .csv, .tsv or .jsonl")
    if output.resolve() == parsed.input.resolve():
        raise UserError(f"{output}: is the input as well; give another --output")
    if output.is_dir():
        raise UserError(f"{output}: is a directory; name a file in it as --output")
    if output.exists() and not parsed.force:
        raise UserError(f"{output}: already exists; give another --output, or --force to replace it")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no directory {output.parent}; make it, or see --output")


@contextlib.contextmanager
def _given(path: Path, text_field: str) -> Iterator[Path]:
    """The file of the input; what stdin holds becomes one: JSONL, CSV with the text's field in its header, or texts."""
    if path != STREAM:
        yield path
        return
    content = sys.stdin.buffer.read()
    with tempfile.TemporaryDirectory() as folder:
        text = content.decode(encoding_of(content), "replace").removeprefix("\ufeff").lstrip()
        suffix = ".jsonl" if text.startswith("{") else ".csv" if text_field in columns_of_csv(text)[1] else ".txt"
        file = Path(folder) / f"stdin{suffix}"
        file.write_bytes(content)
        try:
            yield file
        except UserError as error:
            raise UserError(str(error).replace(str(file), "stdin")) from None


def _tell_blank(path: Path, field: str, texts: list[str]) -> None:
    """Say how many texts are blank, which get no label.

    Raises:
        UserError: all are.
    """
    if not any(texts):
        raise UserError(f"{path}: '{field}' is empty in every row; fill it in, or see --text-field")
    if count := texts.count(""):
        _note(f"{counted(count, 'text')} empty, the first in row {texts.index('') + 1}: without a label")


def _note(*sentences: str) -> None:
    for sentence in sentences:
        print(f"note: {sentence}", file=sys.stderr)


def _columns(prediction: "Prediction | None") -> dict[str, Any]:
    """What the output adds to a row."""
    if prediction is None:
        return {"predicted_label": None, "probability": None}
    return {"predicted_label": prediction.label, "probability": round(prediction.probability, 4)}


def _check_free(path: Path, rows: list[dict[str, Any]], added: set[str]) -> None:
    if taken := sorted(added & {name for row in rows for name in row}):
        raise UserError(f"{path}: has a column '{taken[0]}', which the output adds; rename it")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with atomic_file(path) as partial:
            _write_rows(partial, rows, path.suffix)
    except OSError as error:
        raise cannot_write(path, error, "--output") from None


def _write_rows(path: Path, rows: list[dict[str, Any]], suffix: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            file.writelines(_lines(path, rows))
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, delimiter="," if suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerow({name: safe_cell(name) for name in columns})
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _lines(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of JSON."""
    where = "stdout" if path == STREAM else path
    return [strict_json.dumps(row, f"{where}, row {i}", ensure_ascii=False) + "\n" for i, row in enumerate(rows, 1)]


def _cell(value: Any) -> Any:
    """A list or an object, such as the turns of a dialogue, as JSON; what a spreadsheet would run, as a text."""
    return strict_json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else safe_cell(value)
