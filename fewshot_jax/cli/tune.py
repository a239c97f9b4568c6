"""``fewshot-jax tune CONFIG --space SPACE --study DIR`` and ``fewshot-jax tune RUN --inner``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewshot_jax.cli.arguments import parse, parse_run, print_json, quietly, resumable
from fewshot_jax.config import Config
from fewshot_jax.data.names import counted
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from fewshot_jax.search.inner_grid import InnerGrid
    from fewshot_jax.search.results import StudyResult

_SHOWN = 10  # trials


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Search hyperparameters of a config by the validation score of training runs.

    On an existing study of the same config and space, it goes on; the same command in several terminals shares the
    trials. 'fewshot-jax tune RUN --inner' judges a trained run at other inner rates and steps instead; see its --help.

    Attributes:
        config: YAML file; any of its fields can be overridden, as in --outer.steps 300.
        space: YAML file of the fields to try, such as configs/tune/maml.yaml.
        study: directory of the study.
        sampler: how values are chosen; gp needs the package torch.
        trials: of the study in all.
        pruner: how hopeless trials are recognised, which end early.
        workers: processes of this command.
        evaluate: evaluate the best trial on the test tasks.
        quiet: print the result alone, no progress and no notes.
        json: print JSON.
        settings: the fields of the config.
    """

    config: tyro.conf.Positional[Path]
    space: Path
    study: Path
    sampler: Literal["tpe", "gp", "random", "grid"] = "tpe"
    trials: int = 20
    pruner: Literal["median", "hyperband", "none"] = "median"
    workers: int = 1
    evaluate: bool = False
    quiet: bool = False
    json: bool = False
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


@dataclass(frozen=True, kw_only=True)
class InnerArguments:
    """Judge a trained run on validation tasks at each inner rate and number of steps of a grid, and at its own.

    Attributes:
        run: run directory of 'fewshot-jax train'.
        rates: to try, or, where the learner learned rates, multiples of those; by default an eighth to eight times
            the run's own.
        steps: numbers of steps to try; by default 1, 2, 4, 8 and the run's own.
        shots: the scores are means over these numbers; by default those of the run's validation.
        episodes: at each number of shots; by default as many as the run's validation has.
        grid_chunk: points of the grid at once: memory grows with it.
        json: print JSON.
    """

    run: tyro.conf.Positional[Path]
    rates: tuple[float, ...] | None = None
    steps: tuple[int, ...] | None = None
    shots: tuple[int, ...] | None = None
    episodes: int | None = None
    grid_chunk: int = 8
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    if "--inner" in arguments:
        return _inner([argument for argument in arguments if argument != "--inner"])
    if arguments and Path(arguments[0]).is_dir():
        raise UserError(
            f"{arguments[0]}: is a directory; 'fewshot-jax tune RUN --inner' tunes the inner loop of a run, and "
            "'fewshot-jax tune CONFIG --space SPACE --study DIR' makes a study"
        )
    parsed = parse_run(Arguments, "tune", _config_first(arguments))
    from fewshot_jax.search.space import read_space
    from fewshot_jax.search.study import tune
    from fewshot_jax.training.run_directory import resolve

    config = resolve(parsed.settings)
    space = read_space(parsed.space, config)
    with resumable(), quietly(parsed.quiet):
        result = tune(
            config,
            space,
            parsed.study,
            trials=parsed.trials,
            sampler=parsed.sampler,
            pruner=parsed.pruner,
            workers=parsed.workers,
            evaluate=parsed.evaluate,
            quiet=parsed.quiet,
        )
    if parsed.json:
        print_json(result.to_json())
    else:
        _print_study(result)
    return None


def _inner(arguments: Sequence[str]) -> None:
    """Tune the inner loop of a run."""
    parsed = parse(InnerArguments, "tune --inner", arguments)
    from fewshot_jax.search.inner_grid import tune_inner

    found = tune_inner(
        parsed.run,
        rates=parsed.rates,
        steps=parsed.steps,
        shots=parsed.shots,
        episodes=parsed.episodes,
        grid_chunk=parsed.grid_chunk,
    )
    if parsed.json:
        print_json(found.to_json())
    else:
        _print_grid(found)


