"""The inner loop: overrides, minibatches, keys, support losses and optimizer state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj

ITEMS, FEATURES, STEPS = 6, 3, 4


def linear_loss(params, batch, rng):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return jnp.mean(error**2), {}


def make_params():
    return {"w": jnp.asarray([0.5, -1.0, 2.0]), "b": jnp.asarray(0.25)}


def make_episode(seed=0, lead=()):
    generator = np.random.default_rng(seed)

    def side(items):
        return {
            "x": jnp.asarray(generator.normal(size=(*lead, items, FEATURES))),
            "y": jnp.asarray(generator.normal(size=(*lead, items))),
        }

    return fsj.Episode(side(ITEMS), side(ITEMS))


def rated(optimizer, **keywords):
    return optax.inject_hyperparams(optimizer)(learning_rate=0.01, **keywords)


OPTIMIZERS = {
    "sgd": (optax.sgd, {}),
    "momentum": (optax.sgd, {"momentum": 0.9}),
    "adam": (optax.adam, {"eps_root": 1e-8}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_vmapped_grid_of_rates_and_steps_equals_learners_built_with_them(float64, optimizer):
    factory, keywords = OPTIMIZERS[optimizer]
    learner = fsj.maml(linear_loss, inner_optimizer=rated(factory, **keywords), inner_steps=STEPS)
    meta_params, episode, rng = {"params": make_params()}, make_episode(), jax.random.key(0)
    rates, steps = (grid.ravel() for grid in jnp.meshgrid(jnp.array([0.03, 0.3]), jnp.array([0, 1, STEPS])))

    def at(rate, count):
        overrides = {"inner_rate": rate, "inner_steps": count}
        adapted = learner.adapt(meta_params, episode.support, rng, **overrides)
        value_and_grad = jax.value_and_grad(lambda m: learner.loss(m, episode, rng, **overrides)[0])
        return adapted, *value_and_grad(meta_params)

    grid = jax.jit(jax.vmap(at))(rates, steps)
    for i, (rate, count) in enumerate(zip(rates.tolist(), steps.tolist(), strict=True)):
        built = fsj.maml(linear_loss, inner_optimizer=factory(rate, **keywords), inner_steps=count)
        adapted = jax.jit(built.adapt)(meta_params, episode.support, rng)
        value_and_grad = jax.jit(jax.value_and_grad(lambda m, built=built: built.loss(m, episode, rng)[0]))
        loss, grads = value_and_grad(meta_params)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], grid), (adapted, loss, grads), rtol=0, atol=1e-10
        )


def test_grad_accepts_overrides_for_the_whole_meta_batch(float64):
    learner = fsj.maml(linear_loss, inner_optimizer=rated(optax.sgd), inner_steps=STEPS, task_chunk=2)
    built = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.2), inner_steps=2)
    meta_params, episodes, rng = {"params": make_params()}, make_episode(lead=(3,)), jax.random.key(0)
    grads, metrics = jax.jit(learner.grad)(meta_params, episodes, rng, inner_rate=0.2, inner_steps=2)
    expected, expected_metrics = jax.jit(built.grad)(meta_params, episodes, rng)
    chex.assert_trees_all_close(grads, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(metrics["task_loss"], expected_metrics["task_loss"], rtol=0, atol=1e-10)


def test_zero_steps_leave_the_parameters_as_they_are():
    learner = fsj.maml(linear_loss, inner_optimizer=optax.adam(0.1), inner_steps=STEPS)
    params, episode = make_params(), make_episode()
    for adapted in (
        learner.adapt({"params": params}, episode.support, jax.random.key(0), inner_steps=0),
        fsj.maml(linear_loss, inner_steps=0).adapt({"params": params}, episode.support, jax.random.key(0)),
    ):
        chex.assert_trees_all_equal(adapted, params)


def test_a_plain_python_rate_is_accepted_of_any_number_type():
    learner = fsj.maml(linear_loss, inner_optimizer=rated(optax.sgd), inner_steps=1)
    built = fsj.maml(linear_loss, inner_optimizer=optax.sgd(1.0), inner_steps=1)
    meta_params, support, rng = {"params": make_params()}, make_episode().support, jax.random.key(0)
    expected = built.adapt(meta_params, support, rng)
    for rate in (1.0, np.float64(1.0), jnp.float32(1.0), 1):
        adapted = learner.adapt(meta_params, support, rng, inner_rate=rate)
        chex.assert_trees_all_close(adapted, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [0, STEPS + 3, pytest.param(np.int64(STEPS + 1), id="numpy_integer")])
def test_a_step_count_that_is_not_traced_is_the_length_of_the_loop(float64, steps):
    learner = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=STEPS)
    built = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=int(steps))
    arguments = ({"params": make_params()}, make_episode(), jax.random.key(0))
    given, expected = learner.loss(*arguments, inner_steps=steps), built.loss(*arguments)
    chex.assert_trees_all_close(given, expected, rtol=0, atol=0)
    assert given[1]["support_loss"].shape == (steps,)


def test_a_negative_step_count_is_refused():
    learner = fsj.maml(linear_loss, inner_steps=STEPS)
    with pytest.raises(ValueError, match="inner_steps=-1"):
        learner.adapt({"params": make_params()}, make_episode().support, jax.random.key(0), inner_steps=-1)


def test_a_rate_for_an_optimizer_without_one_in_its_state_says_what_to_build():
    learner = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.01))
    with pytest.raises(ValueError, match=r"optax\.inject_hyperparams\(optax\.sgd\)"):
        learner.adapt({"params": make_params()}, make_episode().support, jax.random.key(0), inner_rate=0.1)


def counting_learner(**keywords):
    """One SGD step of rate one adds, to a counter per item, how often the step saw the item."""

    def loss_fn(params, batch, rng):
        return -jnp.sum(jax.nn.one_hot(batch, ITEMS) @ params), {}

    return fsj.maml(loss_fn, inner_optimizer=optax.sgd(1.0), **keywords)


def draws(size, steps, seeds=(0,)):
    """``[seeds, steps, ITEMS]``: how often each inner step drew each item."""
    learner = counting_learner(inner_steps=steps, inner_batch_size=size)

    def counts(seed, count):
        return learner.adapt({"params": jnp.zeros(ITEMS)}, jnp.arange(ITEMS), jax.random.key(seed), inner_steps=count)

    grid = jax.vmap(jax.vmap(counts, in_axes=(None, 0)), in_axes=(0, None))
    return np.diff(np.asarray(jax.jit(grid)(jnp.array(seeds), jnp.arange(steps + 1))), axis=1)


@pytest.mark.parametrize("size", [1, 2, ITEMS])
def test_a_drawn_minibatch_has_its_size_in_distinct_items(size):
    counts = draws(size, 10, seeds=range(3))
    assert set(np.unique(counts)) <= {0.0, 1.0}
    np.testing.assert_array_equal(counts.sum(-1), size)


def test_minibatches_differ_by_step_and_by_task_key_and_reach_every_item():
    counts = draws(2, 40, seeds=range(2))
    assert (counts.sum(1) > 0).all()
    assert (counts[0] != counts[1]).any()
    for one in counts:
        assert len(np.unique(one, axis=0)) >= 8  # of 15 pairs; 40 uniform draws find fewer with p < 1e-7


def test_a_minibatch_as_large_as_the_support_set_is_the_support_set(float64):
    meta_params, episode, rng = {"params": make_params()}, make_episode(), jax.random.key(0)
    drawn = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=STEPS, inner_batch_size=ITEMS)
    whole = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=STEPS)
    chex.assert_trees_all_close(
        drawn.adapt(meta_params, episode.support, rng), whole.adapt(meta_params, episode.support, rng), atol=1e-12
    )


def noise_learner(steps):
    """The gradient of each inner step, and the slope of the query loss, is the noise of its key."""

    def loss_fn(params, batch, rng):
        return params * jax.random.normal(rng), {}

    return fsj.maml(loss_fn, inner_optimizer=optax.sgd(1.0), inner_steps=steps)


@pytest.fixture(scope="module")
def noises():
    """``noises(seed)``: the noise each inner step consumed, then that of the query."""
    learner, batch, start = noise_learner(STEPS), jnp.zeros(1), {"params": jnp.float32(1.0)}

    @jax.jit
    def consumed(seed):
        rng = jax.random.key(seed)
        path = jax.vmap(lambda count: learner.adapt(start, batch, rng, inner_steps=count))(jnp.arange(STEPS + 1))
        # The inner steps do not depend on the start, so d(query loss)/d(start) is the query's noise.
        query = jax.grad(lambda m: learner.loss(m, fsj.Episode(batch, batch), rng)[0])(start)["params"]
        return jnp.append(-jnp.diff(path), query)

    return lambda seed: np.asarray(consumed(seed))


def test_every_inner_step_and_the_query_consume_a_key_of_their_own(noises):
    consumed = noises(0)
    distance = np.abs(consumed[:, None] - consumed[None, :])
    assert distance[~np.eye(STEPS + 1, dtype=bool)].min() > 1e-4


def test_the_same_rng_gives_the_same_keys_and_another_rng_others(noises):
    np.testing.assert_array_equal(noises(0), noises(0))
    assert np.abs(noises(0) - noises(1)).min() > 1e-4


def test_support_loss_is_the_loss_before_each_step(float64):
    learner = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=STEPS)
    params, episodes, rng = make_params(), make_episode(lead=(2,)), jax.random.key(0)
    _, metrics = jax.jit(learner.grad)({"params": params}, episodes, rng)
    assert metrics["support_loss"].shape == (2, STEPS)
    for t in range(2):
        x, y = np.asarray(episodes.support["x"][t]), np.asarray(episodes.support["y"][t])
        w, b = np.asarray(params["w"]), float(params["b"])
        for k in range(STEPS):  # gradient descent on a mean square, by hand
            error = x @ w + b - y
            np.testing.assert_allclose(metrics["support_loss"][t, k], np.mean(error**2), rtol=0, atol=1e-10)
            w, b = w - 0.1 * 2 * x.T @ error / ITEMS, b - 0.1 * 2 * error.mean()


def test_support_loss_of_no_steps_is_empty():
    learner = fsj.maml(linear_loss, inner_steps=0)
    metrics = jax.eval_shape(learner.grad, {"params": make_params()}, make_episode(lead=(2,)), jax.random.key(0))[1]
    assert metrics["support_loss"].shape == (2, 0)


def test_support_loss_stays_where_it_is_after_the_last_step_taken(float64):
    learner = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=STEPS)
    meta_params, episode, rng = {"params": make_params()}, make_episode(), jax.random.key(0)
    _, aux = jax.jit(lambda steps: learner.loss(meta_params, episode, rng, inner_steps=steps))(2)
    after_two, _ = linear_loss(learner.adapt(meta_params, episode.support, rng, inner_steps=2), episode.support, rng)
    np.testing.assert_allclose(aux["support_loss"][2:], [after_two] * (STEPS - 2), rtol=0, atol=1e-12)


def test_adam_starts_fresh_in_every_task(float64):
    rate, eps, eps_root = 0.1, 1e-8, 1e-8
    learner = fsj.maml(linear_loss, inner_optimizer=optax.adam(rate, eps=eps, eps_root=eps_root), inner_steps=1)
    params, episodes = make_params(), make_episode(lead=(3,))
    adapt = jax.jit(lambda support: learner.adapt({"params": params}, support, jax.random.key(0)))
    for t in range(3):
        support = jax.tree.map(lambda leaf, t=t: leaf[t], episodes.support)
        error = np.asarray(support["x"] @ params["w"] + params["b"] - support["y"])
        gradient = 2 * np.asarray(support["x"]).T @ error / ITEMS
        # With m = v = 0 and bias correction, Adam's first step is rate * g / (sqrt(g^2 + eps_root) + eps).
        expected = np.asarray(params["w"]) - rate * gradient / (np.sqrt(gradient**2 + eps_root) + eps)
        np.testing.assert_allclose(adapt(support)["w"], expected, rtol=0, atol=1e-10)
    together = jax.vmap(adapt)(episodes.support)
    alone = [adapt(jax.tree.map(lambda leaf, t=t: leaf[t], episodes.support)) for t in range(3)]
    chex.assert_trees_all_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone), atol=1e-12)


def test_task_init_fn_is_where_the_inner_loop_starts_and_lets_the_meta_gradient_through(float64):
    meta_params, episode, rng = {"params": make_params()}, make_episode(), jax.random.key(0)

    def doubled(params, support, rng):
        return jax.tree.map(lambda leaf: 2 * leaf, params)

    started = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=2, task_init_fn=doubled)
    plain = fsj.maml(linear_loss, inner_optimizer=optax.sgd(0.1), inner_steps=2)
    there = {"params": doubled(meta_params["params"], None, None)}
    chex.assert_trees_all_close(
        started.adapt(meta_params, episode.support, rng), plain.adapt(there, episode.support, rng), atol=1e-12
    )
    given = jax.jit(jax.grad(lambda m: started.loss(m, episode, rng)[0]))(meta_params)
    outer = jax.jit(jax.grad(lambda m: plain.loss(m, episode, rng)[0]))(there)
    chex.assert_trees_all_close(given, jax.tree.map(lambda leaf: 2 * leaf, outer), atol=1e-10)  # chain rule
