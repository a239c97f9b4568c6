"""One vector of hidden states: closed forms, and what holds of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.models.pooling import POOLING_KINDS, DenseLayer, TextVector, VectorShape, unit_vectors

X = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
LENGTHS = np.array([5, 3, 0])
MASK = np.arange(5) < LENGTHS[:, None]
EVERYTHING = VectorShape(
    pooling=POOLING_KINDS,
    steps=(DenseLayer(inputs=24, outputs=3, activation="gelu"), "normalize"),
)


def vector(shape, x=X, mask=MASK, params=None):
    return TextVector(shape).apply({"params": params or {}}, jnp.asarray(x), jnp.asarray(mask))


@pytest.fixture(scope="module")
def params():
    return TextVector(EVERYTHING).init(jax.random.key(0), jnp.asarray(X), jnp.asarray(MASK))["params"]


def expected(kind, tokens):
    """Of the real tokens ``[n, D]`` of a text, n at least 1."""
    count = len(tokens)
    weights = np.arange(1, count + 1)
    return {
        "cls": tokens[0],
        "lasttoken": tokens[-1],
        "max": tokens.max(0),
        "mean": tokens.mean(0),
        "mean_sqrt_len_tokens": tokens.sum(0) / np.sqrt(count),
        "weightedmean": weights @ tokens / weights.sum(),
    }[kind]


@pytest.mark.parametrize("kind", POOLING_KINDS)
def test_each_kind_has_its_closed_form_and_no_token_gives_zeros(kind):
    ours = vector(VectorShape(pooling=(kind,)))
    for row in range(2):
        np.testing.assert_allclose(ours[row], expected(kind, X[row, : LENGTHS[row]]), atol=1e-6)
    np.testing.assert_array_equal(ours[2], np.zeros(4))


def test_a_prompt_is_left_out_but_counted_by_the_weights_of_positions():
    ours = vector(VectorShape(pooling=("mean", "cls", "weightedmean"), skipped=2))
    tokens = X[0, 2:]
    weighted = np.arange(3, 6) @ tokens / 12
    np.testing.assert_allclose(ours[0], np.concatenate([tokens.mean(0), tokens[0], weighted]), atol=1e-6)
    np.testing.assert_array_equal(vector(VectorShape(skipped=3))[1], np.zeros(4))  # the text was a prompt alone


def test_padding_has_no_influence_wherever_it_stands(params):
    ours = vector(EVERYTHING, params=params)
    moved, mask = np.full((3, 7, 4), np.nan, np.float32), np.zeros((3, 7), bool)
    for row, length in enumerate(LENGTHS):
        moved[row, 7 - length :], mask[row, 7 - length :] = X[row, :length], True
    np.testing.assert_allclose(vector(EVERYTHING, moved, mask, params), ours, atol=1e-6)


def test_both_derivatives_are_finite_also_of_a_text_without_tokens_and_of_zeros(params):
    def loss(x):
        return (vector(EVERYTHING, x, MASK, params) ** 3).sum()

    def product(x):
        return (jax.grad(loss)(x) ** 2).sum()

    first, second = jax.jit(jax.grad(loss)), jax.jit(jax.grad(product))
    for derivative in (first, second):
        assert np.isfinite(derivative(jnp.zeros_like(X))).all()
        at_x = np.asarray(derivative(jnp.asarray(X)))
        assert np.isfinite(at_x).all() and np.abs(at_x[:2]).max() > 0 and not at_x[2].any()


def test_tasks_can_be_vmapped(params):
    together = jax.vmap(lambda x: vector(EVERYTHING, x, MASK, params))(jnp.stack([jnp.asarray(X), jnp.asarray(-X)]))
    np.testing.assert_allclose(together[1], vector(EVERYTHING, -X, params=params), atol=1e-6)


def test_unit_vectors_is_that_of_torch_down_to_its_threshold():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [3e-13, 4e-13]])
    np.testing.assert_allclose(unit_vectors(x), [[0.6, 0.8], [0, 0], [0.3, 0.4]], rtol=1e-5)


def test_the_width_is_that_of_the_vector(params):
    for shape in (EVERYTHING, VectorShape(pooling=("cls", "max")), VectorShape(outputs=3), VectorShape(outputs=9)):
        assert vector(shape, params=params).shape[1] == shape.width(4)
