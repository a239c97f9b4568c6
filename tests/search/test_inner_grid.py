"""The grid of inner rates and steps: one program gives what single evaluations give."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fewshot_jax as fsj
from fewshot_jax.applications.application import Score
from fewshot_jax.config import InnerConfig
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes
from fewshot_jax.search.inner_grid import InnerGrid, difference_of, grid_scores, tune_inner
from fewshot_jax.training.learners import inner_optimizer
from fewshot_jax.training.loop import train
from fewshot_jax.types import Episode
from tests.small_run import RUN, config_of

KEY = jax.random.key(0)
ERROR = Score("error", lambda w, episode: jnp.abs(w - episode.query["x"]).mean(), larger_is_better=False)
RATES, STEPS = (0.05, 0.2, 0.4), (1, 2, 4)


def loss_fn(params, batch, rng):
    return jnp.mean((params["w"] - batch["x"]) ** 2), {}


def output_fn(params, batch, rng):
    return params["w"]


def stream(step, tasks):
    """Task i of the stream wants w = 1 + i / 10."""
    target = 1 + (step * tasks + np.arange(tasks, dtype=np.float32)[:, None]) / 10
    return Episode({"x": target}, {"x": target})


def maml(optimizer="sgd", rate=0.7, steps=4):
    inner = inner_optimizer(InnerConfig(optimizer=optimizer, rate=rate))
    return fsj.maml(loss_fn, inner_optimizer=inner, inner_steps=steps, output_fn=output_fn)


def grid(learner, meta_params, **chunks):
    scores = grid_scores(learner, ERROR.of, rates=RATES, steps=STEPS, **chunks)
    return evaluate_episodes(scores, meta_params, stream, episodes=5, tasks=2, rng=KEY)


@pytest.mark.parametrize(
    "chunks", [{"grid_chunk": 4}, {"grid_chunk": 100}, {"grid_chunk": 1, "task_chunk": 1}], ids=str
)
def test_the_grid_is_the_closed_form_of_gradient_descent(chunks):
    """Gradient descent on (w - x)^2 from zero leaves the error |x (1 - 2 rate)^n|; chunks change nothing."""
    learner = maml()
    found = grid(learner, learner.init({"w": jnp.float32(0)}, KEY), **chunks)
    targets, rates, steps = 1 + np.arange(5) / 10, np.array(RATES), np.array(STEPS)
    expected = targets[:, None, None] * np.abs(1 - 2 * rates[:, None]) ** steps
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rates_of_a_learner_that_learned_its_own_are_multiples():
    learner = fsj.meta_sgd(loss_fn, inner_rate=0.5, inner_steps=4, output_fn=output_fn)
    plain = maml()
    found = grid(learner, learner.init({"w": jnp.float32(0)}, KEY))
    scores = grid_scores(plain, ERROR.of, rates=[0.5 * rate for rate in RATES], steps=STEPS)
    where = (plain.init({"w": jnp.float32(0)}, KEY), stream)
    np.testing.assert_allclose(found, evaluate_episodes(scores, *where, episodes=5, tasks=2, rng=KEY), rtol=1e-5)


def test_the_grid_is_the_loop_over_learners_built_for_each_point(float64):
    """With Adam, whose steps have no closed form: each point again by a learner of its rate and its steps alone."""
    learner = maml("adam")
    start = learner.init({"w": jnp.float64(0)}, KEY)
    found = grid(learner, start)
    for (i, rate), (j, steps) in itertools.product(enumerate(RATES), enumerate(STEPS)):
        alone = episode_scores(maml("adam", rate, steps), ERROR.of)
        expected = evaluate_episodes(alone, start, stream, episodes=5, tasks=2, rng=KEY)
        np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-6)


def test_the_whole_grid_is_traced_once():
    traces = []

    def counted(params, batch, rng):
        traces.append(batch)
        return loss_fn(params, batch, rng)

    def traced(rates):
        traces.clear()
        learner = fsj.maml(counted, inner_steps=4, output_fn=output_fn)
        scores = grid_scores(learner, ERROR.of, rates=rates, steps=STEPS, grid_chunk=4)
        start = learner.init({"w": jnp.float32(0)}, KEY)
        evaluate_episodes(scores, start, stream, episodes=6, tasks=2, rng=KEY)
        return len(traces)

    assert traced(RATES) == traced((*RATES, 0.5, 0.6, 0.7)) > 0, "more points are no more programs"


def test_the_best_point_is_none_that_diverged():
    fields = {
        "run": "r",
        "rates": RATES,
        "learned": False,
        "steps": STEPS,
        "shots": (1,),
        "episodes": 2,
        "own": (1.0, 1),
        "own_score": np.nan,
        "difference": None,
    }
    scores = np.array([[3.0, 2.0, 4.0], [np.nan, 5.0, 1.0], [-np.inf, np.inf, np.nan]])
    less = InnerGrid(score=ERROR, scores=scores, **fields)
    assert less.best == (0.2, 4, 1.0)
    assert less._replace(score=ERROR._replace(larger_is_better=True)).best == (0.2, 2, 5.0)
    found = less.to_json()
    assert found["scores"] == [[3.0, 2.0, 4.0], [None, 5.0, 1.0], [None, None, None]]
    assert found["own"]["score"] is None and found["best_minus_own"] is None


@pytest.mark.parametrize("larger_is_better", [False, True])
def test_the_difference_is_that_of_a_paired_t_interval(larger_is_better):
    """Against scipy's t-test of paired samples, for the point that is best on the mean."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=30)
    points = own[:, None] + np.array([0.1, -0.5, 0.6]) + 0.3 * rng.normal(size=(30, 3))
    points[3, 2 if larger_is_better else 1] = np.nan  # what would have been the best diverged once
    score = ERROR._replace(larger_is_better=larger_is_better)
    found = difference_of(points, own, score)
    expected = stats.ttest_rel(points[:, 0], own).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(expected.low)
    assert found.mean + found.half_width == pytest.approx(expected.high)
    assert difference_of(points, np.where(np.arange(30) == 7, np.inf, own), score) is None
    assert difference_of(np.full((30, 3), np.nan), own, score) is None


