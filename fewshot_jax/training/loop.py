"""Meta-training: from a config to a trained run; the loop itself is in `fit`."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fewshot_jax.applications.application import Application
from fewshot_jax.applications.classification import JOINT
from fewshot_jax.applications.table import build_application
from fewshot_jax.config import BaselineConfig, Config, InnerConfig, LearnerConfig
from fewshot_jax.config_file import from_dict, read_config, to_dict
from fewshot_jax.data.loader import prefetch
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes
from fewshot_jax.evaluation.leakage import warn_of_leakage
from fewshot_jax.parallel.mesh import TASK, batch_shards, local_copy
from fewshot_jax.parallel.processes import check_agreement, first_alone, gather_json, is_first
from fewshot_jax.planning.plan import planned
from fewshot_jax.runs.fit import Fit, even_mesh, fit
from fewshot_jax.runs.interruption import held
from fewshot_jax.runs.learning_curve import learning_curve
from fewshot_jax.runs.state import initial_state, learning_rate, outer_optimizer, run_keys
from fewshot_jax.runs.step import guarded_step, meta_gradient
from fewshot_jax.runs.weights_and_biases import check_installed
from fewshot_jax.training.evaluate import evaluate_application
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.results import Evaluation
from fewshot_jax.training.run_directory import RunDirectory, resolve
from fewshot_jax.types import MetaParams
from fewshot_jax.versions import versions

Report = Callable[[int, float], None]  # (step, validation score)


def train(
    config: Config | str | Path,
    run_dir: str | Path,
    *,
    quiet: bool = False,
    report: Report | None = None,
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
        return _train_and_evaluate(config, run, quiet or not is_first(), report, wandb)


def _train_and_evaluate(
    config: Config, run: RunDirectory, quiet: bool, report: Report | None = None, wandb: str | None = None
) -> Evaluation | None:
    if config.learner.plan and run.resumable():
        config = dataclasses.replace(config, learner=run.config().learner)
    beside = config.baselines.multi_task and config.evaluation.at_end and config.learner.name != "multi_task"
    if beside:
        run.multi_task().check_startable(multi_task_of(config))
    resumable, finished = run.resumable(), run.result() is not None
    application = build_application(config, run.path if resumable else None)
    fingerprint = application.fingerprint()
    check_agreement({"resumable": resumable, "finished": finished, **fingerprint}, "run directories or data")
    if resumable:
        run.check_data(fingerprint)
    if not (resumable or quiet):
        for note in application.notes:
            print(f"note: {note}", file=sys.stderr)
        warn_of_leakage(application)
    if not (resumable and finished):
        _check_traceable(application)
        if beside:
            _check_traceable(application.with_config(multi_task_of(config)))
        if config.learner.plan and not resumable:
            chosen = planned(application, quiet=quiet)  # by times, which differ between processes
            application = application.with_config(from_dict(gather_json(to_dict(chosen))[0]))
    _train(application, fingerprint, run, quiet, report, wandb)
    if beside:
        if not quiet:
            print("the multi-task baseline, trained on as many items:", file=sys.stderr)
        _train(application.with_config(multi_task_of(application.config)), fingerprint, run.multi_task(), quiet)
    if not config.evaluation.at_end:
        return None
    return evaluate_application(application.with_config(run.update(application.config)), run, quiet=quiet)


def multi_task_of(config: Config) -> Config:
    """The config of the multi-task baseline of a run.

    Words keep their meaning, which a classifier of all classes needs; and there is no evaluation at the end. What the
    run freezes is frozen here too. Its validation fine-tunes as the table does: Adam, with a middle rate and the most
    steps.
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


