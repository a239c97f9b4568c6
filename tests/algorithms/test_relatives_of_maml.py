"""MAML's relatives against closed forms, finite differences, and each other where they must coincide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import fewshot_jax as fsj
from fewshot_jax.algorithms.differentiation import Gradient
from fewshot_jax.algorithms.learned_rates import positive
from fewshot_jax.algorithms.maml_plus_plus import multi_step_weights

TASKS, ITEMS, FEATURES, HIDDEN, OUTPUTS, RATE = 3, 6, 4, 5, 2, 0.1
SGD = optax.sgd(RATE)


def loss_fn(params, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["body"]["kernel"])
    error = hidden @ params["head"]["kernel"] - batch["y"]
    return jnp.mean(error**2), {"first": error[0, 0]}


def make_params():
    rng = np.random.default_rng(0)
    return {
        "body": {"kernel": jnp.asarray(rng.normal(size=(FEATURES, HIDDEN)))},
        "head": {"kernel": jnp.asarray(rng.normal(size=(HIDDEN, OUTPUTS)))},
    }


def make_episodes(seed=1):
    rng = np.random.default_rng(seed)

    def side():
        shapes = {"x": (TASKS, ITEMS, FEATURES), "y": (TASKS, ITEMS, OUTPUTS)}
        return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}

    return fsj.Episode(side(), side())


def gradient_of(learner, meta_params=None, **keywords):
    """The direction of the outer optimizer, compiled as a whole unless there are keywords, which stay plain values."""
    meta_params = learner.init(make_params(), jax.random.key(0)) if meta_params is None else meta_params
    grad = learner.grad if keywords else jax.jit(learner.grad)
    return grad(meta_params, make_episodes(), jax.random.key(1), **keywords)[0]


def raveled(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def close(given, expected, tolerance=1e-10):
    a, b = raveled(given), raveled(expected)
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), np.linalg.norm(a - b) / np.linalg.norm(b)


def distant(given, expected):
    a, b = raveled(given), raveled(expected)
    return bool(np.linalg.norm(a - b) > 1e-3 * np.linalg.norm(b))


def by_finite_differences(learner, meta_params, step=1e-6):
    """Central differences of the mean loss over tasks, in every meta-parameter."""
    flat, unravel = ravel_pytree(meta_params)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(1), jnp.arange(TASKS))

    @jax.jit
    def mean_losses(points):
        def mean_loss(point):
            return jax.vmap(lambda e, k: learner.loss(unravel(point), e, k)[0])(make_episodes(), keys).mean()

        return jax.vmap(mean_loss)(points)

    flat, moves = np.asarray(flat), step * np.eye(flat.size)
    rise = mean_losses(flat + moves) - mean_losses(flat - moves)
    return unravel(rise / (2 * step))


# First order, and subsets of the parameters


def test_first_order_is_second_order_where_the_hessian_vanishes(float64):
    def linear(params, batch, rng):
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(params), batch["slope"], strict=True)), {}

    rng = np.random.default_rng(2)
    slopes = [jnp.asarray(rng.normal(size=(TASKS, *leaf.shape))) for leaf in jax.tree.leaves(make_params())]
    episodes = fsj.Episode({"slope": slopes}, {"slope": [2 * leaf for leaf in slopes]})
    meta_params = {"params": make_params()}
    grads = [
        jax.jit(build(linear, inner_optimizer=SGD, inner_steps=3).grad)(meta_params, episodes, jax.random.key(0))[0]
        for build in (fsj.fomaml, fsj.maml)
    ]
    close(*grads)


def test_first_order_is_the_query_gradient_at_the_adapted_parameters(float64):
    learner = fsj.fomaml(loss_fn, inner_optimizer=SGD, inner_steps=3)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def query_gradient(meta_params, support, query):
        adapted = learner.adapt(meta_params, support, jax.random.key(0))
        return jax.grad(lambda params: loss_fn(params, query, None)[0])(adapted)

    total = jax.tree.map(lambda leaf: leaf.mean(0), query_gradient({"params": make_params()}, *make_episodes()))
    close(gradient_of(learner), total)
    assert distant(gradient_of(fsj.maml(loss_fn, inner_optimizer=SGD, inner_steps=3)), total)


def test_anil_that_adapts_all_is_maml(float64):
    options = {"inner_optimizer": SGD, "inner_steps": 3}
    maml = gradient_of(fsj.maml(loss_fn, **options))
    close(gradient_of(fsj.anil(loss_fn, head="", **options)), maml)
    assert distant(gradient_of(fsj.anil(loss_fn, **options)), maml)


@pytest.mark.parametrize(("build", "moves"), [(fsj.anil, "head"), (fsj.boil, "body")])
def test_the_inner_loop_moves_one_part_and_the_outer_loop_both(float64, build, moves):
    learner = build(loss_fn, inner_optimizer=SGD, inner_steps=2)
    meta_params = learner.init(make_params(), jax.random.key(0))
    support = jax.tree.map(lambda leaf: leaf[0], make_episodes().support)
    adapted = jax.jit(learner.adapt)(meta_params, support, jax.random.key(1))
    moved = {name for name in adapted if distant(adapted[name], meta_params["params"][name])}
    assert moved == {moves}
    close(gradient_of(learner), by_finite_differences(learner, meta_params), 1e-6)


# Reptile


def test_reptile_with_one_sgd_step_is_joint_training_times_the_rate(float64):
    def joint_loss(params):
        items = jax.tree.map(lambda *sides: jnp.concatenate(sides, 1), *make_episodes())
        return jax.vmap(lambda batch: loss_fn(params, batch, None)[0])(items).mean()

    direction = gradient_of(fsj.reptile(loss_fn, inner_optimizer=SGD, inner_steps=1))["params"]
    close(direction, jax.tree.map(lambda leaf: RATE * leaf, jax.grad(joint_loss)(make_params())))


def test_reptile_with_several_steps_is_the_way_they_went_in_numpy(float64):
    """Algorithm 2 for a linear model, written out."""

    def linear(params, batch, rng):
        return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), {}

    start, total = np.random.default_rng(3).normal(size=(FEATURES, OUTPUTS)), 0
    episodes = make_episodes()
    x, y = (np.concatenate([episodes.support[name], episodes.query[name]], 1) for name in ("x", "y"))
    for task in range(TASKS):
        w = start.copy()
        for _ in range(4):
            w -= RATE * 2 * x[task].T @ (x[task] @ w - y[task]) / y[task].size
        total += (start - w) / TASKS
    learner = fsj.reptile(linear, inner_optimizer=SGD, inner_steps=4)
    close(learner.grad({"params": {"w": jnp.asarray(start)}}, episodes, jax.random.key(0))[0], total)


def test_reptile_leaves_what_does_not_adapt_where_it_is(float64):
    direction = gradient_of(fsj.reptile(loss_fn, inner_optimizer=SGD, inner_steps=2, inner_params="head"))["params"]
    assert not np.any(direction["body"]["kernel"])
    assert np.any(direction["head"]["kernel"])


def test_reptile_of_equal_tasks_is_that_of_one_also_in_half_precision():
    """The weights 1/T are no numbers of bfloat16: rounded to them, they would not sum to one."""
    tasks, move = 15, np.random.default_rng(0).normal(size=(1, 200)).astype(jnp.bfloat16)
    learner = fsj.reptile(lambda p, batch, rng: (jnp.mean(batch @ p), {}), inner_optimizer=optax.sgd(1.0))
    episodes = jax.tree.map(lambda leaf: np.repeat(leaf[None], tasks, 0), fsj.Episode(move, move))
    meta_params = learner.init(jnp.zeros(200, jnp.bfloat16), jax.random.key(0))
    together, alone = (
        jax.jit(learner.grad)(meta_params, jax.tree.map(lambda leaf, n=n: leaf[:n], episodes), jax.random.key(0))[0][
            "params"
        ]
        for n in (tasks, 1)
    )
    np.testing.assert_array_equal(together.astype(float), alone.astype(float))


# Learned rates


def test_meta_sgd_with_equal_rates_is_maml(float64):
    options = {"inner_steps": 3}
    maml = gradient_of(fsj.maml(loss_fn, inner_optimizer=SGD, **options))
    close(gradient_of(fsj.meta_sgd(loss_fn, inner_rate=RATE, **options))["params"], maml["params"])


def test_the_rates_of_one_step_have_the_gradient_of_the_paper(float64):
    """d L_q(theta - alpha g) / d alpha = -g L_q'(theta - alpha g), elementwise."""
    learner = fsj.meta_sgd(loss_fn, inner_rate=RATE, inner_steps=1)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def by_hand(params, support, query):
        value = lambda params, batch: loss_fn(params, batch, None)[0]  # noqa: E731
        inner = jax.grad(value)(params, support)
        adapted = jax.tree.map(lambda p, g: p - RATE * g, params, inner)
        return jax.tree.map(lambda g, o: -g * o, inner, jax.grad(value)(adapted, query))

    expected = jax.tree.map(lambda leaf: leaf.mean(0), by_hand(make_params(), *make_episodes()))
    close(gradient_of(learner)["inner_rates"], expected)


