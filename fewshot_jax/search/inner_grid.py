"""Inner rates and numbers of steps of a trained run: the whole grid in one compiled program."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.algorithms.gradient_based import RATES
from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.applications.application import Score, evaluation_steps
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError, require
from fewshot_jax.evaluation.episodic import EpisodeJudge, evaluate_episodes, over_episodes
from fewshot_jax.evaluation.statistics import Estimate, estimate, finite_or_none, plain
from fewshot_jax.evaluation.tuning import with_rates
from fewshot_jax.training.experiment import evaluation_mesh, experiment_of_run
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, PyTree

INNER_GRID = "inner_grid.json"  # in the run's directory
GRID_CHUNK = 8  # points at once: memory grows with it
Point = tuple[float, int]  # a rate and a number of steps


class InnerGrid(NamedTuple):
    """Validation scores of a run at other inner rates and numbers of steps than those of its training.

    Attributes:
        run: name of the run's directory.
        score: of the application.
        rates: of the inner loop; where the learner learned rates, multiples of those.
        learned: whether it did.
        steps: numbers of them.
        shots: at which the scores are means.
        episodes: at each number of shots.
        scores: ``[rates, steps]``.
        own: rate and steps of the run's evaluation.
        own_score: at those, on the same episodes.
        difference: the score of the best point minus that of the run's own, paired over the episodes, with its 95%
            interval; None where one of them diverged. It is optimistic: the best is chosen on these very episodes.
    """

    run: str
    score: Score
    rates: tuple[float, ...]
    learned: bool
    steps: tuple[int, ...]
    shots: tuple[int, ...]
    episodes: int
    scores: np.ndarray
    own: Point
    own_score: float
    difference: Estimate | None

    @property
    def best(self) -> tuple[float, int, float]:
        """Rate, steps and score of the best point; the first of equals. One that diverged is none."""
        rate, steps = np.unravel_index(_best(self.scores, self.score), self.scores.shape)
        return self.rates[int(rate)], self.steps[int(steps)], float(self.scores[rate, steps])

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; null for what diverged, and for the interval of a single episode."""
        rate, steps, score = self.best
        return {
            "run": self.run,
            "score": self.score.name,
            "larger_is_better": self.score.larger_is_better,
            "rates": list(self.rates),
            "rates_are_multiples": self.learned,
            "steps": list(self.steps),
            "shots": list(self.shots),
            "episodes": self.episodes,
            "scores": [[finite_or_none(value) for value in row] for row in self.scores.tolist()],
            "own": {"rate": self.own[0], "steps": self.own[1], "score": finite_or_none(self.own_score)},
            "best": {"rate": rate, "steps": steps, "score": finite_or_none(score), "chosen_on_these_episodes": True},
            "best_minus_own": None if self.difference is None else plain(self.difference),
        }


def _best(scores: np.ndarray, score: Score) -> int:
    """Index into the flattened scores of the best, the first of equals; what diverged comes last."""
    sign = 1 if score.larger_is_better else -1
    return int(np.where(np.isfinite(scores), sign * scores, -np.inf).argmax())


def grid_scores(
    learner: MetaLearner,
    judge: EpisodeJudge,
    *,
    rates: Sequence[float],
    steps: Sequence[int],
    grid_chunk: int = GRID_CHUNK,
    task_chunk: int | None = None,
) -> Callable[..., PyTree]:
    """Compile ``(meta_params, episodes, rng, first) -> scores [T, rates, steps]`` of a learner.

    Args:
        learner: without dropout, built for at least as many steps as the most of the grid.
        judge: of the outputs of its ``predict``; one number a task.
        rates: of the inner loop, or multiples of learned rates.
        steps: numbers of them.
        grid_chunk: how many points are vmapped at once, in as few chunks of one size as that allows.
        task_chunk: how many tasks are vmapped at once; None for all.
    """
    points = list(itertools.product(rates, steps))
    of_points = point_scores(learner, judge, points, grid_chunk=grid_chunk, task_chunk=task_chunk)

    @jax.jit
    def scores(*arguments: Any) -> jax.Array:
        return of_points(*arguments).reshape(-1, len(rates), len(steps))

    return scores


