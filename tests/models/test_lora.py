"""LoRA: nothing at the start, W + (alpha / r) A B afterwards, and the base weights left alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path, merge, split
from fewshot_jax.config import ModelConfig
from fewshot_jax.config_file import from_dict
from fewshot_jax.errors import UserError
from fewshot_jax.models.adapters import join
from fewshot_jax.models.lora import lora, lora_of_config, merge_lora
from fewshot_jax.models.text_encoder import text_encoder

CONFIG = ModelConfig(width=8, layers=3, heads=2, mlp_width=12)
ENCODER = text_encoder(CONFIG, vocab_size=20, max_length=6)
IDS = jnp.array([[2, 5, 7, 9], [2, 11, 4, 0]])
MASK = IDS > 0
EVERY = "attention|mlp"


def initialise(targets=EVERY, rank=2):
    base = jax.jit(ENCODER.init)(jax.random.key(0), IDS, MASK)["params"]
    init = lambda: ENCODER.init(jax.random.key(1), IDS, MASK)["params"]  # noqa: E731
    return base, join(*lora(rank=rank, targets=targets).split(base, init))


def apply(params, **keywords):
    with lora(**{"rank": 2, "targets": EVERY, **keywords}).active():
        return ENCODER.apply({"params": params}, IDS, MASK)


def perturb(params):
    """Give every LoRA leaf values of its own."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    rng = np.random.default_rng(0)
    moved = [leaf + jnp.float32(rng.normal(size=leaf.shape)) * ("lora_" in leaf_path(path)) for path, leaf in leaves]
    return jax.tree.unflatten(tree, moved)


def test_before_training_it_changes_nothing():
    base, params = initialise()
    np.testing.assert_array_equal(apply(params), ENCODER.apply({"params": base}, IDS, MASK))


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_it_is_a_change_of_rank_r_of_each_kernel(alpha):
    params = perturb(initialise()[1])
    merged = merge_lora(params, lora(rank=2, alpha=alpha, targets=EVERY))
    changed = ENCODER.apply({"params": merged}, IDS, MASK)
    np.testing.assert_allclose(apply(params, alpha=alpha), changed, atol=2e-5)
    assert jnp.abs(changed - apply(initialise()[1])).max() > 0.1
    base = initialise()[0]
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    change = (merged["blocks"]["mlp"]["up"]["kernel"] - base["blocks"]["mlp"]["up"]["kernel"])[1]
    assert np.linalg.matrix_rank(change, tol=1e-4) == 2


def test_only_the_layers_that_match_have_it_one_pair_for_each_scanned_layer():
    _, params = initialise("query|value", rank=4)
    shapes = {leaf_path(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(params) if "lora" in str(p)}
    assert shapes == {
        f"blocks/attention/{name}/{leaf}": shape
        for name in ("query", "value")
        for leaf, shape in (("lora_a", (3, 8, 4)), ("lora_b", (3, 4, 8)))
    }


def test_a_dense_layer_outside_a_scan_and_one_that_contracts_two_axes():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.DenseGeneral(5, axis=(2, 0), name="both")(inputs=x)
            return nn.Dense(3, name="last")(x)

    x = jax.random.normal(jax.random.key(0), (2, 4, 3))
    with lora(rank=2, targets="both|last").active():
        params = perturb(Model().init(jax.random.key(1), x)["params"])
        given = Model().apply({"params": params}, x)
    np.testing.assert_allclose(
        given, Model().apply({"params": merge_lora(params, lora(rank=2, targets="both|last"))}, x), atol=1e-5
    )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2, "targets": "("}, "not a regular expression"),
        *(({"rank": 2, "alpha": alpha}, f"alpha={alpha}") for alpha in (0, -1, float("nan"), float("inf"))),
    ],
)
def test_a_wrong_hyperparameter_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        lora(**keywords)


def test_targets_that_match_nothing_are_refused_and_the_layers_named():
    with pytest.raises(
        ValueError,
        match=r"match no layer; there are .*blocks/attention/key, blocks/attention/out",
    ):
        initialise("no_such_layer")


def test_parameters_beside_the_model_stay_and_another_models_are_refused():
    base, params = initialise()
    adapter, init = (
        lora(rank=2, targets=EVERY),
        lambda: {"encoder": ENCODER.init(jax.random.key(1), IDS, MASK)["params"]},
    )
    trained, frozen = adapter.split({"encoder": base, "head": 2}, init)
    assert frozen == {"encoder": base, "head": 2}
    assert join(trained, {})["encoder"].keys() < params.keys()
    with pytest.raises(ValueError, match="not of this model, it lacks encoder/blocks/attention/key/bias"):
        adapter.split({"other": base}, init)


