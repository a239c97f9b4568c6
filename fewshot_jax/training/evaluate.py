"""Evaluation of a run on tasks it never saw, beside the baselines on the same episodes."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.baselines import CHANCE, baselines_of
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.evaluation.tuning import Choice
from fewshot_jax.evaluation.written import DISTINCT
from fewshot_jax.parallel.processes import is_first
from fewshot_jax.training.episode_scores import EPISODE_SCORES, write_episode_scores
from fewshot_jax.training.experiment import Experiment, evaluation_mesh, experiment_of_run
from fewshot_jax.training.results import Evaluation, Measured, Per
from fewshot_jax.training.rows import (
    MULTI_TASK,
    EvaluationSetup,
    Row,
    fine_tuned_rows,
    rows_in_context,
    rows_of_learner,
    rows_of_prototypes,
    starts_of,
)
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import MetaParams


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
    run.config()  # first: what is wrong with the run is told before what is wrong with the numbers
    if episodes is not None and episodes < 2:
        raise UserError(f"episodes={episodes}: expected at least 2, for an interval")
    return evaluate_experiment(experiment_of_run(run), run, episodes=episodes, shots=shots, quiet=quiet)


def evaluate_experiment(
    experiment: Experiment,
    run: RunDirectory,
    *,
    episodes: int | None = None,
    shots: tuple[int, ...] | None = None,
    quiet: bool = False,
) -> Evaluation:
    """`evaluate` a run whose data is read already.

    Args:
        experiment: of the run's config and data.
        run: with a checkpoint.
        episodes, shots, quiet: as of `evaluate`.
    """
    config = experiment.config
    mesh = evaluation_mesh(config)
    meta_params, step = experiment.restore_best(run, mesh)
    count = config.evaluation.episodes if episodes is None else episodes
    wanted = config.evaluation.shots if shots is None else shots
    setup = EvaluationSetup(experiment, count, quiet=quiet)
    table = _measure(setup, run, meta_params, wanted, mesh, quiet)
    if setup.at_edge and not quiet:
        print(
            f"note: rows that did best at the edge of what was tried ({'; '.join(setup.at_edge)}) may gain from other "
            "rates and steps (baselines.rates and baselines.steps, evaluation.tune_rates and evaluation.tune_steps)",
            file=sys.stderr,
        )
    table.add_exponentials()
    score = experiment.score
    result = Evaluation(
        run=run.path.resolve().name,
        learner=config.learner.name,
        score=score,
        scores=table.rows[score.name],
        gains=table.gains.get(score.name, {}),
        more=table.other_scores(),
        choices=table.choices,
        ways=setup.functions.ways,
        episodes=count,
        step=step,
        finished=run.result() is not None,
        confusion=setup.confusion,
        episode_scores=table.episode_scores,
    )
    if episodes is None and shots is None:
        run.write("evaluation.json", result.to_json())
        if is_first():
            path = run.path / EPISODE_SCORES
            write_episode_scores(path, table.episode_scores, score=score.name, step=step)
    if is_first():
        experiment.application.draw(experiment.writing.learner, meta_params, run.path)
    return result


def _measure(
    setup: EvaluationSetup,
    run: RunDirectory,
    meta_params: MetaParams,
    wanted: Sequence[int],
    mesh: Mesh | None,
    quiet: bool,
) -> "_Table":
    """Compute all rows at each number of shots."""
    experiment, config = setup.experiment, setup.config
    own = rows_of_learner(setup, meta_params)
    trained = (
        {MULTI_TASK: meta_params} if config.learner.name == "multi_task" else _multi_task(experiment, run, mesh, quiet)
    )
    starts = {**starts_of(setup, experiment.initial(mesh)), **trained}
    beside = {
        **rows_of_prototypes(setup, starts),
        **rows_in_context(setup, starts, wanted, quiet),
        **fine_tuned_rows(setup, starts),
    }
    for k in wanted:  # before the work begins: a split may be too small for this many
        setup.streams(k)
    known = baselines_of(experiment.application, "test")
    table = _Table(setup)
    for k in wanted:
        if not quiet:
            episodes = setup.episodes
            print(
                f"evaluating with {k} shot{'' if k == 1 else 's'} on {episodes} episodes", file=sys.stderr, flush=True
            )
        values = {name: _reported(name, of, k, quiet) for name, of in own.items()}
        untrained = known(k, setup.episodes, config.evaluation.tasks)
        guess = {CHANCE: untrained.pop(CHANCE)} if CHANCE in untrained else {}
        baselines = {**untrained, **{name: _reported(name, of, k, quiet) for name, of in beside.items()}}
        table.add(k, values, baselines, guess)
    return table


RowScores = dict[str, dict[str, np.ndarray]]  # for each row, the values of each score, ``[episodes]``


class _Table:
    """The estimates of all rows, by the name of the score.

    Args:
        setup: that measures them.
    """

    def __init__(self, setup: EvaluationSetup):
        self._setup, self._scores = setup, setup.application.scores
        self._exponentials = {one.exponential: one for one in self._scores if one.exponential is not None}
        self.rows: dict[str, Per] = {}
        self.gains: dict[str, Per] = {}
        self.choices: dict[str, dict[int, Choice]] = {}
        self.episode_scores: dict[str, dict[int, np.ndarray]] = {}

    def add(self, shots: int, own: RowScores, baselines: RowScores, guess: RowScores) -> None:
        """Add what was measured at a number of shots; gains are those of the run's learner over each baseline."""
        learned, first = own[self._setup.config.learner.name], self._setup.application.score.name
        for name, scores in {**own, **baselines, **guess}.items():
            for score, value in scores.items():
                of_row = self.rows.setdefault(score, {}).setdefault(name, {})
                of_row[shots] = Estimate(float(value[0]), 0.0) if name == CHANCE else self._estimate(score, value)
                if score == first and name != CHANCE:
                    self.episode_scores.setdefault(name, {})[shots] = np.asarray(value)
                if name in baselines and score in learned and score != DISTINCT:
                    gain = self._estimate(score, learned[score] - value)
                    self.gains.setdefault(score, {}).setdefault(name, {})[shots] = gain
        for name, choice in self._setup.choices.items():
            self.choices.setdefault(name, {})[shots] = choice

    def _estimate(self, score: str, values: np.ndarray) -> Estimate:
        """Estimate over all episodes; of a score of texts, over those that had something to score."""
        if any(score == one.name for one in self._setup.of_texts):
            values = values[np.isfinite(values)]
        return estimate(values) if values.size else Estimate(math.nan, math.nan)

    def add_exponentials(self) -> None:
        """Add the scores that are e to the power of another."""
        for name, one in self._exponentials.items():
            rows = self.rows[one.name].items()
            self.rows[name] = {row: {k: _exponential(value) for k, value in of.items()} for row, of in rows}

    def other_scores(self) -> tuple[Measured, ...]:
        """Return all scores but the first that some row has."""
        scores = (
            *self._scores[1:],
            *self._setup.of_texts,
            *(one._replace(name=name) for name, one in self._exponentials.items()),
        )
        return tuple(
            Measured(score, self.rows[score.name], self.gains.get(score.name, {}))
            for score in scores
            if score.name in self.rows
            and any(not math.isnan(k.mean) for of in self.rows[score.name].values() for k in of.values())
        )


def _reported(name: str, row: Row, shots: int, quiet: bool) -> dict[str, np.ndarray]:
    """Compute the scores of a row, with a line of progress, and a note where some are not finite."""
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


def _exponential(value: Estimate) -> Estimate:
    """Of a mean and, to first order, of its interval."""
    mean = math.exp(value.mean) if value.mean < 700 else math.inf  # more than a float holds
    return Estimate(mean, mean * value.half_width)


def _multi_task(experiment: Experiment, run: RunDirectory, mesh: Mesh | None, quiet: bool) -> dict[str, MetaParams]:
    """Return the multi-task baseline that was trained beside a run; none that is unfinished, which flatters the run."""
    beside = run.multi_task()
    if not experiment.config.baselines.multi_task:
        return {}
    if beside.result() is None:
        if beside.exists() and not quiet:
            print(f"{beside.path}: unfinished, left out; 'fewshot-jax train' goes on with it", file=sys.stderr)
        return {}
    return {MULTI_TASK: experiment.with_config(beside.config()).restore_best(beside, mesh)[0]}