def by_layer(path, leaf):
    return (leaf.shape[0], 1)


@pytest.mark.parametrize("gradient", ["mixed", "reverse"])
@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("base", [None, optax.adam(1.0, eps_root=1e-8)], ids=["sgd", "adam"])
@pytest.mark.parametrize("shape", ["leaf", "parameter", by_layer])
def test_learned_rates_have_the_gradient_of_finite_differences(float64, shape, base, steps, gradient):
    rates = fsj.learned_rates(0.05, shape=shape, steps=steps, base=base)
    learner = fsj.maml(loss_fn, inner_optimizer=rates, inner_steps=3, gradient=gradient)
    meta_params = learner.init(make_params(), jax.random.key(0))
    noise = np.random.default_rng(4)
    meta_params["inner_rates"] = jax.tree.map(
        lambda leaf: leaf * noise.uniform(0.5, 1.5, leaf.shape), meta_params["inner_rates"]
    )
    close(gradient_of(learner, meta_params), by_finite_differences(learner, meta_params), 1e-6)


def test_each_step_has_its_rates_and_later_ones_the_last(float64):
    learner = fsj.maml(loss_fn, inner_optimizer=fsj.learned_rates(1.0, steps=2), inner_steps=2)
    meta_params = learner.init(make_params(), jax.random.key(0))
    meta_params["inner_rates"] = {path: jnp.array([0.3, 0.1]) for path in meta_params["inner_rates"]}
    support = jax.tree.map(lambda leaf: leaf[0], make_episodes().support)
    by_hand = make_params()
    slope = jax.jit(jax.grad(lambda p: loss_fn(p, support, None)[0]))
    for rate in (0.3, 0.1, 0.1, 0.1):
        grads = slope(by_hand)
        by_hand = jax.tree.map(lambda p, g, r=rate: p - r * g, by_hand, grads)
    close(learner.adapt(meta_params, support, jax.random.key(0), inner_steps=4), by_hand)