def _check_traceable(application: Application) -> None:
    """Trace a step and a validation, so that what only the learner can judge is refused before a run starts."""
    config = application.config
    try:
        functions = application.functions(training=True)
        learner = build_learner(functions, config, training=True)
        batch = application.training_stream()(0, config.outer.tasks)
        state = jax.eval_shape(lambda: initial_state(config, functions))
        step = guarded_step(meta_gradient(learner), outer_optimizer(config.outer), steps=config.outer.steps)
        jax.eval_shape(step, state, batch)
        judged = build_learner(application.functions(training=False), config, training=False)
        where = (state.meta_params, application.stream("validation", config.evaluation.most_shots("validation"))(0, 1))
        jax.eval_shape(episode_scores(judged, application.score.of), *where, jax.random.key(0), 0)
        written = application.functions(training=False)
        if written.write_fn is not None and config.evaluation.write:
            writes = build_learner(written._replace(output_fn=written.write_fn), config, training=False)
            jax.eval_shape(episode_scores(writes, lambda outputs, _: outputs.ids), *where, jax.random.key(0), 0)
    except UserError:
        raise
    except ValueError as error:
        message = str(error).replace("inner_params=", "inner.params=")
        raise UserError(f"the config does not fit the model: {message}") from error


def _train(
    application: Application,
    fingerprint: dict[str, str],
    run: RunDirectory,
    quiet: bool,
    report: Report | None = None,
    wandb: str | None = None,
) -> None:
    """Start a run on data of a fingerprint, or go on with it, where it is not finished."""
    if not run.resumable():
        with first_alone() as here:
            if here:
                run.start(application, fingerprint)
    elif run.result() is not None:
        if not quiet:
            print(f"{run.path}: the training of this run is finished", file=sys.stderr)
        return
    config, score = application.config, application.score
    steps, tasks = config.outer.steps, config.outer.tasks
    mesh = even_mesh(tasks, "outer.tasks", config.parallel, quiet=quiet)
    divides = mesh.size > mesh.shape[TASK]  # weights: then no device has all of them, in validation either
    functions = application.functions(training=True)
    learner = build_learner(functions, config, training=True)
    stream, validate = application.training_stream(), _validation(application)
    job = Fit(
        state=lambda: initial_state(config, functions),
        grad=meta_gradient(learner, batch_shards(mesh)),
        optimizer=outer_optimizer(config.outer),
        batches=lambda wanted: prefetch(lambda step: stream(step, tasks), wanted),
        mesh=mesh,
        parallel=config.parallel,
        recovery=config.recovery,
        steps=steps,
        every=config.evaluation.every,
        rates=np.asarray(learning_rate(config.outer)(np.arange(steps))),
        validate=lambda params: {score.metric: validate(params if divides else local_copy(params))},
        judge=score,
        record={
            "config": to_dict(config),
            "labels": application.labels(),
            **application.record(),
            "versions": versions(),
        },
        blame=_not_finite,
        remedy="Lower inner.rate or outer.rate, or check the data, and start again in another --run-dir",
        items=tasks,
        unit="tasks",
        title="meta-training",
        timing=lambda speed, rate: {"tasks_per_second": rate, "input_share": speed and speed.input_share},
        report=None if report is None else lambda step, judged: report(step, judged[score.metric]),
    )
    result = fit(job, run, quiet=quiet, wandb=wandb)
    if is_first():
        learning_curve(run.metrics, run.learning_curve, score)
    run.write("result.json", result)


def _validation(application: Application) -> Callable[[MetaParams], float]:
    """``meta_params -> score``, the mean over validation episodes of each number of shots."""
    config = application.config
    evaluation = config.evaluation
    learner = build_learner(application.functions(training=False), config, training=False)
    scores = episode_scores(learner, application.score.of, task_chunk=config.learner.task_chunk)
    streams = [application.stream("validation", shots) for shots in evaluation.validation_shots or evaluation.shots]

    def validate(meta_params: MetaParams) -> float:
        values = [
            evaluate_episodes(
                scores,
                meta_params,
                stream,
                episodes=evaluation.validation_episodes,
                tasks=evaluation.tasks,
                rng=run_keys(config.seed).evaluation,
            ).mean()
            for stream in streams
        ]
        return float(np.mean(values))

    return validate


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
