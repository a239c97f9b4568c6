"""MAML's meta-gradient against closed forms, finite differences and torch autograd."""

import doctest
import importlib
import json
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import fewshot_jax as fsj
from fewshot_jax.algorithms.differentiation import Gradient

EXACT = [rule for rule in get_args(Gradient) if rule not in ("first_order", "auto")]  # auto is mixed
RATE, TASKS, SIZE = 0.1, 3, 4
FIXTURE = json.loads(Path(__file__).with_name("torch_fixture.json").read_text())


def quadratic_loss(params, batch, rng):
    """0.5 (theta - centre)' H (theta - centre) + slope' theta, theta in two leaves."""
    theta = jnp.concatenate([params["a"], params["b"]["c"]])
    away = theta - batch["centre"]
    return 0.5 * away @ batch["hessian"] @ away + batch["slope"] @ theta, {}


def quadratic_side(generator, *, curved=True):
    root = generator.normal(size=(TASKS, SIZE, SIZE))
    hessian = root @ root.transpose(0, 2, 1) / SIZE if curved else np.zeros((TASKS, SIZE, SIZE))
    slope = np.zeros((TASKS, SIZE)) if curved else generator.normal(size=(TASKS, SIZE))
    return {"hessian": hessian, "centre": generator.normal(size=(TASKS, SIZE)), "slope": slope}


def quadratic_meta_gradient(support, query, steps, gradient):
    """The package's meta-gradient at a fixed theta, as a numpy vector, and that theta."""
    theta = np.linspace(-1, 1, SIZE)
    learner = fsj.maml(quadratic_loss, inner_optimizer=optax.sgd(RATE), inner_steps=steps, gradient=gradient)
    meta_params = learner.init({"a": jnp.asarray(theta[:1]), "b": {"c": jnp.asarray(theta[1:])}}, jax.random.key(0))
    episodes = jax.tree.map(jnp.asarray, fsj.Episode(support, query))
    grads, _ = jax.jit(learner.grad)(meta_params, episodes, jax.random.key(1))
    return np.concatenate([grads["params"]["a"], grads["params"]["b"]["c"]]), theta


def quadratic_closed_form(theta, support, query, steps):
    """First- and second-order meta-gradients: theta_K - a = (I - r A)^K (theta - a)."""
    first, second = [], []
    for t in range(TASKS):
        contraction = np.linalg.matrix_power(np.eye(SIZE) - RATE * support["hessian"][t], steps)
        adapted = support["centre"][t] + contraction @ (theta - support["centre"][t])
        at_adapted = query["hessian"][t] @ (adapted - query["centre"][t])
        first.append(at_adapted)
        second.append(contraction.T @ at_adapted)
    return np.mean(first, 0), np.mean(second, 0)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("gradient", EXACT)
def test_exact_meta_gradient_of_a_quadratic_is_the_product_of_its_contractions(float64, gradient, steps):
    generator = np.random.default_rng(0)
    support, query = quadratic_side(generator), quadratic_side(generator)
    given, theta = quadratic_meta_gradient(support, query, steps, gradient)
    _, second = quadratic_closed_form(theta, support, query, steps)
    np.testing.assert_allclose(given, second, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 5])
def test_first_order_meta_gradient_of_a_quadratic_is_the_query_gradient_at_the_adapted_point(float64, steps):
    generator = np.random.default_rng(0)
    support, query = quadratic_side(generator), quadratic_side(generator)
    given, theta = quadratic_meta_gradient(support, query, steps, "first_order")
    first, _ = quadratic_closed_form(theta, support, query, steps)
    np.testing.assert_allclose(given, first, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 5])
def test_orders_differ_by_the_curvature_term_of_the_closed_form(float64, steps):
    generator = np.random.default_rng(0)
    support, query = quadratic_side(generator), quadratic_side(generator)
    exact, theta = quadratic_meta_gradient(support, query, steps, "reverse")
    approximate, _ = quadratic_meta_gradient(support, query, steps, "first_order")
    first, second = quadratic_closed_form(theta, support, query, steps)
    np.testing.assert_allclose(exact - approximate, second - first, rtol=0, atol=1e-10)
    assert np.abs(second - first).max() > 0.05  # the term is far from rounding


@pytest.mark.parametrize("gradient", get_args(Gradient))
def test_every_order_is_the_same_where_the_support_loss_is_linear(float64, gradient):
    generator = np.random.default_rng(1)
    support, query = quadratic_side(generator, curved=False), quadratic_side(generator)
    given, theta = quadratic_meta_gradient(support, query, 5, gradient)
    adapted = theta - 5 * RATE * support["slope"]
    expected = np.einsum("tij,tj->ti", query["hessian"], adapted - query["centre"]).mean(0)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-12)


