"""A study: trials of a config's fields, each a training run, until there are enough."""

import contextlib
import math
import multiprocessing
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.table import score_of
from fewshot_jax.atomic_write import full_disk
from fewshot_jax.config import Config
from fewshot_jax.config_file import read_config, write_config
from fewshot_jax.errors import Terminated, UserError, WriteError, require
from fewshot_jax.search.objective import Objective, spent, train_trial
from fewshot_jax.search.results import COMPLETE, StudyResult, importance_of, rows_of, write_trials
from fewshot_jax.search.samplers import Pruner, Sampler, check_sampler, pruner_of
from fewshot_jax.search.space import Space, parse_space, read_space, with_values
from fewshot_jax.search.study_files import StudyFiles
from fewshot_jax.search.trials import ATTEMPTS, SECONDS, STEPS, WHY, Claim, next_trial, tell
from fewshot_jax.training.run_directory import resolve

if TYPE_CHECKING:
    import optuna

_FAILURES = 3  # at the start of a study, after which the fault is not the values'


class Search(NamedTuple):
    """What all processes of a study know; it can be pickled if the objective can.

    Attributes:
        config, space: of the study.
        directory: of its files.
        trials: of the study, at most.
        sampler, pruner: by name.
        objective: what a trial is.
        quiet: no progress.
    """

    config: Config
    space: Space
    directory: Path
    trials: int
    sampler: Sampler
    pruner: Pruner
    objective: Objective
    quiet: bool

    @property
    def score(self) -> Score:
        return score_of(self.config)

    def study(self) -> "optuna.Study":
        """As it stands in the journal."""
        study = StudyFiles(self.directory).study(larger_is_better=self.score.larger_is_better)
        steps = self.config.outer.steps
        study.pruner = pruner_of(self.pruner, first=self.config.evaluation.every, last=steps)
        return study


def tune(
    config: Config | str | Path,
    space: Space | Mapping[str, Any] | str | Path,
    directory: str | Path,
    *,
    trials: int = 20,
    sampler: Sampler = "tpe",
    pruner: Pruner = "median",
    workers: int = 1,
    evaluate: bool = False,
    quiet: bool = False,
    objective: Objective = train_trial,
) -> StudyResult:
    """Search hyperparameters by the validation score of training runs; the test classes are not looked at.

    On the directory of a study of the same config and space it goes on with it. The same call in several processes,
    also on several machines that share the directory, shares the trials.

    Args:
        config: a `Config`, or the path of a YAML file.
        space: what is tried: a `Space`, a mapping of the same form as its file, or the path of a YAML file.
        directory: of the study; see `study_files`.
        trials: of the study in all; fewer where a grid has fewer points.
        sampler: "tpe", "gp" (needs torch), "random" or "grid".
        pruner: of trials whose validation scores are hopeless: "median", "hyperband" or "none".
        workers: processes of this call; with more than one, the caller's module must be safe to import.
        evaluate: then evaluate the best trial on the test tasks, once.
        quiet: no progress.
        objective: ``(config, run directory, report) -> score``, in the place of a training run.

    Returns:
        The `StudyResult`, which is also written to ``trials.csv``, ``best.yaml``, ``history.png``, ``importance.png``.

    Raises:
        UserError: config, space or directory cannot be used, or no trial ended well; the message names the place.
        Terminated: the process was told to end (SIGTERM); the same call goes on.

    References:
        Akiba, Sano, Yanase, Ohta, Koyama. Optuna: A Next-generation Hyperparameter Optimization Framework. KDD 2019.
    """
    config = resolve(config if isinstance(config, Config) else read_config(config))
    if isinstance(space, str | Path):
        space = read_space(space, config)
    elif not isinstance(space, Space):
        space = parse_space(space, config)
    for name, value in (("trials", trials), ("workers", workers)):
        require(value >= 1, f"--{name} {value}: expected at least 1")
    points = check_sampler(sampler, space)
    files = StudyFiles(directory)
    most = trials if points is None else min(trials, points)
    search = Search(config, space, files.path, most, sampler, pruner, objective, quiet)
    with full_disk(files.path, "--study"):
        files.start(config, space)
        _check_kept(search, "grid" if sampler == "grid" else "free")
        if workers == 1:
            work(search)
        else:
            from fewshot_jax.search.workers import work_together

            work_together(search, workers)
        return _finished(search, evaluate=evaluate)


def _check_kept(search: Search, kind: str) -> None:
    """Refuse to mix the points of a grid with others: nobody could say when the grid is done."""
    study = search.study()
    with StudyFiles(search.directory).alone():
        kept = study.user_attrs.get("kind")
        if kept is None:
            study.set_user_attr("kind", kind)
        elif kept != kind:
            what = "no grid" if kind == "grid" else "a grid"
            raise UserError(f"{search.directory}: holds a study of {what}; give another --study, or its --sampler")


