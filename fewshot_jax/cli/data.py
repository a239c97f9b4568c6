"""``fewshot-jax data ls|validate|preview``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from fewshot_jax.cli.arguments import print_json
from fewshot_jax.cli.parts import CommandParts, run_part
from fewshot_jax.config.applications import APPLICATION_RECORDS, columns_of_files
from fewshot_jax.config_file import nearest, read_config
from fewshot_jax.data.names import counted
from fewshot_jax.errors import UserError, require

if TYPE_CHECKING:
    from fewshot_jax.data.validate import FileFormat, FileReport

_SHOWN = 20  # problems, classes


@dataclass(frozen=True, kw_only=True)
class Ls:
    """List the applications with the columns that each reads, and the data sets that are at hand.

    Attributes:
        data_dir: where tensorflow-datasets keeps data sets; by default its own folder.
        json: print JSON.
    """

    data_dir: Path | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Read a file of examples as train and adapt do, and print what is in it and all that is wrong with it.

    The exit code is 2 if train and adapt could not use it.

    Attributes:
        file: CSV, TSV or JSONL, or SQuAD's JSON; any of them with .gz.
        application: by default that whose columns the file has.
        text_field: column or field of the text, of classification.
        label_field: column or field of the label, of classification.
        json: print JSON.
    """

    file: tyro.conf.Positional[Path]
    application: str | None = None
    text_field: str = "text"
    label_field: str = "label"
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Print the first examples of a file as they are read, or, of a config, one training episode.

    Attributes:
        source: a file of examples, or the YAML file of a config.
        rows: how many examples of a file.
        application: of a file; by default that whose columns it has.
        text_field: column or field of the text, of classification.
        label_field: column or field of the label, of classification.
        json: print JSON.
    """

    source: tyro.conf.Positional[Path]
    rows: int = 5
    application: str | None = None
    text_field: str = "text"
    label_field: str = "label"
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the part that the first argument names."""
    run_part("data", PARTS, arguments)


def _ls(arguments: Ls) -> None:
    from fewshot_jax.data.at_hand import applications, generated, prepared

    known = APPLICATION_RECORDS
    found = {"applications": applications(known), "generated": generated(known), "tfds": prepared(arguments.data_dir)}
    if arguments.json:
        print_json(found)
        return
    for title, rows in found.items():
        print(f"{title}:")
        for name, what in rows.items():
            print(f"  {name:22s} {what}")
        if not rows:
            print("  none prepared here")


def _validate(arguments: Validate) -> None:
    from fewshot_jax.data.validate import check_file

    name, fields = _application(arguments), {"text": arguments.text_field, "label": arguments.label_field}
    report = check_file(arguments.file, name, _format_of(name), **fields)
    if arguments.json:
        lengths = {name: one._asdict() for name, one in report.lengths.items()}
        print_json({**dataclasses.asdict(report), "lengths": lengths, "usable": report.usable})
    else:
        _print_report(report)
    if not report.usable:
        raise UserError(_verdict(report, shown=not arguments.json))


def _verdict(report: "FileReport", *, shown: bool) -> str:
    """One message: the only problem, or how many there are."""
    first, *others = report.problems
    if not others:
        return first
    listed = "see the list above" if shown else "see 'problems'"
    return f"{report.path}: {len(report.problems)} problems, {listed}; correct them, and validate again"


def _print_report(report: "FileReport") -> None:
    writes = not APPLICATION_RECORDS[report.application].labelled
    print(f"{report.path}: {report.application}, {report.encoding}")
    print(f"  {counted(report.rows, 'example')}, {counted(report.duplicates, 'exact duplicate')}, {report.empty} empty")
    if report.groups:
        ranked = list(report.groups.items())
        (most, many), (least, few) = ranked[0], ranked[-1]
        what = counted(len(ranked), "task") if writes else f"{len(ranked)} class{'es' if len(ranked) > 1 else ''}"
        print(f"  {what}: most examples '{most}' {many:,}, fewest '{least}' {few:,}")
    for name, one in report.lengths.items():
        print(f"  {name}: words and marks p50 {one.p50:,}, p95 {one.p95:,}, max {one.max:,}")
    for note in report.notes:
        print(f"  note: {note}")
    if len(report.problems) > 1:
        print("\n".join(f"  problem: {problem}" for problem in report.problems[:_SHOWN]))
        if len(report.problems) > _SHOWN:
            print(f"  ... and {len(report.problems) - _SHOWN} more; --json has all")
    if report.usable:
        print("  train and adapt can use it")


def _preview(arguments: Preview) -> None:
    if arguments.rows < 1:
        raise UserError(f"--rows {arguments.rows}: expected at least 1")
    if arguments.source.suffix in (".yaml", ".yml"):
        from fewshot_jax.applications.preview import training_episode

        rows: list[dict[str, Any]] = [one._asdict() for one in training_episode(read_config(arguments.source))]
    else:
        problems: list[UserError] = []
        path, file_format = arguments.source.expanduser(), _format_of(_application(arguments))
        items = file_format.read(path, arguments.text_field, arguments.label_field, problems)
        if problems:
            more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
            if not items:
                raise UserError(f"{problems[0]}{more}")
            print(f"note: {problems[0]}{more}; 'fewshot-jax data validate' tells all", file=sys.stderr)
        rows = [{**item.texts, file_format.group: item.group} for item in items[: arguments.rows]]
    if arguments.json:
        print_json(rows)
    else:
        _print_rows(rows)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    # A pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _application(arguments: Validate | Preview) -> str:
    """The application that is asked for, or else that of the file's columns."""
    from fewshot_jax.data.detect import detect_application

    path = arguments.file if isinstance(arguments, Validate) else arguments.source
    if arguments.application is None:
        fields = {"text": arguments.text_field, "label": arguments.label_field}
        return detect_application(path, APPLICATION_RECORDS, **fields, flag="--application")
    known = columns_of_files()
    require(
        arguments.application in known,
        f"--application {arguments.application}: {nearest(arguments.application, known)}",
    )
    return arguments.application


def _format_of(application: str) -> "FileFormat":
    """How an application reads a file of its examples."""
    from fewshot_jax.applications.table import APPLICATIONS

    return APPLICATIONS[application].file_format


# The parts of the command: their arguments and what they do.
PARTS: CommandParts = {"ls": (Ls, _ls), "validate": (Validate, _validate), "preview": (Preview, _preview)}
