"""Loops chosen on validation episodes: Adam's steps, a learner's own, and the best of their rates and numbers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.application import Functions, Score
from fewshot_jax.config import InnerConfig
from fewshot_jax.evaluation.tuning import Choice, Tuning, adapted, fine_tuned
from fewshot_jax.training.learners import inner_optimizer
from fewshot_jax.types import Episode

KEY = jax.random.key(0)


def loss_fn(params, batch, rng):
    return jnp.mean((params["w"] - batch["x"]) ** 2), {}


FUNCTIONS = Functions(None, loss_fn, lambda params, batch, rng: params["w"], joint_loss_fn=loss_fn)
ERROR = Score("error", lambda w, episode: jnp.abs(w - episode.query["x"]).mean(), larger_is_better=False)


def fine_tuning(score, *, rates, steps, task_chunk=None):
    """Tuning of Adam over one to so many steps."""
    loop = functools.partial(fine_tuned, FUNCTIONS)
    return Tuning(loop, score, score.of, rates=rates, steps=range(1, steps + 1), task_chunk=task_chunk)


def stream(step, tasks):
    """Task i of the stream wants w = 1 + i / 10."""
    target = 1 + (step * tasks + np.arange(tasks, dtype=np.float32)[:, None]) / 10
    return Episode({"x": target}, {"x": target})


def after(rate, steps, target):
    """Adam by hand in optax, a step at a time."""
    optimizer = optax.adam(rate)
    params = {"w": jnp.float32(0)}
    state = optimizer.init(params)
    for _ in range(steps):
        grads = jax.grad(lambda p: loss_fn(p, {"x": jnp.float32(target)}, None)[0])(params)
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(params, updates)
    return abs(float(params["w"]) - target)


@pytest.mark.parametrize("task_chunk", [None, 1])
def test_the_scores_are_those_after_as_many_steps_of_adam(task_chunk):
    tuning = fine_tuning(ERROR, rates=[0.5, 0.01], steps=4, task_chunk=task_chunk)
    start = {"params": {"w": jnp.float32(0)}}
    for choice in (Choice(0.5, 3), Choice(0.01, 1)):
        scores = tuning.scores(choice, start, stream, episodes=5, tasks=2, rng=KEY)
        expected = [after(*choice, 1 + i / 10) for i in range(5)]
        np.testing.assert_allclose(scores, expected, atol=2e-5)


def test_the_best_of_all_rates_and_numbers_of_steps_is_chosen():
    rates, most = [0.9, 0.5, 0.01], 4
    tuning = fine_tuning(ERROR, rates=rates, steps=most)
    start = {"params": {"w": jnp.float32(0)}}
    choice = tuning.choose(start, stream, episodes=3, tasks=2, rng=KEY)
    means = {
        Choice(rate, steps): np.mean([after(rate, steps, 1 + i / 10) for i in range(3)])
        for rate in rates
        for steps in range(1, most + 1)
    }
    assert choice == min(means, key=means.get)
    assert choice.steps < most, "the largest number would show nothing"
    worst = fine_tuning(ERROR._replace(larger_is_better=True), rates=rates, steps=most)
    assert worst.choose(start, stream, episodes=3, tasks=2, rng=KEY) == max(means, key=means.get)


@pytest.mark.parametrize(
    ("choice", "edge"),
    [
        (Choice(0.1, 3), None),
        (Choice(0.1, 4), "most steps"),
        (Choice(0.01, 3), "smallest rate"),
        (Choice(1.0, 3), "largest rate"),
    ],
)
def test_a_choice_at_the_edge_of_what_was_tried_is_known(choice, edge):
    assert fine_tuning(ERROR, rates=[1.0, 0.01, 0.1], steps=4).at_edge(choice) == edge
    assert fine_tuning(ERROR, rates=[1.0, 0.1], steps=4).at_edge(Choice(0.1, 3)) is None
    for steps, asked, told in (
        ((2, 4, 8), 2, "fewest steps"),
        ((1, 2, 4), 1, None),
        ((3,), 3, None),
        ((2, 4), 4, None),
    ):
        tuning = Tuning(functools.partial(fine_tuned, FUNCTIONS), ERROR, ERROR.of, rates=[0.1], steps=steps)
        assert tuning.at_edge(Choice(0.1, asked)) == told


def test_a_rate_that_diverges_is_not_chosen():
    tuning = fine_tuning(ERROR._replace(larger_is_better=True), rates=[np.inf, 0.1], steps=2)
    choice = tuning.choose({"params": {"w": jnp.float32(0)}}, stream, episodes=2, tasks=2, rng=KEY)
    assert choice.rate == 0.1


LEARNERS = {
    "rate": fsj.maml(loss_fn, inner_optimizer=inner_optimizer(InnerConfig(rate=0.7)), output_fn=FUNCTIONS.output_fn),
    "learned rates": fsj.meta_sgd(loss_fn, inner_rate=0.1, output_fn=FUNCTIONS.output_fn),
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_learner_is_judged_at_multiples_of_its_rates_after_each_number_of_steps(kind):
    """Closed form: gradient descent on (w - x)^2 from zero leaves the error |x (1 - 2 rate)^n|."""
    learner = LEARNERS[kind]
    meta_params = learner.init({"w": jnp.float32(0)}, KEY)
    factors, numbers = [0.5, 4.0, 100.0], [1, 3]
    tuning = Tuning(functools.partial(adapted, learner, rate=0.1), ERROR, ERROR.of, rates=factors, steps=numbers)
    targets = 1 + np.arange(5) / 10
    for factor, number in itertools.product(factors[:2], numbers):
        scores = tuning.scores(Choice(factor, number), meta_params, stream, episodes=5, tasks=2, rng=KEY)
        np.testing.assert_allclose(scores, targets * (1 - 0.2 * factor) ** number, rtol=1e-5)
    assert tuning.choose(meta_params, stream, episodes=3, tasks=2, rng=KEY) == Choice(4.0, 3)
    once = Tuning(functools.partial(adapted, learner, rate=0.1), ERROR, ERROR.of, rates=[9.0, 100.0], steps=numbers)
    assert once.choose(meta_params, stream, episodes=3, tasks=2, rng=KEY) == Choice(9.0, 3), "|1 - 1.8|^3 is least"
