"""Fine-tuning as a baseline: Adam on all parameters, its rate and steps chosen on validation episodes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from fewshot_jax.algorithms.gradient_based import Adaptation, adaptation
from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.applications.application import Functions, Score, Stream
from fewshot_jax.evaluation.episodic import evaluate_episodes, over_episodes
from fewshot_jax.types import Episode, Key, MetaParams, Params, PyTree


class Choice(NamedTuple):
    """Attributes: learning ``rate`` of Adam, and number of ``steps``."""

    rate: float
    steps: int


class FineTuning:
    """Fine-tuning of given parameters, compiled once for each number of shots and steps.

    Args:
        functions: of the application, in evaluation.
        score: of its outputs.
        rates: learning rates to choose from.
        steps: most steps.
        task_chunk: how many tasks are vmapped at once; None for all.
    """

    def __init__(
        self, functions: Functions, score: Score, *, rates: Sequence[float], steps: int, task_chunk: int | None = None
    ):
        self._functions, self._score, self._rates, self._task_chunk = functions, score, rates, task_chunk
        self._steps = steps
        self._after_each = over_episodes(self._scores(steps, after_each=True), task_chunk=task_chunk)
        self._at_end: dict[int, Callable[..., PyTree]] = {}

    def _scores(self, steps: int, *, after_each: bool) -> Callable[..., jax.Array]:
        """``(meta_params, episode, key, rate) -> scores``: ``[steps]``, or that after the last one."""
        parts: Adaptation = adaptation(
            self._functions.loss_fn,
            inner_optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=self._rates[0]),
            inner_steps=steps,
            gradient="first_order",
            task_init_fn=self._functions.task_init_fn,
            output_fn=self._functions.output_fn,
        )

        def one(meta_params: MetaParams, episode: Episode, key: Key, rate: jax.Array) -> jax.Array:
            def judge(params: Params) -> jax.Array:
                return self._score.of(parts.predict(params, episode.query, query_key(key)), episode)

            each_step = judge if after_each else None
            adapted = parts.run(meta_params, episode.support, key, inner_rate=rate, each_step=each_step)
            return adapted.each_step if after_each else judge(adapted.params)

        return one

    def choose(self, meta_params: MetaParams, stream: Stream, *, episodes: int, tasks: int, rng: Key) -> Choice:
        """The rate and the number of steps with the best mean score over some episodes."""
        sign = 1 if self._score.larger_is_better else -1
        means = [
            evaluate_episodes(
                self._after_each, meta_params, stream, np.float32(rate), episodes=episodes, tasks=tasks, rng=rng
            ).mean(0)
            for rate in self._rates
        ]
        finite = np.where(np.isfinite(means), sign * np.array(means), -np.inf)  # a large rate may diverge
        rate, step = np.unravel_index(finite.argmax(), finite.shape)
        return Choice(self._rates[int(rate)], int(step) + 1)

    def at_edge(self, choice: Choice) -> str | None:
        """ "most steps", "smallest rate" or "largest rate" where one beyond it might be better still; None if not.

        Of one or two rates each is an edge, which says nothing.
        """
        if choice.steps == self._steps:
            return "most steps"
        rates = sorted(self._rates)
        return {rates[0]: "smallest rate", rates[-1]: "largest rate"}.get(choice.rate) if len(rates) > 2 else None

    def scores(
        self, choice: Choice, meta_params: MetaParams, stream: Stream, *, episodes: int, tasks: int, rng: Key
    ) -> np.ndarray:
        """Scores ``[episodes]`` of the choice."""
        if choice.steps not in self._at_end:
            one = self._scores(choice.steps, after_each=False)
            self._at_end[choice.steps] = over_episodes(one, task_chunk=self._task_chunk)
        compiled, rate = self._at_end[choice.steps], np.float32(choice.rate)
        return evaluate_episodes(compiled, meta_params, stream, rate, episodes=episodes, tasks=tasks, rng=rng)