def test_an_override_replaces_all_rates(float64):
    learner = fsj.meta_sgd(loss_fn, inner_rate=0.7, inner_steps=2)
    maml = fsj.maml(loss_fn, inner_optimizer=SGD, inner_steps=2)
    meta_params = learner.init(make_params(), jax.random.key(0))
    support = jax.tree.map(lambda leaf: leaf[0], make_episodes().support)
    rates = jnp.array([0.5, RATE])
    grid = jax.vmap(lambda rate: learner.adapt(meta_params, support, jax.random.key(0), inner_rate=rate))(rates)
    expected = maml.adapt(meta_params, support, jax.random.key(0))
    close(jax.tree.map(lambda leaf: leaf[1], grid), expected)


def test_a_rate_below_zero_does_nothing_and_comes_back_where_that_helps(float64):
    assert positive(jnp.float64(-0.2)) == 0
    assert positive(jnp.float64(0.2)) == 0.2
    for rate in (-0.2, 0.0, 0.2):
        assert jax.grad(positive)(rate) == 1
    learner = fsj.meta_sgd(loss_fn, inner_rate=RATE, inner_steps=2)
    meta_params = learner.init(make_params(), jax.random.key(0))
    meta_params["inner_rates"] = jax.tree.map(lambda leaf: -leaf, meta_params["inner_rates"])
    support = jax.tree.map(lambda leaf: leaf[0], make_episodes().support)
    close(learner.adapt(meta_params, support, jax.random.key(0)), make_params(), 0)


