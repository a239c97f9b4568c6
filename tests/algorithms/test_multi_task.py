"""Joint training: its gradient is that of all items of all tasks together, and adapting is MAML's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj

TASKS, SUPPORT, QUERY, FEATURES = 4, 3, 5, 2


def loss_fn(params, batch, rng):
    error = batch["x"] @ params["w"] - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.abs(error).max()}


def problem():
    rng = np.random.default_rng(0)
    side = lambda items: {"x": rng.normal(size=(TASKS, items, FEATURES)), "y": rng.normal(size=(TASKS, items))}  # noqa: E731
    return rng.normal(size=FEATURES), fsj.Episode(side(SUPPORT), side(QUERY))


@pytest.mark.parametrize("task_chunk", [None, 2, 3])
def test_the_gradient_is_that_of_least_squares_over_all_items(float64, task_chunk):
    w, episodes = problem()
    x, y = (
        np.concatenate([episodes.support[name], episodes.query[name]], 1).reshape(TASKS * (SUPPORT + QUERY), -1)
        for name in ("x", "y")
    )
    learner = fsj.multi_task(loss_fn, task_chunk=task_chunk)
    grads, metrics = learner.grad(learner.init({"w": w}, None), episodes, jax.random.key(0))
    residual = x @ w - y[:, 0]
    np.testing.assert_allclose(grads["params"]["w"], 2 * residual @ x / len(x), rtol=1e-12)
    np.testing.assert_allclose(metrics["loss"], np.mean(residual**2), rtol=1e-12)
    assert "largest" in metrics


def test_the_joint_loss_trains_what_the_loss_of_a_task_does_not_see(float64):
    def joint(params, batch, rng):
        return jnp.mean((batch["x"] @ params["joint"] - batch["y"]) ** 2), {}

    w, episodes = problem()
    learner = fsj.multi_task(loss_fn, joint_loss_fn=joint)
    grads, _ = learner.grad(learner.init({"w": w, "joint": w}, None), episodes, jax.random.key(0))
    assert not grads["params"]["w"].any()
    assert grads["params"]["joint"].all()


def test_adapting_is_gradient_descent_on_the_support_set(float64):
    w, episodes = problem()
    support = jax.tree.map(lambda leaf: leaf[0], episodes.support)
    learner = fsj.multi_task(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=2)
    adapted = learner.adapt(learner.init({"w": w}, None), support, jax.random.key(0))
    for _ in range(2):
        w = w - 0.1 * 2 * (support["x"] @ w - support["y"]) @ support["x"] / SUPPORT
    np.testing.assert_allclose(adapted["w"], w, rtol=1e-12)


def test_frozen_weights_reach_the_joint_loss_and_get_no_gradient():
    def shifted(params, batch, rng, frozen):
        return loss_fn({"w": params["w"] + frozen}, batch, rng)

    w, episodes = problem()
    learner = fsj.multi_task(shifted)
    meta_params = learner.init({"w": jnp.asarray(w, jnp.float32)}, None)
    shift = jnp.ones(FEATURES)
    given = learner.grad(meta_params, episodes, jax.random.key(0), frozen=shift)[0]
    moved = jax.tree.map(lambda leaf: leaf + shift, meta_params)
    expected = fsj.multi_task(loss_fn).grad(moved, episodes, jax.random.key(0))[0]
    np.testing.assert_allclose(given["params"]["w"], expected["params"]["w"], rtol=1e-5)
    of_frozen = jax.grad(lambda s: learner.grad(meta_params, episodes, jax.random.key(0), frozen=s)[1]["loss"])(shift)
    np.testing.assert_array_equal(of_frozen, np.zeros(FEATURES))
