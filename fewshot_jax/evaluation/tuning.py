"""Loops whose rate and number of steps are chosen on validation episodes, for each number of shots.

Fine-tuning as a baseline is one of them, by Adam on all parameters; the learner itself, at other inner rates and
numbers of steps than those of its training, is another.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fewshot_jax.algorithms.gradient_based import RATES, Adaptation, adaptation
from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.applications.application import Functions, Score, Stream
from fewshot_jax.evaluation.episodic import evaluate_episodes, over_episodes
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, Params, PyTree

# Numbers of steps -> ``(meta_params, episode, key, rate) -> scores [numbers]``, of one task.
AfterSteps = Callable[[tuple[int, ...]], Callable[..., jax.Array]]


class Choice(NamedTuple):
    """Attributes: ``rate`` of the loop (a factor where the loop has rates of its own), and number of ``steps``."""

    rate: float
    steps: int


def fine_tuned(functions: Functions, score: Score) -> AfterSteps:
    """Fine-tuning: Adam with a rate on all parameters.

    Args:
        functions: of the application, in evaluation.
        score: of its outputs.
    """

    def after(steps: tuple[int, ...]) -> Callable[..., jax.Array]:
        parts: Adaptation = adaptation(
            functions.loss_fn,
            inner_optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.0),  # the rate comes at each call
            inner_steps=max(steps),
            gradient="first_order",
            task_init_fn=functions.task_init_fn,
            output_fn=functions.output_fn,
        )

        def one(meta_params: MetaParams, episode: Episode, key: Key, rate: jax.Array) -> jax.Array:
            def judge(params: Params) -> jax.Array:
                return score.of(parts.predict(params, episode.query, query_key(key)), episode)

            if len(steps) == 1:
                return judge(parts.run(meta_params, episode.support, key, inner_rate=rate).params)[None]
            adapted = parts.run(meta_params, episode.support, key, inner_rate=rate, each_step=judge)
            return adapted.each_step[jnp.array(steps) - 1]

        return one

    return after


def adapted(learner: MetaLearner, score: Score, *, rate: float) -> AfterSteps:
    """A learner's own inner loop, its rates multiplied by a factor.

    Args:
        learner: without dropout.
        score: of the outputs of its ``predict``.
        rate: its inner rate, where that is not learned.
    """

    def after(steps: tuple[int, ...]) -> Callable[..., jax.Array]:
        def one(meta_params: MetaParams, episode: Episode, key: Key, factor: jax.Array) -> jax.Array:
            overrides = {}
            if RATES in meta_params:
                meta_params = {**meta_params, RATES: jax.tree.map(lambda own: factor * own, meta_params[RATES])}
            else:
                overrides = {"inner_rate": factor * rate}

            def judge(count: int) -> jax.Array:
                task = learner.adapt(meta_params, episode.support, key, inner_steps=count, **overrides)
                return score.of(learner.predict(task, episode.query, query_key(key)), episode)

            return jnp.stack([judge(count) for count in steps])

        return one

    return after


class Tuning:
    """A loop, compiled once for each number of shots and each choice of steps.

    Args:
        after: the scores of a task after some numbers of steps, from `fine_tuned` or `adapted`.
        score: whose larger or smaller values are better.
        rates: to choose from.
        steps: numbers of steps to choose from.
        task_chunk: how many tasks are vmapped at once; None for all.
    """

    def __init__(
        self,
        after: AfterSteps,
        score: Score,
        *,
        rates: Sequence[float],
        steps: Sequence[int],
        task_chunk: int | None = None,
    ):
        self._after, self._sign, self._task_chunk = after, 1 if score.larger_is_better else -1, task_chunk
        self._rates, self._steps = tuple(rates), tuple(steps)
        self._compiled: dict[tuple[int, ...], Callable[..., PyTree]] = {}

    def _scores(self, steps: tuple[int, ...], rate: float, *where: Any, **sizes: Any) -> np.ndarray:
        """Scores ``[episodes, steps]``; ``where`` and ``sizes`` are those of `evaluate_episodes`."""
        if steps not in self._compiled:
            self._compiled[steps] = over_episodes(self._after(steps), task_chunk=self._task_chunk)
        return evaluate_episodes(self._compiled[steps], *where, np.float32(rate), **sizes)

    def choose(self, meta_params: MetaParams, stream: Stream, *, episodes: int, tasks: int, rng: Key) -> Choice:
        """The rate and the number of steps with the best mean score over some episodes."""
        means = [
            self._scores(self._steps, rate, meta_params, stream, episodes=episodes, tasks=tasks, rng=rng).mean(0)
            for rate in self._rates
        ]
        finite = np.where(np.isfinite(means), self._sign * np.array(means), -np.inf)  # a large rate may diverge
        rate, step = np.unravel_index(finite.argmax(), finite.shape)
        return Choice(self._rates[int(rate)], self._steps[int(step)])

    def at_edge(self, choice: Choice) -> str | None:
        """ "most steps", "smallest rate" or the like where one beyond it might be better still; None if not.

        Of one or two rates or numbers of steps each is an edge, which says nothing.
        """
        if len(self._steps) > 2 and choice.steps in (max(self._steps), min(self._steps)) and choice.steps > 1:
            return "most steps" if choice.steps == max(self._steps) else "fewest steps"
        rates = sorted(self._rates)
        return {rates[0]: "smallest rate", rates[-1]: "largest rate"}.get(choice.rate) if len(rates) > 2 else None

    def scores(
        self, choice: Choice, meta_params: MetaParams, stream: Stream, *, episodes: int, tasks: int, rng: Key
    ) -> np.ndarray:
        """Scores ``[episodes]`` of the choice."""
        alone = (choice.steps,)
        return self._scores(alone, choice.rate, meta_params, stream, episodes=episodes, tasks=tasks, rng=rng)[:, 0]