def point_scores(
    learner: MetaLearner,
    judge: EpisodeJudge,
    points: Sequence[Point],
    *,
    grid_chunk: int = GRID_CHUNK,
    task_chunk: int | None = None,
) -> Callable[..., PyTree]:
    """Compile ``(meta_params, episodes, rng, first) -> scores [T, points]``; the arguments are those of `grid_scores`.

    The points are traced rates and numbers of steps, vmapped a chunk at a time; each takes as many steps as the most
    of them, of which those beyond its own change nothing.
    """
    chunk = -(-len(points) // -(-len(points) // grid_chunk))
    padded = [*points, *[points[-1]] * (-len(points) % chunk)]
    rate_of = np.array([rate for rate, _ in padded], np.float32)
    steps_of = np.array([count for _, count in padded], np.int32)

    def one(meta_params: MetaParams, episode: Episode, key: Key) -> jax.Array:
        def at(point: tuple[jax.Array, jax.Array]) -> jax.Array:
            rate, count = point
            start, overrides = with_rates(meta_params, rate, 1.0)
            adapted = learner.adapt(start, episode.support, key, inner_steps=count, **overrides)
            return judge(learner.predict(adapted, episode.query, query_key(key)), episode)

        return jax.lax.map(at, (jnp.asarray(rate_of), jnp.asarray(steps_of)), batch_size=chunk)[: len(points)]

    return over_episodes(one, task_chunk=task_chunk)


def tune_inner(
    run_dir: str | Path,
    *,
    rates: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    episodes: int | None = None,
    grid_chunk: int = GRID_CHUNK,
) -> InnerGrid:
    """Judge a trained run on validation tasks at each inner rate and number of steps of a grid, and at its own.

    Args:
        run_dir: of the run.
        rates: to try, or, where the learner learned rates, multiples of those; None for an eighth to eight times the
            run's own.
        steps: numbers of steps to try, at least 1; None for 1, 2, 4, 8 and the run's own.
        shots: the scores are means over these numbers; None for those of the run's validation.
        episodes: validation episodes at each number of shots; None for as many as the run's validation has.
        grid_chunk: points of the grid that are vmapped at once: memory grows with it.

    Returns:
        The `InnerGrid`, which is also written to ``inner_grid.json`` in the run's directory.

    Raises:
        UserError: there is no run, no checkpoint, its learner has no inner loop, or a number is out of range.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    evaluation = config.evaluation
    require(
        config.learner.record.has_loop,
        f"{run.path}: {config.learner.name} has no inner loop, so no rates and steps to tune",
    )
    _check_numbers(rates, steps, shots, episodes, grid_chunk)
    own_steps = evaluation_steps(config)
    counts = sorted({1, 2, 4, 8, max(1, own_steps)} if steps is None else set(steps))
    experiment = experiment_of_run(run)
    application = experiment.application
    meta_params, _ = experiment.restore_best(run, evaluation_mesh(config))
    learned = RATES in meta_params
    own = (1.0 if learned else config.inner.rate, own_steps)
    tried = tuple(float(rate) for rate in (rates or [own[0] * 2.0**power for power in range(-3, 4)]))
    grid = list(itertools.product(tried, counts))
    points = grid if own in grid else [*grid, own]
    compiled = point_scores(
        experiment.with_config(_of_steps(config, max(counts[-1], own_steps))).judging.learner,
        application.score.of,
        points,
        grid_chunk=grid_chunk,
        task_chunk=config.learner.task_chunk,
    )
    numbers = tuple(shots or evaluation.validation_shots or evaluation.shots)
    count = evaluation.validation_episodes if episodes is None else episodes
    try:
        values = [
            evaluate_episodes(
                compiled,
                meta_params,
                application.stream("validation", k),
                episodes=count,
                tasks=min(evaluation.tasks, count),
                rng=experiment.keys.evaluation,
            )
            for k in numbers
        ]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"{run.path}: out of memory; lower --grid-chunk {grid_chunk}") from error
    means = np.asarray(np.mean(values, axis=0, dtype=np.float64))  # [episodes, points], over numbers of shots
    of_own, in_grid = means[:, points.index(own)], means[:, : len(grid)]
    found = InnerGrid(
        run=run.path.resolve().name,
        score=application.score,
        rates=tried,
        learned=learned,
        steps=tuple(counts),
        shots=numbers,
        episodes=count,
        scores=in_grid.mean(0).reshape(len(tried), len(counts)),
        own=own,
        own_score=float(of_own.mean()),
        difference=difference_of(in_grid, of_own, application.score),
    )
    run.write(INNER_GRID, found.to_json())
    return found


def _check_numbers(
    rates: Sequence[float] | None,
    steps: Sequence[int] | None,
    shots: Sequence[int] | None,
    episodes: int | None,
    grid_chunk: int,
) -> None:
    """Raise a UserError if an argument of `tune_inner` is out of range."""
    for flag, values in (("rates", rates), ("steps", steps), ("shots", shots)):
        require(values is None or (len(values) > 0 and min(values) > 0), f"--{flag}: expected positive numbers")
    require(all(math.isfinite(rate) for rate in rates or ()), "--rates: expected finite numbers")
    require(episodes is None or episodes >= 1, f"--episodes {episodes}: expected at least 1")
    require(grid_chunk >= 1, f"--grid-chunk {grid_chunk}: expected at least 1")


def difference_of(points: np.ndarray, own: np.ndarray, score: Score) -> Estimate | None:
    """The score of the point that is best on the mean minus the run's own, paired over episodes; None if one diverged.

    Args:
        points: ``[episodes, points]``.
        own: ``[episodes]``, the same.
        score: that they are of.
    """
    best = points[:, _best(points.mean(0), score)]
    return estimate(best - own) if np.isfinite(best).all() and np.isfinite(own).all() else None


def _of_steps(config: Config, most: int) -> Config:
    """A config whose evaluation takes so many steps."""
    return dataclasses.replace(config, inner=dataclasses.replace(config.inner, test_steps=most))