def _config_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the flag of the space last, whose file could be taken for the config."""
    arguments = list(arguments)
    at = arguments.index("--space") if "--space" in arguments else len(arguments)
    space, others = arguments[at : at + 2], [*arguments[:at], *arguments[at + 2 :]]
    if not any(one in ("-h", "--help") or one.endswith((".yaml", ".yml")) for one in others) and (
        not others or others[0].startswith("-")
    ):
        raise UserError("tune needs a config: fewshot-jax tune CONFIG --space SPACE --study DIR (see configs/tune/)")
    return [*others, *space]


def _print_study(result: "StudyResult") -> None:
    """Print the best trials, and where the files are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fewshot_jax.search.trial_loop import short_value

    score, ranked, console = result.score, result.ranked(), Console(width=120, soft_wrap=True)
    fields = list(result.trials[0].values) if result.trials else []
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("trial", justify="right")
    for name in fields:
        table.add_column(name, justify="right", overflow="fold")
    for name in (f"{score.name}{' (%)' if score.percent else ''}", "steps", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in ranked[:_SHOWN]:
        values = [short_value(row.values.get(name)) for name in fields]
        table.add_row(str(row.number), *values, _score(row.score, score), str(row.steps), f"{row.seconds:.0f}")
    console.print(table)
    states = [row.state for row in result.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    console.print(
        f"{counted(len(ranked), 'complete trial')}, the best first{'' if len(ranked) <= _SHOWN else f' {_SHOWN}'}; "
        f"scores of validation tasks, {'more' if score.larger_is_better else 'less'} is better\nall trials: {counts}",
        highlight=False,
    )
    for name, share in sorted(result.importance.items(), key=lambda item: -item[1]):
        console.print(f"  {name} explains {100 * share:.0f}% of the variance of the score", highlight=False)
    if result.best is not None:
        console.print(
            f"{result.directory}: trials.csv, best.yaml, history.png{', importance.png' if result.importance else ''}\n"
            f"the best, trial {result.best.number}, is the run {result.directory / 'trials' / result.best.run}",
            highlight=False,
        )
    if result.evaluation is not None:
        from fewshot_jax.cli.table import print_evaluation

        print_evaluation([result.evaluation])


def _print_grid(found: "InnerGrid") -> None:
    """Print the grid, its best point, and the run's own."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console, score = Console(width=120, soft_wrap=True), found.score
    rate, steps, best = found.best
    unit = " times the learned rates" if found.learned else ""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{score.name}{' (%)' if score.percent else ''}: rate{unit}", justify="right")
    for number in found.steps:
        table.add_column(counted(number, "step"), justify="right", no_wrap=True)
    for one, row in zip(found.rates, found.scores, strict=True):
        cells = [
            f"{'* ' if (one, n) == (rate, steps) else ''}{_score(v, score)}"
            for n, v in zip(found.steps, row, strict=True)
        ]
        table.add_row(f"{one:.4g}", *cells)
    console.print(table)
    shots = ", ".join(map(str, found.shots))
    difference = "-" if found.difference is None else found.difference.text(percent=score.percent, sign=True)
    console.print(
        f"* the best: rate {rate:.4g}{unit}, {counted(steps, 'step')}, {_score(best, score)}; the run's own: rate "
        f"{found.own[0]:.4g}{unit}, {counted(found.own[1], 'step')}, {_score(found.own_score, score)}\n"
        f"the best minus the run's own, paired over the episodes, with its 95% interval: {difference}\n"
        "this is optimistic: the best was chosen on these episodes\n"
        f"{found.episodes} validation episodes at each number of shots ({shots})",
        highlight=False,
    )


def _score(value: Any, score: Any) -> str:
    """A score as tables show it."""
    if value is None or value != value:
        return "-"
    return f"{100 * value:.1f}" if score.percent else f"{value:.4g}"
