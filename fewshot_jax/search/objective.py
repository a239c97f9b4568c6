"""What a study asks of each trial: a training run, judged by its validation score."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fewshot_jax.applications.table import score_of
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError
from fewshot_jax.runs.directory import RunFiles
from fewshot_jax.runs.metrics import read_metrics
from fewshot_jax.training.loop import ReportScore
from fewshot_jax.training.run_directory import RunDirectory

# ``(config, run directory, report) -> score``; ``report(step, score)`` ends a hopeless trial by an exception.
TrialObjective = Callable[[Config, Path, ReportScore], float]


class Spent(NamedTuple):
    """Attributes: ``steps``, and ``seconds`` of training and validation, over all attempts."""

    steps: int
    seconds: float


def spent(run_dir: Path) -> Spent | None:
    """What a run has taken; None where it has not begun, or is no training run."""
    rows = read_metrics(RunFiles(run_dir).metrics)
    if not rows:
        return None
    return Spent(max(row["step"] for row in rows), max(row.get("seconds") or 0.0 for row in rows))


def train_trial(config: Config, run_dir: Path, report: ReportScore) -> float:
    """Train, or go on, without a look at the test classes, and without the baselines beside.

    Args:
        config: of the trial.
        run_dir: of its run.
        report: told of each validation, those before a resume included.

    Returns:
        The validation score of the best checkpoint.

    Raises:
        UserError: the run cannot start, or the loss or its validation stopped being finite.
    """
    import jax

    from fewshot_jax.training.loop import train

    score, run = score_of(config), RunDirectory(run_dir)
    if run_dir.exists() and not run.exists():  # cut off before there was a run
        shutil.rmtree(run_dir)
    if run.resumable():
        for row in read_metrics(run.metrics):
            if row.get(score.metric) is not None:
                report(int(row["step"]), float(row[score.metric]))
    try:
        train(
            dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, at_end=False)),
            run_dir,
            quiet=True,
            report=report,
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"{run_dir}: out of memory; lower learner.task_chunk, or the sizes") from error
    finally:
        jax.clear_caches()  # no other trial has use for its programs
    value = (run.result() or {}).get(score.metric)
    if value is None or not math.isfinite(value):
        raise UserError(f"{run_dir}: the {score.name} of no validation is finite")
    return float(value)