def test_of_one_episode_there_is_a_difference_and_no_interval():
    difference = difference_of(np.array([[1.0, 3.0]]), np.array([2.0]), ERROR)
    found = InnerGrid(
        run="r",
        score=ERROR,
        rates=(0.1,),
        learned=False,
        steps=(1, 2),
        shots=(1,),
        episodes=1,
        scores=np.array([[1.0, 3.0]]),
        own=(0.2, 1),
        own_score=2.0,
        difference=difference,
    ).to_json()
    assert found["best_minus_own"] == {"mean": -1.0, "half_width": None}
    assert found["own"] == {"rate": 0.2, "steps": 1, "score": 2.0}


@pytest.mark.slow
def test_a_trained_run_is_judged_as_its_own_validation_judges_it(tmp_path):
    """At the run's own rate and steps the grid repeats the validation score of the best checkpoint."""
    config = config_of(
        RUN,
        learner={"name": "maml", "gradient": "first_order"},
        inner={"rate": 0.4, "steps": 2},
        outer={"steps": 2, "tasks": 1},
    )
    train(config, tmp_path / "run", quiet=True)
    found = tune_inner(tmp_path / "run", rates=[0.1, 0.4], steps=[1, 2])
    from fewshot_jax.training.run_directory import RunDirectory

    own = RunDirectory(tmp_path / "run").result()["validation_accuracy"]
    assert found.scores[1, 1] == pytest.approx(own, abs=1e-6)
    assert found.own == (0.4, 2) and found.own_score == found.scores[1, 1]
    assert json.loads((tmp_path / "run" / "inner_grid.json").read_text()) == found.to_json()
    assert found.difference.mean == pytest.approx(found.best[2] - found.own_score, abs=1e-9)
    outside = tune_inner(tmp_path / "run", rates=[0.1], steps=[1])
    assert outside.scores.shape == (1, 1) and outside.own_score == pytest.approx(own, abs=1e-6), "outside of the grid"
    assert outside.difference.mean == pytest.approx(outside.scores[0, 0] - own, abs=1e-6)
    with pytest.raises(UserError, match="--rates: expected positive numbers"):
        tune_inner(tmp_path / "run", rates=[-1.0])
