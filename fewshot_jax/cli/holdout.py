"""``fewshot-jax evaluate CONFIG --folds K --run-dir DIR``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fewshot_jax.cli.arguments import parse_run, print_json, quietly, resumable
from fewshot_jax.config import Config


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train and test on several divisions of the data, and report the scores over them.

    One run for each fold and seed goes into a directory below --run-dir; the same command goes on where it stopped.
    Intervals are by a hierarchical bootstrap over folds (or else seeds) and episodes from five of them on, and over
    episodes alone below that.

    Attributes:
        config: YAML file; any of its fields can be overridden, as in --inner.steps 3.
        run_dir: directory of the runs.
        folds: parts of the data; each of them is tested once for each seed, and they are the same for all seeds
            (data.split_seed). Without it the test split is a share of the data (data.fractions), another one for each
            seed.
        by: what is held out: classes; domains (groups, or tasks); or files, which are the data sets of data.sets. By
            default what the config divides (data.split_by).
        seeds: of training and episodes, and without --folds of the division; by default the config's.
        quiet: print the result alone, no progress and no notes.
        json: print JSON.
        settings: the fields of the config.
    """

    config: tyro.conf.Positional[Path]
    run_dir: Path
    folds: int | None = None
    by: Literal["class", "domain", "file"] | None = None
    seeds: tuple[int, ...] = ()
    quiet: bool = False
    json: bool = False
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse_run(Arguments, "evaluate", arguments)
    from fewshot_jax.training.generalisation import generalisation
    from fewshot_jax.training.holdout import parts_of

    parts = parts_of(parsed.settings, by=parsed.by, folds=parsed.folds, seeds=parsed.seeds)
    with resumable(), quietly(parsed.quiet):
        result = generalisation(parts, parsed.run_dir, quiet=parsed.quiet)
    if parsed.json:
        print_json(result.to_json())
    else:
        from fewshot_jax.cli.generalisation_table import print_generalisation

        print_generalisation(result)