def test_a_jitted_function_knows_whether_it_is_inside_and_with_which_scale():
    params = perturb(initialise()[1])
    cached = jax.jit(lambda params: ENCODER.apply({"params": params}, IDS, MASK))
    with lora(rank=2, targets=EVERY).active():
        inside = cached(params)
    outside = cached(params)
    with lora(rank=2, targets=EVERY, alpha=7.0).active():
        scaled = cached(params)
    np.testing.assert_allclose(inside, apply(params), atol=1e-5)
    np.testing.assert_allclose(outside, ENCODER.apply({"params": split(params, "lora_")[1]}, IDS, MASK), atol=1e-5)
    np.testing.assert_allclose(scaled, apply(params, alpha=7.0), atol=1e-5)
    assert min(jnp.abs(inside - outside).max(), jnp.abs(inside - scaled).max()) > 0.1


def lora_learner(**keywords):
    head = jnp.ones((8, 2)) * jnp.array([[1.0, -1.0]])

    def loss_fn(params, batch, rng, *, frozen):
        with lora(rank=2, targets=EVERY).active():
            hidden = ENCODER.apply({"params": merge(params, frozen)}, batch["ids"], batch["ids"] > 0)
        logits = hidden.mean(1) @ head
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    return fsj.maml(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=3, **keywords)


def lora_episodes(tasks):
    rng = np.random.default_rng(0)
    make = lambda: {"ids": rng.integers(1, 20, (tasks, 4, 5)), "label": rng.integers(0, 2, (tasks, 4))}  # noqa: E731
    return fsj.Episode(make(), make())


def test_base_weights_stay_unbatched_under_the_task_axis():
    """Under ``vmap`` no value of the program has the tasks' axis before the shape of a base kernel."""
    inner, base = split(perturb(initialise()[1]), "lora_")
    tasks = 7  # a number that no other axis has
    learner = lora_learner()
    program = jax.jit(lambda *args: learner.grad(*args, frozen=base)).lower(
        {"params": inner}, lora_episodes(tasks), jax.random.key(0)
    )
    text = program.compile().as_text()
    for kernel in ("8,12", "12,8", "8,2,4", "2,4,8"):
        assert f"[{tasks},{kernel}]" not in text
        assert f"[{tasks},3,{kernel}]" not in text
        assert f"[3,{tasks},{kernel}]" not in text
    assert f"[{tasks},3,8,2]" in text  # the adapted leaves do have it


def test_frozen_base_gives_the_gradient_of_the_meta_learned_part_alone():
    inner, base = split(perturb(initialise()[1]), "lora_")
    episodes = lora_episodes(3)
    results = [
        jax.jit(lora_learner(gradient=gradient).grad)({"params": inner}, episodes, jax.random.key(0), frozen=base)[0]
        for gradient in ("mixed", "reverse")
    ]
    assert jax.tree.structure(results[0]["params"]) == jax.tree.structure(inner)
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)


def test_merging_keeps_the_dtype_and_refuses_what_is_not_there():
    adapter = lora(rank=2, targets=EVERY)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), initialise()[0])
    trained, frozen = adapter.split(half, lambda: ENCODER.init(jax.random.key(1), IDS, MASK)["params"])
    trained = perturb(trained)
    merged = merge_lora(join(trained, frozen), adapter)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    a, b = (trained["blocks"]["mlp"]["up"][name][1] for name in ("lora_a", "lora_b"))
    exact = half["blocks"]["mlp"]["up"]["kernel"][1].astype(jnp.float32) + a @ b
    np.testing.assert_allclose(merged["blocks"]["mlp"]["up"]["kernel"][1].astype(jnp.float32), exact, rtol=2**-8)
    for params, message in ((frozen, "no LoRA leaves"), (trained, "join it with its base")):
        with pytest.raises(ValueError, match=message):
            merge_lora(params, adapter)
    with pytest.raises(ValueError, match="expected rank 3"):
        merge_lora(join(trained, frozen), lora(rank=3, targets=EVERY))


def test_a_layer_with_batch_dims_is_refused():
    layer = nn.DenseGeneral(3, batch_dims=(0,), axis=-1)
    with pytest.raises(ValueError, match="batch_dims"), lora(rank=1, targets="").active():
        layer.init(jax.random.key(0), jnp.ones((2, 4, 5)))


def test_a_config_names_the_matrices_that_have_it():
    config = ModelConfig(width=8, layers=2, heads=2, mlp_width=12, lora_rank=2, lora_targets=("out", "up", "down"))
    model = text_encoder(config, vocab_size=20, max_length=8)
    ids = jnp.ones((1, 3), jnp.int32)
    with lora_of_config(config).active():
        params = model.init(jax.random.key(0), ids, jnp.ones_like(ids))["params"]
    layers = {path.rpartition("/")[0] for path in flatten_dict(params, sep="/") if path.endswith("lora_a")}
    assert layers == {"blocks/attention/out", "blocks/mlp/up", "blocks/mlp/down"}
    assert not lora_of_config(ModelConfig()).added


@pytest.mark.parametrize("targets", [[], ["query", "query"], ["queries"]])
def test_a_config_with_other_matrices_is_refused(targets):
    with pytest.raises(UserError, match=r"model\.lora_targets"):
        from_dict({"model": {"lora_rank": 2, "lora_targets": targets}})
