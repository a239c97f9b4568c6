"""``fewshot-jax evaluate RUN``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fewshot_jax.cli.arguments import parse, print_json
from fewshot_jax.cli.table import print_evaluation
from fewshot_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate the best checkpoint of a run on unseen classes, beside the floors.

    Attributes:
        run: run directory of 'fewshot-jax train'.
        episodes: test episodes; by default the config's.
        shots: an evaluation for each number of shots; by default the config's.
        quiet: print no progress.
        json: print JSON.
    """

    run: tyro.conf.Positional[Path]
    episodes: int | None = None
    shots: tuple[int, ...] | None = None
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "evaluate", arguments)
    if parsed.episodes is not None and parsed.episodes < 2:
        raise UserError(f"--episodes {parsed.episodes}: expected at least 2")
    if parsed.shots is not None and (not parsed.shots or min(parsed.shots) < 1):
        raise UserError(f"--shots {parsed.shots}: expected positive numbers")
    from fewshot_jax.training.evaluate import evaluate

    evaluation = evaluate(parsed.run, episodes=parsed.episodes, shots=parsed.shots, quiet=parsed.quiet)
    if parsed.json:
        print_json(evaluation.to_json())
    else:
        print_evaluation(evaluation)