@pytest.mark.parametrize("task_chunk", [None, 1])
def test_the_gradient_of_a_rate_below_zero_is_the_same_in_any_chunks_and_steps(float64, task_chunk):
    """Where the slopes of tasks and steps have two signs: -r' (sum of support slopes) (query slope), r' = 1."""

    def linear(params, batch, rng):
        return jnp.mean(batch) * params["w"], {}

    episodes = fsj.Episode(jnp.array([[1.0], [1.0]]), jnp.array([[3.0], [-1.0]]))
    learner = fsj.meta_sgd(linear, inner_rate=0.1, inner_steps=2, task_chunk=task_chunk)
    meta_params = {"params": {"w": jnp.array(1.0)}, "inner_rates": {"w": jnp.array(-0.1)}}
    grads, _ = learner.grad(meta_params, episodes, jax.random.key(0))
    np.testing.assert_allclose(grads["inner_rates"]["w"], -2 * (3.0 - 1.0) / 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rates_are_float32_where_the_parameters_are_less(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), make_params())
    rates = fsj.meta_sgd(loss_fn, task_init_fn=lambda p, s, r: p).init(params, jax.random.key(0))["inner_rates"]
    assert {(leaf.dtype, leaf.weak_type) for leaf in rates.values()} == {(jnp.dtype("float32"), False)}


def test_leaves_that_a_task_adds_share_one_rate(float64):
    def fresh_head(params, support, rng):
        return {**params, "head": {"kernel": jnp.ones((HIDDEN, OUTPUTS))}}

    learner = fsj.meta_sgd(loss_fn, inner_rate=RATE, inner_steps=2, task_init_fn=fresh_head)
    meta_params = learner.init({"body": make_params()["body"]}, jax.random.key(0))
    assert jax.tree.map(jnp.shape, meta_params["inner_rates"]) == {"body/kernel": (FEATURES, HIDDEN), "added": ()}
    close(gradient_of(learner, meta_params), by_finite_differences(learner, meta_params), 1e-6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 0.1, "steps": 0}, "steps=0"),
        ({"rate": 0.1, "shape": "row"}, "shape='row'"),
    ],
)
def test_learned_rates_out_of_range(keywords, message):
    with pytest.raises(ValueError, match=message):
        fsj.learned_rates(**keywords)


# MAML++


def test_multi_step_weights_go_from_equal_to_the_last():
    np.testing.assert_allclose(multi_step_weights(0.0, 4), [0.25] * 4)
    np.testing.assert_allclose(multi_step_weights(0.5, 4), [0.125, 0.125, 0.125, 0.625])
    for progress in (1.0, 3.0):
        np.testing.assert_allclose(multi_step_weights(progress, 4), [0, 0, 0, 1])
    np.testing.assert_allclose(multi_step_weights(0.5, 4, 2), [0.25, 0.75, 0, 0])
    np.testing.assert_allclose(multi_step_weights(0.5, 4, 0), [1, 0, 0, 0])


def maml_with_rates(**keywords):
    return fsj.maml(loss_fn, inner_optimizer=fsj.learned_rates(RATE, steps=3), **{"inner_steps": 3, **keywords})


