"""The loop that takes trials of a study, one after the other, until there are enough."""

import contextlib
import math
import multiprocessing
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.table import score_of
from fewshot_jax.config import Config
from fewshot_jax.errors import Terminated, UserError, WriteError
from fewshot_jax.search.objective import TrialObjective, spent
from fewshot_jax.search.results import COMPLETE, trial_rows, write_trials
from fewshot_jax.search.samplers import Pruner, Sampler, pruner_of
from fewshot_jax.search.space import Space, with_values
from fewshot_jax.search.study_files import StudyFiles
from fewshot_jax.search.trials import ATTEMPTS, SECONDS, STEPS, WHY, Claim, next_trial, tell

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
    objective: TrialObjective
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
        rows = trial_rows(study, search.score)
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
    rows = trial_rows(study, search.score)
    row = rows[trial.number]
    values = ", ".join(f"{name} {short_value(one)}" for name, one in row.values.items())
    how = f"{search.score.name} {value:.4g}" if value is not None else f"{row.state}{f': {why}' if why else ''}"
    print(f"trial {trial.number}: {values}: {how} ({row.seconds:.0f} s)", file=sys.stderr, flush=True)
    left = search.trials - sum(row.state not in ("interrupted", "running", "waiting") for row in rows)
    complete = [row for row in rows if row.state == COMPLETE]
    if complete:
        best = study.best_trial
        print(f"  best: {best.value:.4g}, trial {best.number}; {left} to go", file=sys.stderr, flush=True)


def short_value(value: Any) -> str:
    """A value of a field, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