def classifier_loss(params, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["w1"] + params["b1"][None])
    logits = hidden @ params["w2"] + params["b2"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}


def fixture_arrays(dtype):
    """The parameters and the meta-batch of the torch fixture."""
    params = {name: jnp.asarray(np.array(leaf), dtype) for name, leaf in FIXTURE["params"].items()}
    support, query = (
        {"x": jnp.asarray(np.array(side["x"]), dtype), "label": jnp.asarray(np.array(side["label"]), jnp.int32)}
        for side in (FIXTURE["support"], FIXTURE["query"])
    )
    return params, fsj.Episode(support, query)


def inner_optimizer(name):
    options = FIXTURE["optimizers"][name]
    if name == "adam":
        return optax.adam(
            options["rate"], b1=options["b1"], b2=options["b2"], eps=options["eps"], eps_root=options["eps_root"]
        )
    return optax.sgd(options["rate"], momentum=options.get("decay"))


@pytest.mark.parametrize("gradient", EXACT)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_exact_meta_gradient_equals_central_finite_differences(float64, optimizer, gradient):
    params, episodes = fixture_arrays(jnp.float64)
    learner = fsj.maml(classifier_loss, inner_optimizer=inner_optimizer(optimizer), inner_steps=3, gradient=gradient)
    rng = jax.random.key(0)
    flat, unravel = ravel_pytree(params)
    step = 1e-5

    def meta_loss(point):
        one = jax.tree.map(lambda leaf: leaf[0], episodes)
        return learner.loss({"params": unravel(point)}, one, rng)[0]

    directions = step * jnp.eye(flat.size)
    plus, minus = (jax.jit(jax.vmap(meta_loss))(flat[None] + sign * directions) for sign in (1, -1))
    differences = np.asarray(plus - minus) / (2 * step)
    grads, _ = jax.jit(learner.grad)({"params": params}, jax.tree.map(lambda leaf: leaf[:1], episodes), rng)
    given = np.asarray(ravel_pytree(grads["params"])[0])
    error = np.abs(given - differences).max() / np.abs(differences).max()
    assert error <= 1e-6, error


@pytest.mark.parametrize(
    ("dtype", "tolerance", "steps"), [("float64", 1e-9, 1), ("float64", 1e-9, 5), ("float32", 1e-5, 5)]
)
@pytest.mark.parametrize("order", [*EXACT, "first_order"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_losses_and_meta_gradient_equal_torch_autograd(request, optimizer, steps, order, dtype, tolerance):
    if dtype == "float64":
        request.getfixturevalue("float64")
    params, episodes = fixture_arrays(dtype)
    learner = fsj.maml(classifier_loss, inner_optimizer=inner_optimizer(optimizer), inner_steps=steps, gradient=order)
    grads, metrics = jax.jit(learner.grad)(learner.init(params, jax.random.key(0)), episodes, jax.random.key(1))
    assert grads["params"]["w1"].dtype == dtype
    expected = FIXTURE["results"][f"{optimizer}-{steps}-{'first_order' if order == 'first_order' else 'second_order'}"]

    largest = max(np.abs(leaf).max() for leaf in expected["grads"].values())
    for name, leaf in expected["grads"].items():
        np.testing.assert_allclose(grads["params"][name], leaf, rtol=0, atol=tolerance * largest, err_msg=name)
    for name in ("loss", "task_loss", "support_loss"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=tolerance, atol=0, err_msg=name)


def test_the_documented_example_runs_and_prints_what_it_says():
    outcome = doctest.testmod(importlib.import_module("fewshot_jax.algorithms.maml"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"gradient": "exact"}, "gradient='exact'"),
        ({"inner_steps": -1}, "inner_steps=-1"),
        ({"inner_batch_size": 0}, "inner_batch_size=0"),
        ({"task_chunk": 0}, "task_chunk=0"),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_by_name_when_the_learner_is_built(keywords, named):
    with pytest.raises(ValueError, match=named):
        fsj.maml(quadratic_loss, **keywords)


@pytest.mark.parametrize("name", ["loss", "task_loss", "support_loss"])
def test_aux_under_a_reserved_name_is_refused(name):
    learner = fsj.maml(lambda params, batch, rng: (params.sum(), {name: params.sum()}))
    with pytest.raises(ValueError, match=f"reserved name '{name}'"):
        learner.loss({"params": jnp.ones(2)}, fsj.Episode(jnp.ones(3), jnp.ones(3)), jax.random.key(0))


def test_predict_without_output_fn_says_how_to_get_it():
    learner = fsj.maml(quadratic_loss)
    with pytest.raises(ValueError, match="output_fn="):
        learner.predict({"a": jnp.ones(1)}, {}, jax.random.key(0))