@functools.cache
def plus_plus():
    return fsj.maml_plus_plus(loss_fn, inner_rate=RATE, inner_steps=3, multi_step_share=0.4, first_order_share=0.6)


@functools.cache
def grad_plus_plus():
    """One program for every progress."""
    return jax.jit(lambda meta_params, progress: gradient_of(plus_plus(), meta_params, progress=progress))


@functools.cache
def maml_after(steps, gradient):
    return raveled(gradient_of(maml_with_rates(inner_steps=steps, gradient=gradient), with_rates()))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.9])
def test_maml_plus_plus_is_a_weighted_sum_of_mamls(float64, progress, traced):
    gradient: Gradient = "first_order" if progress < 0.6 else "mixed"
    weights = multi_step_weights(progress / 0.4, 3)
    expected = 0
    for steps, weight in enumerate(weights, start=1):
        expected += weight * maml_after(steps, gradient)
    if traced:
        given = grad_plus_plus()(with_rates(), progress)
    else:
        given = gradient_of(plus_plus(), progress=progress)
    close(given, expected)


@pytest.mark.parametrize("steps", [0, 2])
def test_multi_step_losses_weigh_the_steps_that_a_traced_number_takes(float64, steps):
    given = jax.jit(lambda n: gradient_of(plus_plus(), progress=0.1, inner_steps=n))(steps)
    close(given, gradient_of(plus_plus(), progress=0.1, inner_steps=steps))


def test_the_phases_of_maml_plus_plus_agree_on_types_in_half_precision():
    def halved(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)

    meta_params = plus_plus().init(halved(make_params()), jax.random.key(0))

    def grad(progress):
        return plus_plus().grad(meta_params, halved(make_episodes()), jax.random.key(1), progress=progress)

    grads, metrics = jax.eval_shape(grad, 0.5)
    assert jax.tree.map(lambda leaf: leaf.dtype, grads) == jax.tree.map(lambda leaf: leaf.dtype, meta_params)
    assert metrics["task_loss"].dtype == jnp.bfloat16  # as the loss function gave it


def with_rates():
    return maml_with_rates().init(make_params(), jax.random.key(0))


def test_without_progress_training_counts_as_done(float64):
    close(gradient_of(plus_plus()), gradient_of(maml_with_rates()))


def test_other_learners_take_progress_and_ignore_it(float64):
    learner = fsj.maml(loss_fn, inner_optimizer=SGD)
    close(gradient_of(learner, progress=0.1), gradient_of(learner, progress=None), 0)


@pytest.mark.parametrize("name", ["multi_step_share", "first_order_share"])
def test_a_share_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name}=1.5"):
        fsj.maml_plus_plus(loss_fn, **{name: 1.5})


# iMAML


def quadratic(params, batch, rng):
    away = params["theta"] - batch["centre"]
    return 0.5 * away @ batch["hessian"] @ away + params["shared"] @ params["theta"], {}


def quadratic_episodes():
    rng = np.random.default_rng(5)

    def side():
        root = rng.normal(size=(TASKS, 4, 4))
        return {"hessian": root @ root.transpose(0, 2, 1) / 4, "centre": rng.normal(size=(TASKS, 4))}

    return fsj.Episode(side(), side())