def work(search: Search) -> None:
    """Take trials until there are enough.

    Raises:
        UserError: the first trials of the study all failed.
        Terminated: the process was told to end.
    """
    study, files, failed = search.study(), StudyFiles(search.directory), 0
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        claim = next_trial(
            study,
            files,
            search.space,
            sampler=search.sampler,
            seed=search.config.seed,
            most=search.trials,
        )
        if claim is None:
            return
        try:
            why = _run(search, study, claim)
        except (KeyboardInterrupt, Terminated, WriteError):
            with contextlib.suppress(OSError):
                claim.trial.set_user_attr(ATTEMPTS, 0)  # it is not what ended the process
            raise
        finally:
            claim.held.release()
        rows = rows_of(study, search.score)
        with files.alone():
            write_trials(rows, list(search.space.fields), search.score, search.directory / "trials.csv")
        failed = failed + 1 if why else 0
        if failed == _FAILURES and not any(row.state in (COMPLETE, "pruned") for row in rows):
            raise UserError(f"{search.directory}: the first {failed} trials failed, the last because: {why}")


def _run(search: Search, study: "optuna.Study", claim: Claim) -> str:
    """Run a trial and tell the study; returns why it failed, or ""."""
    import optuna

    trial, began = claim.trial, time.monotonic()
    run_dir = StudyFiles(search.directory).run(claim.run)
    reported: dict[int, float] = {}

    def report(step: int, value: float) -> None:
        if step not in reported:
            reported[step] = value
            trial.report(value, step)
        if step < search.config.outer.steps and search.pruner != "none" and trial.should_prune():
            raise optuna.TrialPruned

    value, why = None, ""
    try:
        config = with_values(search.config, trial.params)
        value = search.objective(config, run_dir, report)
        if not math.isfinite(value):
            value, why = None, f"its score is {value}"
    except optuna.TrialPruned:
        pass
    except WriteError:
        raise
    except UserError as error:
        why = str(error)
    taken = spent(run_dir)
    trial.set_user_attr(STEPS, taken.steps if taken else max(reported, default=0))
    trial.set_user_attr(SECONDS, taken.seconds if taken else time.monotonic() - began)
    if why:
        trial.set_user_attr(WHY, why)
    tell(study, claim, value)
    if not search.quiet:
        _print(search, study, trial, value, why)
    return why


def _print(search: Search, study: "optuna.Study", trial: "optuna.Trial", value: float | None, why: str) -> None:
    """Say how a trial ended, and what is the best so far."""
    rows = rows_of(study, search.score)
    row = rows[trial.number]
    values = ", ".join(f"{name} {shown(one)}" for name, one in row.values.items())
    how = f"{search.score.name} {value:.4g}" if value is not None else f"{row.state}{f': {why}' if why else ''}"
    print(f"trial {trial.number}: {values}: {how} ({row.seconds:.0f} s)", file=sys.stderr, flush=True)
    left = search.trials - sum(row.state not in ("interrupted", "running", "waiting") for row in rows)
    complete = [row for row in rows if row.state == COMPLETE]
    if complete:
        best = study.best_trial
        print(f"  best: {best.value:.4g}, trial {best.number}; {left} to go", file=sys.stderr, flush=True)


def shown(value: Any) -> str:
    """A value of a field, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finished(search: Search, *, evaluate: bool) -> StudyResult:
    """Write what the study found; evaluate the best trial, if asked."""
    from fewshot_jax.search import pictures

    study, files = search.study(), StudyFiles(search.directory)
    rows, score = rows_of(study, search.score), search.score
    complete = any(row.state == COMPLETE for row in rows)
    best = rows[study.best_trial.number] if complete else None
    if best is None and not any(row.state == "running" for row in rows):
        why = next((f"; the last failed because: {row.why}" for row in reversed(rows) if row.why), "")
        raise UserError(f"{search.directory}: none of {len(rows)} trials ended with a score{why}")
    config = None if best is None else with_values(search.config, best.values)
    shares = importance_of(study, search.config.seed)
    with files.alone():
        write_trials(rows, list(search.space.fields), score, search.directory / "trials.csv")
        if config is not None:
            write_config(config, search.directory / "best.yaml")
        pictures.history(rows, score, search.directory / "history.png")
        if shares:
            pictures.importance(shares, search.directory / "importance.png")
    evaluation = None
    if evaluate and best is not None:
        from fewshot_jax.training.evaluate import evaluate as evaluate_run

        evaluation = evaluate_run(files.run(best.run), quiet=search.quiet)
    return StudyResult(search.directory, score, rows, best, config, shares, evaluation)
