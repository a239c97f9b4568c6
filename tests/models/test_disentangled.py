"""Disentangled attention: its scores pair by pair, its distances, its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from fewshot_jax.models.attention import Attention, AttentionInputs, attend
from fewshot_jax.models.disentangled import Disentangled, Projected, distance_scores
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.lora import lora
from fewshot_jax.models.stack import StackShape

ITEMS, LENGTH, HEADS, FEATURES = 2, 5, 3, 4
TERMS = ("content_to_position", "position_to_content")


def arrays(dtype=np.float64, before=0):
    """Queries, keys with some before those of the sequence, and projected distances."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(ITEMS, LENGTH, HEADS, FEATURES))
    k = rng.normal(size=(ITEMS, before + LENGTH, HEADS, FEATURES))
    distances = rng.normal(size=(2, 2 * LENGTH - 1, HEADS, FEATURES))
    return [one.astype(dtype) for one in (q, k, *distances)]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("terms", [TERMS, TERMS[:1], TERMS[1:]])
def test_each_pair_of_tokens_has_the_score_of_its_distance(terms, before):
    q, k, key, query = arrays(np.float32, before)
    given = Projected(key if TERMS[0] in terms else None, query if TERMS[1] in terms else None)
    expected = np.zeros((ITEMS, HEADS, LENGTH, before + LENGTH))
    for row in range(LENGTH):
        for column in range(LENGTH):
            at = LENGTH - 1 - (row - column)  # rows go from the distance L - 1 down to 1 - L
            pair = np.zeros((ITEMS, HEADS))
            if given.key is not None:
                pair += np.einsum("bhk,hk->bh", q[:, row], key[at])
            if given.query is not None:
                pair += np.einsum("bhk,hk->bh", k[:, before + column], query[at])
            expected[:, :, row, before + column] = pair
    np.testing.assert_allclose(distance_scores(q, k, given), expected, atol=1e-5)


def test_second_derivatives_are_those_of_finite_differences():
    with jax.enable_x64(True):
        q, k, key, query = map(jnp.asarray, arrays())
        mask = jnp.arange(LENGTH)[None, None] < jnp.array([LENGTH, 3])[:, None, None]

        def attended(q, k, key, query):
            return jnp.tanh(jax.checkpoint(attend)(q, k, k, mask, None, Projected(key, query)))

        check_grads(attended, (q, k, key, query), order=2, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


def test_near_distances_have_a_row_each_and_far_ones_share_rows():
    own = Disentangled(span=8, farthest=32)
    rows = dict(zip(range(39, -40, -1), (own.rows(40) - 8).tolist(), strict=True))
    assert [rows[distance] for distance in range(-4, 5)] == list(range(-4, 5))
    # Steps of (31 / 4) ** (1 / 3) = 1.98: up to 7.9, 15.7, 31 tokens; what is farther has the last row.
    far = [(5, 5), (7, 5), (8, 6), (15, 6), (16, 7), (31, 7), (32, 7), (39, 7)]
    assert [(distance, rows[distance]) for distance, _ in far] == far
    assert [rows[-distance] for distance, _ in far] == [-row for _, row in far[:6]] + [-8, -8]


def test_without_steps_what_is_farther_than_the_table_has_its_last_row():
    np.testing.assert_array_equal(Disentangled(span=3).rows(6), [5, 5, 5, 5, 4, 3, 2, 1, 0, 0, 0])


@pytest.mark.parametrize("fields", [{"terms": ()}, {"terms": TERMS[:1] * 2}, {"span": 0}, {"span": 8, "farthest": 5}])
def test_a_shape_that_cannot_be_is_refused(fields):
    with pytest.raises(ValueError, match=r"terms=|span="):
        Disentangled(**fields)


def test_it_is_refused_where_distances_are_not_known():
    fields = {"width": 8, "heads": 4, "mlp_width": 8, "disentangled": Disentangled(span=4)}
    with pytest.raises(ValueError, match="as many heads of keys"):
        BlockShape(**fields, kv_heads=2)
    with pytest.raises(ValueError, match="causal stack"):
        StackShape(block=BlockShape(**fields), layers=1, causal=True)


def test_layers_that_distances_share_with_tokens_have_one_lora_for_both():
    shape = BlockShape(width=8, heads=2, mlp_width=8, disentangled=Disentangled(span=4, shared=True))
    layer, rng = Attention(shape), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(ITEMS, LENGTH, 8)), jnp.float32)
    inputs = AttentionInputs(
        jnp.ones((ITEMS, 1, LENGTH), bool), distances=jnp.asarray(rng.normal(size=(2 * LENGTH - 1, 8)), jnp.float32)
    )
    params = layer.init(jax.random.key(0), x, inputs)["params"]
    assert params.keys() == {"query", "key", "value", "out"}
    adapter = lora(rank=2, targets="query|key")
    trained, frozen = adapter.split(params, lambda: layer.init(jax.random.key(1), x, inputs)["params"])
    trained = jax.tree.map(lambda leaf: leaf + 0.3, trained)
    ours = adapter.bind(layer)(trained, frozen, x, inputs)[0]
    merged = {**params}
    for name in ("query", "key"):
        change = (trained[name]["lora_a"] @ trained[name]["lora_b"]).reshape(params[name]["kernel"].shape)
        merged[name] = {**params[name], "kernel": params[name]["kernel"] + change}
    np.testing.assert_allclose(ours, layer.apply({"params": merged}, x, inputs)[0], atol=1e-5)