def test_imaml_at_the_inner_optimum_is_the_derivative_of_the_implicit_function(float64):
    """phi* = (H + l)^-1 (H c + l theta - s), so dphi*/dtheta = l (H + l)^-1 and dphi*/ds = -(H + l)^-1."""
    strength, theta, shared = 0.7, np.linspace(-1, 1, 4), np.linspace(0.2, -0.3, 4)
    support, query = quadratic_episodes()
    by_theta, by_shared = 0, 0
    for task in range(TASKS):
        inverse = np.linalg.inv(support["hessian"][task] + strength * np.eye(4))
        phi = inverse @ (support["hessian"][task] @ support["centre"][task] + strength * theta - shared)
        outer = query["hessian"][task] @ (phi - query["centre"][task]) + shared
        by_theta += strength * inverse @ outer / TASKS
        by_shared += (phi - inverse @ outer) / TASKS
    learner = fsj.imaml(
        quadratic, proximal=strength, cg_steps=20, inner_optimizer=optax.sgd(0.2), inner_steps=600, inner_params="theta"
    )
    params = {"theta": jnp.asarray(theta), "shared": jnp.asarray(shared)}
    episodes = jax.tree.map(jnp.asarray, quadratic_episodes())
    grads, metrics = jax.jit(learner.grad)({"params": params}, episodes, jax.random.key(0))
    close(grads["params"], {"theta": by_theta, "shared": by_shared}, 1e-8)
    assert metrics["support_loss"].shape == (TASKS, 600)


def test_imaml_converges_to_the_unrolled_gradient_of_the_same_inner_problem(float64):
    def loss_of(head, batch):
        return jnp.mean((batch["x"] @ head["kernel"] - batch["y"]) ** 2)

    def pulled(params, batch, rng):  # with strength 2
        pull = jnp.sum((params["phi"]["kernel"] - params["start"]["kernel"]) ** 2)
        return loss_of(params["phi"], batch) + pull, {}

    start = {"kernel": jnp.asarray(np.random.default_rng(6).normal(size=(FEATURES, OUTPUTS)))}
    unrolled = fsj.maml(
        pulled,
        inner_optimizer=optax.sgd(0.2),
        inner_steps=200,
        inner_params="phi",
        task_init_fn=lambda params, support, rng: {"phi": params["start"], "start": params["start"]},
    )
    implicit = fsj.imaml(
        lambda params, batch, rng: (loss_of(params, batch), {}),
        proximal=2.0,
        cg_steps=30,
        inner_optimizer=optax.sgd(0.2),
        inner_steps=200,
    )
    episodes = make_episodes()

    def query_after(start):
        def one(support, query):
            adapted = unrolled.adapt({"params": {"start": start}}, support, jax.random.key(0))
            return loss_of(adapted["phi"], query)

        return jax.vmap(one)(*episodes).mean()

    given = jax.jit(implicit.grad)({"params": start}, episodes, jax.random.key(0))[0]["params"]
    close(given, jax.jit(jax.grad(query_after))(start), 1e-8)


def test_imaml_does_not_depend_on_the_path_of_the_inner_loop(float64):
    episodes = jax.tree.map(jnp.asarray, quadratic_episodes())
    meta_params = {"params": {"theta": jnp.linspace(-1, 1, 4), "shared": jnp.zeros(4)}}
    learners = [
        fsj.imaml(quadratic, cg_steps=20, inner_optimizer=optimizer, inner_steps=1500, inner_params="theta")
        for optimizer in (optax.sgd(0.2), optax.sgd(0.05, momentum=0.8))
    ]
    close(*(jax.jit(learner.grad)(meta_params, episodes, jax.random.key(0))[0] for learner in learners), 1e-8)


@pytest.mark.parametrize("inner", ["bfloat16", "float32"])
def test_imaml_solves_for_leaves_of_several_and_of_half_precision(inner):
    """A diagonal Hessian h from 1 to 50, proximal 1: the derivative is 1 / (h + 1), to what the dtypes hold."""
    h = {"a": jnp.linspace(1, 50, 40), "b": jnp.ones(2)}
    params = {"a": jnp.zeros(40, inner), "b": jnp.zeros(2, jnp.bfloat16)}

    def bowl(params, batch, rng):
        curved = jax.tree.map(lambda h, p: 0.5 * jnp.sum(h * p.astype(jnp.float32) ** 2), h, params)
        return curved["a"] + curved["b"], {}

    def query(params, batch, rng):
        value = jnp.sum(params["a"]) + jnp.sum(params["b"])
        return jnp.where(batch[0] > 0, value.astype(jnp.float32), bowl(params, batch, rng)[0]), {}

    learner = fsj.imaml(query, cg_steps=42, inner_optimizer=optax.sgd(0.01))
    episodes = fsj.Episode(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    grads = jax.jit(learner.grad)(learner.init(params, jax.random.key(0)), episodes, jax.random.key(0))[0]["params"]
    for name, leaf in grads.items():
        assert leaf.dtype == params[name].dtype
        np.testing.assert_allclose(leaf.astype(float), 1 / (h[name] + 1), rtol=0.02)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"proximal": 0.0}, "proximal=0.0"),
        ({"cg_steps": 0}, "cg_steps=0"),
        ({"inner_optimizer": fsj.learned_rates(0.1)}, "no gradient for learned rates"),
    ],
)
def test_imaml_refuses(keywords, message):
    with pytest.raises(ValueError, match=message):
        fsj.imaml(loss_fn, **keywords)


