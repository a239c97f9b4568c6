"""``fewshot-jax report RUN... --output DIR``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fewshot_jax.cli.arguments import parse, print_json, quietly
from fewshot_jax.data.names import counted
from fewshot_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Report on runs: one HTML file that needs nothing else, and its pictures beside it as PNG.

    What a run has not yet (an evaluation, a checkpoint, its data) becomes a sentence in the report.

    Attributes:
        runs: run directories of 'fewshot-jax train'; several are compared first.
        output: directory for report.html and the pictures, or a path that ends in .html.
        episodes: of each measurement that the report makes itself: inner steps, calibration; 0 for none.
        force: write over an earlier report.
        quiet: print the result alone, no progress and no notes.
        json: print the numbers behind the pictures as JSON.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path
    episodes: int = 60
    force: bool = False
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "report", arguments)
    if not parsed.runs:
        raise UserError("report needs a run: fewshot-jax report RUN --output DIR")
    from fewshot_jax.reporting.report import report

    with quietly(parsed.quiet):
        made = report(parsed.runs, parsed.output, episodes=parsed.episodes, force=parsed.force, quiet=parsed.quiet)
    if parsed.json:
        print_json(made.to_json())
    else:
        print(f"{made.page} and {counted(len(made.pictures), 'picture')} beside it")
