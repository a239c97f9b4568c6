"""``fewshot-jax evaluate RUN...``; with a config in the place of runs, see `holdout`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fewshot_jax.cli.arguments import parse, print_json, quietly
from fewshot_jax.config_file import differences
from fewshot_jax.errors import UserError

# Fields that may differ between runs judged on the same test episodes.
_FREE = (
    *("tokenizer.", "model.", "learner.", "inner.", "outer.", "baselines."),
    *(f"episodes.{name}" for name in ("ways", "shots", "queries", "min_", "token_", "ngram_")),
    *(f"evaluation.{name}" for name in ("every", "validation_", "at_end", "inner_steps", "tune_", "null_")),
)
_OF_CONFIGS = ("--folds", "--by", "--seeds", "--run-dir")  # what only the evaluation of a config takes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate the best checkpoint of a run on unseen classes, beside the baselines.

    Several runs go into one table if their test episodes are the same. With a config in their place, 'evaluate
    CONFIG --folds K --run-dir DIR' trains and tests on several divisions of its data; for its options see 'evaluate
    CONFIG --help'.

    Attributes:
        runs: run directories of 'fewshot-jax train'.
        episodes: test episodes; by default the config's.
        shots: an evaluation for each number of shots; by default the config's.
        compare: two runs: the difference of their scores, paired by episode, with a p-value.
        check_leakage: evaluate nothing, but say which names of classes and which texts test shares with training and
            with validation.
        quiet: print the result alone, no progress and no notes.
        json: print JSON.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    episodes: int | None = None
    shots: tuple[int, ...] | None = None
    compare: bool = False
    check_leakage: bool = False
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    if any(argument.endswith((".yaml", ".yml")) or argument.split("=")[0] in _OF_CONFIGS for argument in arguments):
        from fewshot_jax.cli.holdout import run as run_holdout

        return run_holdout(arguments)
    parsed = parse(Arguments, "evaluate", arguments)
    if parsed.episodes is not None and parsed.episodes < 2:
        raise UserError(f"--episodes {parsed.episodes}: expected at least 2")
    if parsed.shots is not None and (not parsed.shots or min(parsed.shots) < 1):
        raise UserError(f"--shots {parsed.shots}: expected positive numbers")
    if not parsed.runs:
        raise UserError("evaluate needs a run: fewshot-jax evaluate RUN")
    with quietly(parsed.quiet):
        if parsed.check_leakage:
            return _check_leakage(parsed)
        if parsed.compare:
            return _compare(parsed)
        return _evaluate(parsed)


def _compare(parsed: Arguments) -> None:
    if len(parsed.runs) != 2:
        raise UserError(f"--compare takes two runs, not {len(parsed.runs)}: fewshot-jax evaluate RUN OTHER --compare")
    one, other = (path.resolve() for path in parsed.runs)
    if one == other:
        raise UserError(f"--compare: {parsed.runs[0]} and {parsed.runs[1]} are one run; give two")
    from fewshot_jax.cli.generalisation_table import print_comparison
    from fewshot_jax.training.compare import compare

    _check_same_episodes(parsed.runs)
    result = compare(*parsed.runs, episodes=parsed.episodes, shots=parsed.shots, quiet=parsed.quiet)
    if parsed.json:
        print_json(result.to_json())
    else:
        print_comparison(result)


def _check_leakage(parsed: Arguments) -> None:
    from fewshot_jax.applications.table import build_application
    from fewshot_jax.cli.generalisation_table import print_leakage
    from fewshot_jax.evaluation.leakage import check_leakage, to_json
    from fewshot_jax.training.run_directory import RunDirectory

    found = {}
    for path in parsed.runs:
        run = RunDirectory(path)
        application = build_application(run.config(), path)
        run.check_data(application.fingerprint())
        found[path] = check_leakage(application)
    if parsed.json:
        rows = [{"run": str(path), **to_json(one)} for path, one in found.items()]
        print_json(rows[0] if len(rows) == 1 else rows)
    else:
        print_leakage(found)


def _evaluate(parsed: Arguments) -> None:
    from fewshot_jax.cli.table import print_evaluation
    from fewshot_jax.training.evaluate import evaluate

    _check_same_episodes(parsed.runs)
    evaluations = [
        evaluate(path, episodes=parsed.episodes, shots=parsed.shots, quiet=parsed.quiet) for path in parsed.runs
    ]
    if len({evaluation.run for evaluation in evaluations}) < len(evaluations):  # one name in several folders
        paths = [path.resolve() for path in parsed.runs]
        above = os.path.commonpath(paths)
        names = [os.path.relpath(path, above) for path in paths]
        evaluations = [one._replace(run=name) for one, name in zip(evaluations, names, strict=True)]
    if parsed.json:
        rows = [evaluation.to_json() for evaluation in evaluations]
        print_json(rows[0] if len(rows) == 1 else rows)
    else:
        print_evaluation(evaluations)


def _check_same_episodes(runs: Sequence[Path]) -> None:
    """Raise a UserError if runs in one table would be judged on different episodes."""
    from fewshot_jax.training.run_directory import RunDirectory

    first, *others = [(path, RunDirectory(path).config()) for path in runs]
    for path, config in others:
        changed = differences(first[1], config, ignore=_FREE)
        if changed:
            raise UserError(
                f"{path}: its test episodes are not those of {first[0]} ({'; '.join(changed)}); evaluate it alone"
            )
