"""``fewshot-jax train CONFIG --run-dir RUN``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fewshot_jax.cli.arguments import ProcessArguments, parse_run, print_json, quietly, resumable
from fewshot_jax.config import Config


@dataclass(frozen=True, kw_only=True)
class Arguments(ProcessArguments):
    """Meta-train from a config, then evaluate on unseen classes beside the baselines.

    On an existing run directory of the same config, the run goes on where it stopped.

    Attributes:
        config: YAML file; any of its fields can be overridden, as in --inner.steps 3.
        run_dir: directory for the config, checkpoints, metrics and pictures of the run.
        quiet: print the result alone, no progress and no notes.
        wandb: project on Weights & Biases that gets the metrics too (needs the package wandb).
        json: print the evaluation as JSON.
        settings: the fields of the config.
    """

    config: tyro.conf.Positional[Path]
    run_dir: Path
    quiet: bool = False
    wandb: str | None = None
    json: bool = False
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse_run(Arguments, "train", arguments)
    from fewshot_jax.parallel.processes import is_first
    from fewshot_jax.training.loop import train

    parsed.join()
    with resumable(), quietly(parsed.quiet):
        evaluation = train(parsed.settings, parsed.run_dir, quiet=parsed.quiet, wandb=parsed.wandb)
    if evaluation is None or not is_first():
        return
    if parsed.json:
        print_json(evaluation.to_json())
    else:
        from fewshot_jax.cli.table import print_evaluation

        print_evaluation([evaluation])
