"""Meta-training: from a config to a trained run; the loop itself is in `runs.fit`."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.applications.classification import JOINT
from fewshot_jax.applications.table import build_application
from fewshot_jax.config import BaselineConfig, Config, InnerConfig, LearnerConfig
from fewshot_jax.config_file import from_dict, read_config, to_dict
from fewshot_jax.data.loader import prefetch
from fewshot_jax.evaluation.leakage import warn_of_leakage
from fewshot_jax.parallel.mesh import TASK, batch_shards, local_copy
from fewshot_jax.parallel.processes import check_agreement, first_alone, gather_json, is_first
from fewshot_jax.runs.fit import Fit, even_mesh, fit
from fewshot_jax.runs.interruption import held
from fewshot_jax.runs.learning_curve import learning_curve
from fewshot_jax.runs.optimizer import learning_rate
from fewshot_jax.runs.weights_and_biases import check_installed
from fewshot_jax.training.evaluate import evaluate_experiment
from fewshot_jax.training.experiment import Experiment, meta_gradient
from fewshot_jax.training.optimizer import outer_optimizer
from fewshot_jax.training.plan import planned
from fewshot_jax.training.results import Evaluation
from fewshot_jax.training.run_directory import RunDirectory, resolve
from fewshot_jax.versions import versions

ReportScore = Callable[[int, float], None]  # (step, validation score)


def train(
    config: Config | str | Path,
    run_dir: str | Path,
    *,
    quiet: bool = False,
    report: ReportScore | None = None,
    wandb: str | None = None,
) -> Evaluation | None:
    """Meta-train; on an existing run directory of the same config, go on with it.

    Args:
        config: a `Config`, or the path of a YAML file.
        run_dir: where the run's files go; see `run_directory`.
        quiet: no progress.
        report: ``(step, score)``, told of each validation of the learner; what it raises ends the run.
        wandb: project on Weights & Biases that gets the metrics of the learner too; None for none.

    Returns:
        The evaluation on the test classes, or None without ``evaluation.at_end``.

    Raises:
        UserError: the data cannot be used, the directory cannot be written, or
            the loss stopped being finite, or another process trains in the
            directory; the message names place and remedy.
        Terminated: the process was told to end (SIGTERM), and a checkpoint is saved.
    """
    if wandb is not None:
        check_installed(wandb)
    config = resolve(config if isinstance(config, Config) else read_config(config))
    run = RunDirectory(run_dir)
    with held(run, config):
        return _train_and_evaluate(config, run, Reporting(quiet or not is_first(), report, wandb))


class Reporting(NamedTuple):
    """Where the progress of a training is reported.

    Attributes:
        quiet: no progress and no notes.
        report: ``(step, score)``, called at each validation; None for no call.
        wandb: project on Weights & Biases; None for none.
    """

    quiet: bool = False
    report: ReportScore | None = None
    wandb: str | None = None


def _train_and_evaluate(config: Config, run: RunDirectory, reporting: Reporting) -> Evaluation | None:
    quiet = reporting.quiet
    if config.learner.plan and run.resumable():
        config = dataclasses.replace(config, learner=run.config().learner)
    beside = config.baselines.multi_task and config.evaluation.at_end and config.learner.name != "multi_task"
    if beside:
        run.multi_task().check_startable(multi_task_of(config))
    resumable, finished = run.resumable(), run.result() is not None
    experiment = Experiment(build_application(config, run.path if resumable else None))
    application = experiment.application
    fingerprint = application.fingerprint()
    check_agreement({"resumable": resumable, "finished": finished, **fingerprint}, "run directories or data")
    if resumable:
        run.check_data(fingerprint)
    if not (resumable or quiet):
        for note in application.notes:
            print(f"note: {note}", file=sys.stderr)
        warn_of_leakage(application)
    if not (resumable and finished):
        experiment.check()
        if beside:
            experiment.with_config(multi_task_of(config)).check()
        if config.learner.plan and not resumable:
            chosen = planned(experiment, quiet=quiet)  # by times, which differ between processes
            experiment = experiment.with_config(from_dict(gather_json(to_dict(chosen))[0]))
    _train(experiment, fingerprint, run, reporting)
    if beside:
        if not quiet:
            print("the multi-task baseline, trained on as many items:", file=sys.stderr)
        baseline = experiment.with_config(multi_task_of(experiment.config))
        _train(baseline, fingerprint, run.multi_task(), Reporting(quiet))
    if not config.evaluation.at_end:
        return None
    stored = run.update(experiment.config)
    return evaluate_experiment(
        experiment if stored == experiment.config else experiment.with_config(stored), run, quiet=quiet
    )


def multi_task_of(config: Config) -> Config:
    """The config of the multi-task baseline of a run.

    Token remapping is off, because a classifier of all classes needs fixed words; there is no evaluation at the end.
    What the run freezes is frozen here too. Its validation fine-tunes as the table does: Adam, with a middle rate and
    the most steps.
    """
    baselines = config.baselines
    middle = sorted(baselines.rates)[len(baselines.rates) // 2]
    trained = config.outer.params and f"{config.outer.params}|^{JOINT}"
    return dataclasses.replace(
        config,
        outer=dataclasses.replace(config.outer, params=trained),
        learner=LearnerConfig(name="multi_task", task_chunk=config.learner.task_chunk),
        episodes=dataclasses.replace(config.episodes, token_remap=0.0),
        inner=InnerConfig(optimizer="adam", rate=middle, steps=baselines.steps),
        evaluation=dataclasses.replace(config.evaluation, at_end=False, inner_steps=(), tune_rates=()),
        baselines=BaselineConfig(fine_tuning=False, multi_task=False),
    )


def _train(experiment: Experiment, fingerprint: dict[str, str], run: RunDirectory, reporting: Reporting) -> None:
    """Start a run on data of a fingerprint, or go on with it, where it is not finished."""
    application = experiment.application
    if not run.resumable():
        with first_alone() as here:
            if here:
                run.start(application, fingerprint)
    elif run.result() is not None:
        if not reporting.quiet:
            print(f"{run.path}: the training of this run is finished", file=sys.stderr)
        return
    result = fit(_job(experiment, reporting), run, quiet=reporting.quiet, wandb=reporting.wandb)
    if is_first():
        score = experiment.score
        learning_curve(run.metrics, run.learning_curve, name=score.name, metric=score.metric, percent=score.percent)
    run.write("result.json", result)


def _job(experiment: Experiment, reporting: Reporting) -> Fit:
    """Describe the training of an experiment to `fit`."""
    application, config, score = experiment.application, experiment.config, experiment.score
    steps, tasks, report = config.outer.steps, config.outer.tasks, reporting.report
    mesh = even_mesh(tasks, "outer.tasks", config.parallel, quiet=reporting.quiet)
    divides = mesh.size > mesh.shape[TASK]  # weights: then no device has all of them, in validation either
    stream = application.training_stream()
    experiment.open_validation()
    return Fit(
        state=experiment.initial_state,
        grad=meta_gradient(experiment.training.learner, batch_shards(mesh)),
        optimizer=outer_optimizer(config.outer),
        batches=lambda wanted: prefetch(lambda step: stream(step, tasks), wanted),
        mesh=mesh,
        parallel=config.parallel,
        recovery=config.recovery,
        steps=steps,
        every=config.evaluation.every,
        rates=np.asarray(learning_rate(config.outer)(np.arange(steps))),
        validate=lambda params: {score.metric: experiment.validate(params if divides else local_copy(params))},
        criterion=score,
        record={
            "config": to_dict(config),
            "labels": application.labels(),
            **application.record(),
            "versions": versions(),
        },
        cause=_not_finite,
        remedy="Lower inner.rate or outer.rate, or check the data, and start again in another --run-dir",
        items=tasks,
        unit="tasks",
        title="meta-training",
        timing=lambda speed, rate: {"tasks_per_second": rate, "input_share": speed and speed.input_share},
        report=None if report is None else lambda step, scores: report(step, scores[score.metric]),
    )


def _not_finite(metrics: dict[str, Any]) -> str:
    """Say where a loss or gradient is not finite."""
    tasks = np.flatnonzero(~np.isfinite(metrics["task_loss"])).tolist()
    where = f"the loss of tasks {tasks}" if tasks else "the meta-gradient"
    if "support_loss" in metrics:
        bad = np.argwhere(~np.isfinite(metrics["support_loss"]))
        if bad.size:
            task, inner = bad[0].tolist()
            where += f" (first at inner step {inner} of task {task})"
    return f"{where} is not finite"