def test_reptile_refuses_learned_rates():
    with pytest.raises(ValueError, match="no gradient for learned rates"):
        fsj.reptile(loss_fn, inner_optimizer=fsj.learned_rates(0.1))


# CAVIA


def with_context(params, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["body"]["kernel"] + (params["context"] @ params["mix"]["kernel"])[None])
    return jnp.mean((hidden @ params["head"]["kernel"] - batch["y"]) ** 2), {}


def cavia_params():
    return {**make_params(), "mix": {"kernel": jnp.asarray(np.random.default_rng(7).normal(size=(2, HIDDEN)))}}


def test_cavia_adapts_the_context_alone_and_meta_learns_all_the_rest(float64):
    learner = fsj.cavia(with_context, context=jnp.zeros(2), inner_optimizer=SGD, inner_steps=3)
    meta_params = learner.init(cavia_params(), jax.random.key(0))
    support = jax.tree.map(lambda leaf: leaf[0], make_episodes().support)
    adapted = learner.adapt(meta_params, support, jax.random.key(0))
    close({k: v for k, v in adapted.items() if k != "context"}, meta_params["params"], 0)
    assert np.all(adapted["context"] != 0)
    grads = gradient_of(learner, meta_params)
    assert "context" not in grads["params"]
    close(grads, by_finite_differences(learner, meta_params), 1e-6)


def test_cavia_is_maml_over_a_context_that_is_not_meta_learned(float64):
    cavia = fsj.cavia(with_context, context=jnp.zeros(2), inner_optimizer=SGD, inner_steps=3)
    maml = fsj.maml(with_context, inner_params="^context", inner_optimizer=SGD, inner_steps=3)
    full = gradient_of(maml, {"params": {**cavia_params(), "context": jnp.zeros(2)}})["params"]
    del full["context"]
    close(gradient_of(cavia, {"params": cavia_params()})["params"], full)


def test_cavia_needs_a_place_for_the_context():
    learner = fsj.cavia(with_context, context=jnp.zeros(2))
    support = jax.tree.map(lambda leaf: leaf[0], make_episodes().support)
    with pytest.raises(ValueError, match="as 'context'"):
        learner.adapt({"params": {**cavia_params(), "context": jnp.zeros(2)}}, support, jax.random.key(0))


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (fsj.fomaml, {"gradient": "mixed"}),
        (fsj.reptile, {"gradient": "mixed"}),
        (fsj.imaml, {"gradient": "mixed"}),
        (fsj.multi_task, {"gradient": "mixed"}),
        (fsj.anil, {"inner_params": "norm"}),
        (fsj.boil, {"inner_params": "norm"}),
        (fsj.meta_sgd, {"inner_optimizer": optax.adam(0.1)}),
        (functools.partial(fsj.proto_maml, embed_fn=len, ways=2), {"task_init_fn": len}),
    ],
)
def test_an_option_that_a_learner_decides_itself_is_refused(build, option):
    with pytest.raises(ValueError, match=f"^{next(iter(option))}: .* decides it itself"):
        build(lambda params, batch, rng: (0.0, {}), **option)
