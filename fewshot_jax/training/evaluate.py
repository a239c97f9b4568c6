"""Evaluation of a run on tasks it never saw, beside the floors on the same episodes."""

import math
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from fewshot_jax.applications.application import Application, Functions
from fewshot_jax.applications.table import build_application, score_of
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.baselines import CHANCE, floors
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.evaluation.tuning import Choice
from fewshot_jax.evaluation.written import DISTINCT
from fewshot_jax.parallel.mesh import dividing_mesh, make_mesh, on_host, place
from fewshot_jax.parallel.processes import is_first
from fewshot_jax.parallel.rules import shardings
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.state import initial_state
from fewshot_jax.training.episode_scores import EPISODE_SCORES, write_episode_scores
from fewshot_jax.training.results import Evaluation, Measured, Per
from fewshot_jax.training.rows import (
    MULTI_TASK,
    Bench,
    Row,
    fine_tuned_rows,
    rows_in_context,
    rows_of_learner,
    rows_of_prototypes,
    starts_of,
)
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import MetaParams


def restore_best(run: RunDirectory, like: MetaParams) -> tuple[MetaParams, int]:
    """The meta-parameters of a run's best checkpoint, and its step.

    Args:
        run: with a checkpoint.
        like: arrays or shapes with shardings; on a mesh that divides weights, they are read as it divides them.

    Raises:
        UserError: the run has no checkpoint.
    """
    checkpoints = Checkpoints(run.checkpoints, score_of(run.config()), read_only=True)
    try:
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{run.path}: has no checkpoint yet; let 'fewshot-jax train' run to its first validation")
        restore = checkpoints.restore_local if dividing_mesh(like) is None else checkpoints.restore_meta_params
        return restore(step, like), step
    finally:
        checkpoints.close()


def restore_best_of(run: RunDirectory, functions: Functions, mesh: Mesh | None = None) -> MetaParams:
    """The meta-parameters of a run's best checkpoint, from shapes alone.

    Args:
        run: with a checkpoint.
        functions: of its training.
        mesh: divides them by the rules of the run's config; None for all of them on one device.
    """
    config = run.config()
    shapes = jax.eval_shape(lambda: initial_state(config, functions).meta_params)
    if mesh is None:
        placed = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    else:
        placed = shardings(shapes, mesh, config.parallel.rules)
    like = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, placed
    )
    return restore_best(run, like)[0]


def evaluation_mesh(config: Config) -> Mesh | None:
    """The mesh of all devices that divides weights as the config says; None where each device has all of them.

    A run can be evaluated on fewer devices than it was trained on: there it is not divided.
    """
    fsdp, tensor = config.parallel.fsdp, config.parallel.tensor
    if fsdp * tensor == 1 or jax.device_count() % (fsdp * tensor):
        return None
    return make_mesh(fsdp=fsdp, tensor=tensor)


def untrained(application: Application, mesh: Mesh | None) -> MetaParams:
    """The meta-parameters before the first step, divided over a mesh where there is one."""
    config = application.config
    functions = application.functions(training=True)
    if mesh is None:
        return initial_state(config, functions).meta_params
    with on_host():
        meta_params = initial_state(config, functions).meta_params
    return place(meta_params, shardings(meta_params, mesh, config.parallel.rules))


