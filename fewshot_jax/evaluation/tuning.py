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
from fewshot_jax.evaluation.episodic import EpisodeJudge, evaluate_episodes, over_episodes
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, Params, PyTree

# Numbers of steps -> ``(meta_params, episode, key, rate) -> scores [numbers]``, of one task.
AfterSteps = Callable[[tuple[int, ...]], Callable[..., PyTree]]


class Choice(NamedTuple):
    """Attributes: ``rate`` of the loop (a factor where the loop has rates of its own), and number of ``steps``."""

    rate: float
    steps: int


def fine_tuned(functions: Functions, judge: EpisodeJudge) -> AfterSteps:
    """Fine-tuning: Adam with a rate on all parameters.

    Args:
        functions: of the application, in evaluation.
        judge: of its outputs.
    """

    def after(steps: tuple[int, ...]) -> Callable[..., PyTree]:
        parts: Adaptation = adaptation(
            functions.loss_fn,
            inner_optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=0.0),  # the rate comes at each call
            inner_steps=max(steps),
            gradient="first_order",
            task_init_fn=functions.task_init_fn,
            output_fn=functions.output_fn,
        )

        def one(meta_params: MetaParams, episode: Episode, key: Key, rate: jax.Array) -> PyTree:
            def judged(params: Params) -> PyTree:
                return judge(parts.predict(params, episode.query, query_key(key)), episode)

            if len(steps) == 1:
                return _stacked([judged(parts.run(meta_params, episode.support, key, inner_rate=rate).params)])
            adapted = parts.run(meta_params, episode.support, key, inner_rate=rate, each_step=judged)
            return jax.tree.map(lambda leaf: leaf[jnp.array(steps) - 1], adapted.each_step)

        return one

    return after


def with_rates(
    meta_params: MetaParams, factor: float | jax.Array, rate: float
) -> tuple[MetaParams, dict[str, jax.Array]]:
    """Inner rates multiplied by a factor: meta-parameters and overrides of a learner's ``adapt``.

    Args:
        meta_params: of the learner; rates among them are multiplied.
        factor: of the rates.
        rate: the inner rate where none is learned.
    """
    if RATES in meta_params:
        return {**meta_params, RATES: jax.tree.map(lambda own: factor * own, meta_params[RATES])}, {}
    return meta_params, {"inner_rate": jnp.asarray(factor * rate)}


def adapted(learner: MetaLearner, judge: EpisodeJudge, *, rate: float) -> AfterSteps:
    """A learner's own inner loop, its rates multiplied by a factor.

    Args:
        learner: without dropout.
        judge: of the outputs of its ``predict``.
        rate: its inner rate, where that is not learned.
    """

    def after(steps: tuple[int, ...]) -> Callable[..., PyTree]:
        def one(meta_params: MetaParams, episode: Episode, key: Key, factor: jax.Array) -> PyTree:
            meta_params, overrides = with_rates(meta_params, factor, rate)

            def judged(count: int) -> PyTree:
                task = learner.adapt(meta_params, episode.support, key, inner_steps=count, **overrides)
                return judge(learner.predict(task, episode.query, query_key(key)), episode)

            return _stacked([judged(count) for count in steps])

        return one

    return after


def _stacked(values: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


class Tuning:
    """A loop, compiled once for each number of shots and each choice of steps.

    Args:
        loop: ``judge -> scores of a task after some numbers of steps``: `fine_tuned` or `adapted` of a judge.
        score: that chooses, the larger or the smaller value.
        judge: of the choice.
        rates: to choose from.
        steps: numbers of steps to choose from.
        task_chunk: how many tasks are vmapped at once; None for all.
    """

    def __init__(
        self,
        loop: Callable[[EpisodeJudge], AfterSteps],
        score: Score,
        judge: EpisodeJudge,
        *,
        rates: Sequence[float],
        steps: Sequence[int],
        task_chunk: int | None = None,
    ):
        self._choosing, self._judging = loop(score.of), loop(judge)
        self._sign, self._task_chunk = 1 if score.larger_is_better else -1, task_chunk
        self._rates, self._steps = tuple(rates), tuple(steps)
        self._compiled: dict[tuple[AfterSteps, tuple[int, ...]], Callable[..., PyTree]] = {}

    def _scores(self, after: AfterSteps, steps: tuple[int, ...], rate: float, *where: Any, **sizes: Any) -> Any:
        """Scores ``[episodes, steps, ...]``; ``where`` and ``sizes`` are those of `evaluate_episodes`."""
        if (after, steps) not in self._compiled:
            self._compiled[after, steps] = over_episodes(after(steps), task_chunk=self._task_chunk)
        return evaluate_episodes(self._compiled[after, steps], *where, np.float32(rate), **sizes)

    def choose(self, meta_params: MetaParams, stream: Stream, *, episodes: int, tasks: int, rng: Key) -> Choice:
        """The rate and the number of steps with the best mean score over some episodes."""
        sizes = {"episodes": episodes, "tasks": tasks, "rng": rng}
        means = [
            self._scores(self._choosing, self._steps, rate, meta_params, stream, **sizes).mean(0)
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
    ) -> Any:
        """Scores ``[episodes]`` of the choice, as the judge gives them."""
        alone, sizes = (choice.steps,), {"episodes": episodes, "tasks": tasks, "rng": rng}
        scores = self._scores(self._judging, alone, choice.rate, meta_params, stream, **sizes)
        return jax.tree.map(lambda leaf: leaf[:, 0], scores)
