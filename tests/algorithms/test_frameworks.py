"""The algorithms take parameters from Flax Linen, Flax NNX, Equinox or a plain dict, and give the same numbers."""

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fewshot_jax as fsj
from fewshot_jax.models.mlp import MLP

HIDDEN = 16


class NnxMLP(nnx.Module):
    def __init__(self, rngs):
        self.dense_0 = nnx.Linear(1, HIDDEN, rngs=rngs)
        self.dense_1 = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, x):
        return self.dense_1(jnp.tanh(self.dense_0(x)))


def plain(params, x):
    """The oracle: two layers on a dict of arrays."""
    hidden = jnp.tanh(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None])
    return hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"][None]


def linen_model():
    module = MLP(features=(HIDDEN, 1), activation=nn.tanh)
    params = module.init(jax.random.key(0), jnp.zeros((1, 1)))["params"]
    return params, lambda params, x: module.apply({"params": params}, x), lambda params: params


def nnx_model():
    graph, state = nnx.split(NnxMLP(nnx.Rngs(0)))
    return state, lambda state, x: nnx.merge(graph, state)(x), nnx.to_pure_dict


def equinox_model():
    model = eqx.nn.MLP(1, 1, HIDDEN, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def as_dict(params):
        return {f"dense_{i}": {"kernel": layer.weight.T, "bias": layer.bias} for i, layer in enumerate(params.layers)}

    return params, lambda params, x: jax.vmap(eqx.combine(params, static))(x), as_dict


MODELS = {"linen": linen_model, "nnx": nnx_model, "equinox": equinox_model}


def regression(apply):
    def loss_fn(params, batch, rng):
        return jnp.mean((apply(params, batch["x"]) - batch["y"]) ** 2), {}

    return loss_fn


def sine_tasks(seed, tasks=16, items=10):
    """Waves of amplitude 0.5 to 1.5 and phase 0 to pi/2: no one function fits them all."""
    generator = np.random.default_rng(seed)
    amplitude = generator.uniform(0.5, 1.5, size=(tasks, 1, 1))
    phase = generator.uniform(0, np.pi / 2, size=(tasks, 1, 1))

    def side():
        x = generator.uniform(-3, 3, size=(tasks, items, 1))
        return {"x": jnp.asarray(x), "y": jnp.asarray(amplitude * np.sin(x + phase))}

    return fsj.Episode(side(), side())


@pytest.mark.parametrize("framework", MODELS)
def test_meta_training_lowers_the_loss_on_new_tasks_threefold(framework):
    params, apply, _ = MODELS[framework]()
    learner = fsj.maml(regression(apply), inner_optimizer=optax.sgd(0.05), inner_steps=3)
    outer = optax.adam(0.02)

    @jax.jit
    def step(meta_params, state, episodes, rng):
        grads, metrics = learner.grad(meta_params, episodes, rng)
        updates, state = outer.update(grads, state, meta_params)
        return optax.apply_updates(meta_params, updates), state, metrics["loss"]

    meta_params = learner.init(params, jax.random.key(0))
    state = outer.init(meta_params)
    held_out, rng = sine_tasks(999), jax.random.key(1)
    *_, before = step(meta_params, state, held_out, rng)
    for number in range(60):
        meta_params, state, _ = step(meta_params, state, sine_tasks(number), rng)
    *_, after = step(meta_params, state, held_out, rng)
    assert jax.tree.structure(meta_params["params"]) == jax.tree.structure(params)
    assert after < before / 3, (before, after)


@pytest.mark.parametrize("framework", MODELS)
@pytest.mark.parametrize("gradient", ["auto", "first_order"])
def test_the_meta_gradient_is_that_of_a_plain_dict_with_the_same_weights(float64, framework, gradient):
    params, apply, as_dict = MODELS[framework]()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    options = {"inner_optimizer": optax.adam(0.05, eps_root=1e-8), "inner_steps": 3, "gradient": gradient}
    episodes, rng = sine_tasks(0, tasks=4), jax.random.key(0)
    grads, metrics = jax.jit(fsj.maml(regression(apply), **options).grad)({"params": params}, episodes, rng)
    expected, expected_metrics = jax.jit(fsj.maml(regression(plain), **options).grad)(
        {"params": as_dict(params)}, episodes, rng
    )
    chex.assert_trees_all_close(as_dict(grads["params"]), expected["params"], rtol=0, atol=1e-10)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("framework", "selector"), [("linen", "dense_1"), ("nnx", "dense_1"), ("equinox", "layers/1")])
def test_inner_params_selects_by_path_in_every_framework(framework, selector):
    params, apply, as_dict = MODELS[framework]()
    learner = fsj.maml(regression(apply), inner_optimizer=optax.sgd(0.1), inner_params=selector)
    support = jax.tree.map(lambda leaf: leaf[0], sine_tasks(0)).support
    before, after = as_dict(params), as_dict(learner.adapt({"params": params}, support, jax.random.key(0)))
    chex.assert_trees_all_equal(after["dense_0"], before["dense_0"])
    assert np.abs(after["dense_1"]["kernel"] - before["dense_1"]["kernel"]).max() > 1e-3