def evaluate(
    run_dir: str | Path, *, episodes: int | None = None, shots: tuple[int, ...] | None = None, quiet: bool = False
) -> Evaluation:
    """Evaluate a run's best checkpoint on episodes of its test classes.

    Args:
        run_dir: of the run.
        episodes: how many test episodes; None for the config's.
        shots: an evaluation for each number of shots; None for the config's.
        quiet: no progress.

    Returns:
        The `Evaluation`. That of the config's episodes and shots is written to
        ``evaluation.json`` as well, its scores in each episode to ``episode_scores.json``.

    Raises:
        UserError: there is no run, no checkpoint, its data is gone or has
            changed, or there are fewer than two episodes.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    if episodes is not None and episodes < 2:
        raise UserError(f"episodes={episodes}: expected at least 2, for an interval")
    application = build_application(config, run.path)
    run.check_data(application.fingerprint())
    return evaluate_application(application, run, episodes=episodes, shots=shots, quiet=quiet)


def evaluate_application(
    application: Application,
    run: RunDirectory,
    *,
    episodes: int | None = None,
    shots: tuple[int, ...] | None = None,
    quiet: bool = False,
) -> Evaluation:
    """`evaluate` of a run whose data is at hand.

    Args:
        application: of the run's config and data.
        run: with a checkpoint.
        episodes, shots, quiet: as of `evaluate`.
    """
    config = application.config
    mesh = evaluation_mesh(config)
    initial = untrained(application, mesh)
    meta_params, step = restore_best(run, initial)
    count = config.evaluation.episodes if episodes is None else episodes
    wanted = config.evaluation.shots if shots is None else shots
    bench = Bench(application, count, quiet=quiet)
    own = rows_of_learner(bench, meta_params)
    trained = (
        {MULTI_TASK: meta_params} if config.learner.name == "multi_task" else _multi_task(application, run, mesh, quiet)
    )
    starts = {**starts_of(bench, initial), **trained}
    beside = {
        **rows_of_prototypes(bench, starts),
        **rows_in_context(bench, starts, wanted, quiet),
        **fine_tuned_rows(bench, starts),
    }
    for k in wanted:  # before the work begins: a split may be too small for this many
        bench.streams(k)
    known = floors(application, "test")
    rows: dict[str, Per] = {}  # by the name of the score
    gains: dict[str, Per] = {}
    chosen: dict[str, dict[int, Choice]] = {}
    kept: dict[str, dict[int, np.ndarray]] = {}
    for k in wanted:
        if not quiet:
            print(f"evaluating with {k} shot{'' if k == 1 else 's'} on {count} episodes", file=sys.stderr, flush=True)
        values = {name: _told(name, of, k, quiet) for name, of in own.items()}
        plain = known(k, count, config.evaluation.tasks)
        guess = {CHANCE: plain.pop(CHANCE)} if CHANCE in plain else {}
        baselines = {**plain, **{name: _told(name, of, k, quiet) for name, of in beside.items()}}
        learned = values[config.learner.name]
        for name, judged in {**values, **baselines, **guess}.items():
            for score, value in judged.items():
                rows.setdefault(score, {}).setdefault(name, {})[k] = (
                    Estimate(float(value[0]), 0.0) if name == CHANCE else _estimate(bench, score, value)
                )
                if score == application.score.name and name != CHANCE:
                    kept.setdefault(name, {})[k] = np.asarray(value)
                if name in baselines and score in learned and score != DISTINCT:
                    gain = _estimate(bench, score, learned[score] - value)
                    gains.setdefault(score, {}).setdefault(name, {})[k] = gain
        for name, choice in bench.choices.items():
            chosen.setdefault(name, {})[k] = choice
    if bench.at_edge and not quiet:
        print(
            f"note: rows that did best at the edge of what was tried ({'; '.join(bench.at_edge)}) may gain from other "
            "rates and steps (baselines.rates and baselines.steps, evaluation.tune_rates and evaluation.tune_steps)",
            file=sys.stderr,
        )
    exponentials = {one.exponential: one for one in application.scores if one.exponential is not None}
    for name, one in exponentials.items():
        rows[name] = {row: {k: _exponential(value) for k, value in of.items()} for row, of in rows[one.name].items()}
    result = Evaluation(
        run=run.path.resolve().name,
        learner=config.learner.name,
        score=application.score,
        scores=rows[application.score.name],
        gains=gains.get(application.score.name, {}),
        more=tuple(
            Measured(score, rows[score.name], gains.get(score.name, {}))
            for score in (
                *application.scores[1:],
                *bench.of_texts,
                *(s._replace(name=n) for n, s in exponentials.items()),
            )
            if score.name in rows
            and any(not math.isnan(k.mean) for of in rows[score.name].values() for k in of.values())
        ),
        choices=chosen,
        ways=bench.functions.ways,
        episodes=count,
        step=step,
        finished=run.result() is not None,
        confusion=bench.confusion,
        episode_scores=kept,
    )
    if episodes is None and shots is None:
        run.write("evaluation.json", result.to_json())
        if is_first():
            path = run.path / EPISODE_SCORES
            write_episode_scores(path, kept, score=application.score.name, step=step)
    if is_first():
        application.draw(bench.learner(), meta_params, run.path)
    return result


def _told(name: str, row: Row, shots: int, quiet: bool) -> dict[str, np.ndarray]:
    """The scores of a row, announced, with a note where some are not finite."""
    if not quiet:
        print(f"  {name}", file=sys.stderr, flush=True)
    scores = row(shots)
    first = next(iter(scores.values()))
    if (bad := int(np.sum(~np.isfinite(first)))) and not quiet:
        print(
            f"note: {name}: the loop diverged in {bad} of {first.size} episodes; lower inner.rate, or the number of "
            "steps (inner.test_steps, evaluation.inner_steps)",
            file=sys.stderr,
        )
    return scores


def _estimate(bench: Bench, score: str, values: np.ndarray) -> Estimate:
    """Over all episodes; of a score of texts, over those that had something to score."""
    if any(score == one.name for one in bench.of_texts):
        values = values[np.isfinite(values)]
    return estimate(values) if values.size else Estimate(math.nan, math.nan)


def _exponential(value: Estimate) -> Estimate:
    """Of a mean and, to first order, of its interval."""
    mean = math.exp(value.mean) if value.mean < 700 else math.inf  # more than a float holds
    return Estimate(mean, mean * value.half_width)


def _multi_task(application: Application, run: RunDirectory, mesh: Mesh | None, quiet: bool) -> dict[str, MetaParams]:
    """The multi-task baseline that was trained beside a run, if it was; half of its training would flatter the run."""
    beside = run.multi_task()
    if not application.config.baselines.multi_task:
        return {}
    if beside.result() is None:
        if beside.exists() and not quiet:
            print(f"{beside.path}: unfinished, left out; 'fewshot-jax train' goes on with it", file=sys.stderr)
        return {}
    config: Config = beside.config()
    return {MULTI_TASK: restore_best(beside, untrained(application.with_config(config), mesh))[0]}
