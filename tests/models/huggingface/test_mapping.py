"""The tensors of a checkpoint become leaves and leaves become the same tensors, however the two are divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from fewshot_jax.models.huggingface.lora_matrices import (
    Dense,
    LoraPair,
    leaves_of_pairs,
    matrix_parts,
    shapes_of,
    stacked,
)
from fewshot_jax.models.huggingface.mapping import Rule, fused, linear, placed, rule_table
from fewshot_jax.models.huggingface.matching import sources_of
from fewshot_jax.models.huggingface.read_leaf import read_leaf
from fewshot_jax.models.huggingface.save import stored_tensors
from fewshot_jax.models.huggingface.tensors import Checkpoint
from fewshot_jax.models.huggingface.writer import write_checkpoint

LAYERS, WIDTH, HEADS, KV_HEADS, FEATURES, EXPERTS = 2, 8, 4, 2, 3, 4
ONE_DEVICE = SingleDeviceSharding(jax.devices()[0])


def filled(shapes):
    rng = np.random.default_rng(0)
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}


def stored(rules, params):
    """The tensors that hold the leaves, by name."""
    shapes = {path: leaf.shape for path, leaf in params.items()}
    return {name: source.get() for name, source in stored_tensors(placed(rules, shapes), params).items()}


def read_back(rules, params, directory, sharding=ONE_DEVICE):
    """The leaves of a checkpoint that was written from them."""
    rules = placed(rules, {path: leaf.shape for path, leaf in params.items()})
    write_checkpoint(directory, list(stored_tensors(rules, params).values()))
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    with Checkpoint(directory) as checkpoint:
        sources, problems = sources_of(rules, leaves, (), checkpoint, {name: name for name in checkpoint.tensors})
        assert not problems
        return {
            path: read_leaf(checkpoint, found, leaves[path].shape, np.dtype(np.float32), sharding)
            for path, found in sources.items()
        }


def same(one, other):
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)


def test_queries_keys_and_values_of_unequal_length_share_one_matrix(tmp_path):
    rules = fused("layers.{}.qkv_proj", ["query", "key", "value"]) + fused("layers.{}.gate_up_proj", ["gate", "up"])
    heads = {"query": HEADS, "key": KV_HEADS, "value": KV_HEADS}
    shapes = {f"{name}/kernel": (LAYERS, WIDTH, count, FEATURES) for name, count in heads.items()}
    shapes |= {f"{name}/bias": (LAYERS, count, FEATURES) for name, count in heads.items()}
    shapes |= {f"{name}/kernel": (LAYERS, WIDTH, 5) for name in ("gate", "up")}
    shapes |= {f"{name}/bias": (LAYERS, 5) for name in ("gate", "up")}
    params = filled(shapes)
    tensors = stored(rules, params)
    for layer in range(LAYERS):
        rows = [np.asarray(params[f"{name}/kernel"][layer]).reshape(WIDTH, -1).T for name in heads]
        np.testing.assert_array_equal(tensors[f"layers.{layer}.qkv_proj.weight"], np.concatenate(rows))
        rows = [np.asarray(params[f"{name}/bias"][layer]).reshape(-1) for name in heads]
        np.testing.assert_array_equal(tensors[f"layers.{layer}.qkv_proj.bias"], np.concatenate(rows))
    same(read_back(rules, params, tmp_path), params)


def test_queries_keys_and_values_take_turns_head_by_head(tmp_path):
    rules = fused("layers.{}.qkv", ["query", "key", "value"], by_head=True)
    params = filled({f"{name}/kernel": (LAYERS, WIDTH, HEADS, FEATURES) for name in ("query", "key", "value")})
    params |= filled({f"{name}/bias": (LAYERS, HEADS, FEATURES) for name in ("query", "key", "value")})
    tensors = stored(rules, params)
    for layer in range(LAYERS):
        matrix = tensors[f"layers.{layer}.qkv.weight"].reshape(HEADS, 3, FEATURES, WIDTH)
        vector = tensors[f"layers.{layer}.qkv.bias"].reshape(HEADS, 3, FEATURES)
        for part, name in enumerate(("query", "key", "value")):
            np.testing.assert_array_equal(matrix[:, part], jnp.moveaxis(params[f"{name}/kernel"][layer], 0, -1))
            np.testing.assert_array_equal(vector[:, part], params[f"{name}/bias"][layer])
    same(read_back(rules, params, tmp_path), params)


@pytest.mark.parametrize("divided", [False, True])
def test_each_expert_of_each_layer_has_a_tensor_of_its_own(tmp_path, divided):
    rules = [
        *linear("layers.{}.experts.{}.w1", "blocks/experts/up"),
        *linear("layers.{}.router", "blocks/router"),
        *rule_table("embed", "embedding"),
    ]
    params = filled(
        {
            "blocks/experts/up/kernel": (LAYERS, EXPERTS, WIDTH, 5),
            "blocks/experts/up/bias": (LAYERS, EXPERTS, 5),
            "blocks/router/kernel": (LAYERS, WIDTH, EXPERTS),
            "blocks/router/bias": (LAYERS, EXPERTS),
            "embedding/embedding": (4, 4),
        }
    )
    tensors = stored(rules, params)
    assert len(tensors) == 2 * LAYERS * EXPERTS + 2 * LAYERS + 1
    expert = params["blocks/experts/up/kernel"][1, 3]
    np.testing.assert_array_equal(tensors["layers.1.experts.3.w1.weight"], expert.T)
    sharding = ONE_DEVICE
    if divided:  # each device reads its own experts
        sharding = NamedSharding(jax.make_mesh((2,), ("half",)), PartitionSpec(None, "half"))
    same(read_back(rules, params, tmp_path, sharding), params)


def test_rows_that_no_leaf_fills_are_zeros_and_are_not_read(tmp_path):
    rules = [Rule("positions.weight", "table", inputs=1, before=2)]
    params = filled({"table": (3, WIDTH)})
    tensor = stored(rules, params)["positions.weight"]
    assert tensor.shape == (5, WIDTH) and not tensor[:2].any()
    same(read_back(rules, params, tmp_path), params)


def test_a_tensor_that_is_too_short_for_its_parts_is_named(tmp_path):
    rules = fused("qkv", ["query", "key"])
    params = filled({"query/kernel": (WIDTH, 6), "query/bias": (6,), "key/kernel": (WIDTH, 3), "key/bias": (3,)})
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    whole = placed(rules, {path: leaf.shape for path, leaf in params.items()})
    write_checkpoint(tmp_path, list(stored_tensors(whole, params).values()))
    longer = placed(rules, {**{path: leaf.shape for path, leaf in params.items()}, "key/kernel": (WIDTH, 4)})
    with Checkpoint(tmp_path) as checkpoint:
        names = {name: name for name in checkpoint.tensors}
        _, problems = sources_of(longer, leaves, (), checkpoint, names)
    assert problems == ["qkv.weight has shape [9, 8], expected [10, 8]"]


def test_lora_of_layers_that_take_turns_lies_in_the_rows_of_their_heads():
    dense = Dense("layers.{}.qkv", (LAYERS,), WIDTH, (4, 4), ("query", "key"), turns=2)
    flat = {path: np.asarray(leaf) for path, leaf in filled(shapes_of(dense, 2)).items()}
    _, b = stacked(dense, {path: leaf for path, leaf in flat.items() if path.startswith("key")})
    rows = b.reshape(LAYERS, 2, 2, 2, 2)  # layer, head, part, feature, rank
    assert not rows[:, :, 0].any()
    np.testing.assert_array_equal(rows[:, :, 1].reshape(LAYERS, 4, 2).swapaxes(1, 2), flat["key/lora_b"])


@pytest.mark.parametrize("turns", [1, 2])
def test_lora_of_layers_that_share_a_matrix_is_divided_by_their_own_lengths(turns):
    dense = Dense("layers.{}.qkv", (LAYERS,), WIDTH, (12, 6, 6), ("query", "key", "value"), turns)
    flat = {path: np.asarray(leaf) for path, leaf in filled(shapes_of(dense, 2)).items()}
    a, b = stacked(dense, flat)
    assert b.shape == (LAYERS, 24, 6)
    pairs = {layer: LoraPair(a[layer], b[layer], 1.0) for layer in range(LAYERS)}
    back = {}
    for target, of_layer in matrix_parts(dense, pairs).items():
        back |= leaves_of_pairs(dense, target, of_layer, 2, 1.0)
    same(back, flat)
