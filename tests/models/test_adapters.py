"""Adapters: what is trained and what is frozen, what a new one changes, and each against its formula by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import fewshot_jax as fsj
from fewshot_jax.models.adapters import combined, join, only, trainable
from fewshot_jax.models.attention import Attention, AttentionInputs, attend
from fewshot_jax.models.bottleneck import bottleneck
from fewshot_jax.models.generation import generate
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.lora import lora, merge_lora
from fewshot_jax.models.prefix import prefix
from tests.models.huggingface.tiny import VOCABULARY, tiny

ADAPTERS = {
    "lora": lora(rank=2),
    "prefix": prefix(length=3),
    "bottleneck": bottleneck(width=2),
    "norms": only("norm"),
    "head": only("^head/"),
    "lora and head": combined(lora(rank=2), only("^head/")),
    "all at once": combined(lora(rank=2), prefix(length=3), bottleneck(width=2), only("norm|^head/")),
}
IDS = jnp.asarray(np.random.default_rng(0).integers(3, VOCABULARY, (4, 6)))
MASK = jnp.arange(6)[None] < jnp.array([6, 4, 5, 1])[:, None]
every_adapter = pytest.mark.parametrize("name", ADAPTERS)


def perturbed(tree, scale=0.3):
    """Values of their own for all leaves."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(1)
    moved = [np.asarray(leaf) + rng.normal(0, scale, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in moved])


@functools.cache
def parts(family, head, name):
    pretrained = tiny(family, head)
    return pretrained, *pretrained.split(ADAPTERS[name])


@every_adapter
def test_two_trees_share_no_leaf_and_make_up_the_model_and_what_is_new(name):
    pretrained, trained, frozen = parts("bert", "classification", name)
    own, rest, base = (set(flatten_dict(tree, sep="/")) for tree in (trained, frozen, pretrained.params))
    assert own
    assert not own & rest
    assert base <= own | rest
    new = own - base
    assert all(any(word in path for word in ("lora_", "prefix_", "bottleneck_")) for path in new)
    assert set(flatten_dict(join(trained, frozen), sep="/")) == own | rest
    counts = trainable(trained, frozen)
    assert counts.trained == sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert counts.total - counts.trained == sum(leaf.size for leaf in jax.tree.leaves(frozen))
    assert str(counts).startswith(f"{counts.trained:,} of {counts.total:,} parameters are trained (")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("bert", name) for name in ("lora", "bottleneck", "norms", "head", "lora and head")),
        *((family, name) for family in ("gemma2", "t5", "modernbert") for name in ("lora", "bottleneck")),
    ],
)
def test_a_new_one_changes_nothing(family, name):
    pretrained, trained, frozen = parts(family, "classification", name)
    more = _decoder(family)
    given = jax.jit(ADAPTERS[name].bind(pretrained.module))(trained, frozen, IDS, MASK, **more)
    plain = jax.jit(pretrained.module.apply)({"params": pretrained.params}, IDS, MASK, **more)
    np.testing.assert_allclose(given.logits, plain.logits, rtol=1e-6)


def _decoder(family):
    return {"decoder_input_ids": IDS[:, ::-1]} if family == "t5" else {}


@every_adapter
def test_every_trained_leaf_has_a_gradient_and_changes_the_output(name):
    pretrained, trained, frozen = parts("bert", "classification", name)
    apply, trained = ADAPTERS[name].bind(pretrained.module), perturbed(trained)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(4, 2)), jnp.float32)
    loss = jax.jit(lambda trained: jnp.sum(weights * apply(trained, frozen, IDS, MASK).logits ** 2))
    for path, grad in flatten_dict(jax.grad(loss)(trained), sep="/").items():
        # The last layer's tokens but the first are read by nobody, and a bias of keys by no softmax.
        assert "key/bias" in path or jnp.abs(grad).max() > 0, path


def test_a_bottleneck_is_two_dense_layers_after_another():
    layer = nn.DenseGeneral((2, 3), axis=-1)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    with bottleneck(width=2, targets="").active():
        params = perturbed(layer.init(jax.random.key(1), x)["params"])
        given = layer.apply({"params": params}, x)
    y = layer.apply({"params": {name: params[name] for name in ("kernel", "bias")}}, x).reshape(4, 6)
    hidden = jax.nn.gelu(y @ params["bottleneck_down"] + params["bottleneck_down_bias"][None])
    expected = y + hidden @ params["bottleneck_up"] + params["bottleneck_up_bias"][None]
    np.testing.assert_allclose(given.reshape(4, 6), expected, rtol=1e-5)


def test_a_prefix_is_keys_and_values_before_the_others():
    """Attention by hand: the projections of the module, the prefix before them, the mask open there."""
    layer = Attention(BlockShape(width=8, heads=4, kv_heads=2, mlp_width=8))
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    mask = jnp.tril(jnp.ones((5, 5), bool))[None] & (jnp.arange(5)[None, None] < jnp.array([5, 3])[:, None, None])
    with prefix(length=3).active():
        params = perturbed(layer.init(jax.random.key(1), x, AttentionInputs(mask))["params"])
        given, kept = layer.apply({"params": params}, x, AttentionInputs(mask))
    assert kept[0].shape == (2, 5, 2, 2), "the cache does not hold the prefix"
    assert params["prefix_key"].shape == (3, 2, 2)

    def project(name):
        return jnp.einsum("bld,dhk->blhk", x, params[name]["kernel"]) + params[name]["bias"][None, None]

    def before(name):
        return jnp.concatenate([jnp.stack([params[f"prefix_{name}"]] * 2), project(name)], 1)

    whole = jnp.concatenate([jnp.ones((2, 5, 3), bool), mask], -1)
    y = attend(project("query"), before("key"), before("value"), whole)
    expected = jnp.einsum("blhk,hkd->bld", y, params["out"]["kernel"]) + params["out"]["bias"][None, None]
    np.testing.assert_allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "name"), [("gpt2", "prefix"), ("gemma2", "all at once"), ("t5", "prefix"), ("llama", "lora")]
)
def test_generation_with_a_cache_is_generation_without(family, name):
    """Greedy, against the whole sequence at once."""
    pretrained, trained, frozen = parts(family, "causal_lm", name)
    trained, adapter = perturbed(trained), ADAPTERS[name]
    run = jax.jit(adapter.bind(functools.partial(generate, pretrained.module, max_new_tokens=5)))
    ids = run(trained, frozen, IDS).ids
    apply = jax.jit(adapter.bind(pretrained.module))
    begin = jnp.zeros((4, 1), IDS.dtype) if family == "t5" else IDS
    # Teacher forcing: each generated token is the most probable one after those before it, with no cache.
    whole = jnp.concatenate([begin, ids[:, :-1]], 1)
    rows = {"decoder_input_ids": whole} if family == "t5" else {}
    logits = apply(trained, frozen, IDS if family == "t5" else whole, **rows).logits
    np.testing.assert_array_equal(ids, logits[:, -5:].argmax(-1))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["llama", "bart"])
def test_each_task_generates_with_its_own_adapted_parameters_under_vmap(family, beams):
    pretrained, trained, frozen = parts(family, "causal_lm", "lora and head" if family == "llama" else "lora")
    adapter = ADAPTERS["lora and head" if family == "llama" else "lora"]
    tasks = [perturbed(trained, scale) for scale in (0.0, 0.2, 0.5)]
    prompts = [jnp.roll(IDS, i, 0) for i in range(3)]

    bound = adapter.bind(functools.partial(generate, pretrained.module, max_new_tokens=6, eos_id=2, beams=beams))

    def answer(trained, ids):
        return bound(trained, frozen, ids, MASK)

    together = jax.jit(jax.vmap(answer))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks), jnp.stack(prompts))
    for i, (task, ids) in enumerate(zip(tasks, prompts, strict=True)):
        alone = jax.jit(answer)(task, ids)
        np.testing.assert_array_equal(together.ids[i], alone.ids)
        np.testing.assert_allclose(together.score[i], alone.score, rtol=1e-4)
    assert not np.array_equal(together.score[0], together.score[2])


def test_each_task_samples_with_its_own_key_under_vmap():
    pretrained = tiny("gpt2", "causal_lm")
    sample = jax.jit(lambda key: generate(pretrained.module, pretrained.params, IDS, max_new_tokens=6, rng=key).ids)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(sample)(keys)
    for ids, key in zip(together, keys, strict=True):
        np.testing.assert_array_equal(ids, sample(key))


@pytest.mark.parametrize(
    ("name", "learner"),
    [
        *((name, "maml") for name in ("prefix", "lora and head", "all at once")),
        ("lora and head", "reptile"),
        # Compositions of the above, each a compilation of its own.
        *(pytest.param(name, "maml", marks=pytest.mark.slow) for name in ("lora", "bottleneck", "norms", "head")),
        *(
            pytest.param("lora and head", name, marks=pytest.mark.slow)
            for name in ("meta_sgd", "imaml", "maml_plus_plus")
        ),
    ],
)
def test_its_tree_is_what_learners_adapt_and_train(name, learner):
    pretrained, trained, frozen = parts("bert", "classification", name)
    apply = ADAPTERS[name].bind(pretrained.module)

    def loss_fn(params, batch, rng, *, frozen):
        logits = apply(params, frozen, batch["input_ids"], batch["attention_mask"]).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    made = getattr(fsj, learner)(loss_fn, inner_steps=2)
    meta_params = made.init(trained, jax.random.key(0))
    batch = {"input_ids": jnp.stack([IDS, IDS]), "attention_mask": jnp.stack([MASK, MASK])}
    batch["label"] = jnp.array([[0, 1, 0, 1], [1, 0, 0, 1]])
    grads, metrics = jax.jit(made.grad)(meta_params, fsj.Episode(batch, batch), jax.random.key(1), frozen=frozen)
    assert jax.tree.structure(grads) == jax.tree.structure(meta_params)
    assert np.isfinite(metrics["loss"])
    assert sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(grads["params"])) > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lora(rank=0), "rank=0"),
        (lambda: prefix(length=0), "length=0"),
        (lambda: bottleneck(width=0), "width=0"),
        (lambda: bottleneck(width=1, targets="("), "not a regular expression"),
        (lambda: only("("), "not a regular expression"),
        (lambda: combined(), "at least one"),
        (lambda: combined(lora(rank=1), lora(rank=2, targets="out")), "two of one kind"),
        (
            lambda: tiny("bert", None).split(only("^head/")),
            r"only\('\^head/'\): '\^head/' match no layer; there are .*attention",
        ),
        (lambda: join({"a": 1}, {"a": 2}), "share a"),
    ],
)
def test_a_mistake_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_order_of_combined_says_nothing_and_lora_merges_under_a_bottleneck():
    """A bottleneck reads what LoRA has changed, so the merged model with the bottleneck alone computes the same."""
    pretrained = tiny("gpt2", "causal_lm")
    low, narrow = lora(rank=2, targets="mlp/down|attention/out"), bottleneck(width=2)
    both, other = combined(low, narrow), combined(narrow, low)
    assert both.added == other.added
    trained, frozen = pretrained.split(both)
    trained = perturbed(trained)
    cached = jax.jit(lambda params: pretrained.module.apply({"params": params}, IDS).logits)
    whole = join(trained, frozen)
    with both.active():
        logits = cached(whole)
    with other.active():
        np.testing.assert_array_equal(cached(whole), logits)
    with narrow.active():
        merged = cached(merge_lora(whole, both))
        alone = cached(whole)
    np.testing.assert_allclose(merged, logits, atol=1e-4)
    assert jnp.abs(alone - logits).max() > 0.01


def test_a_tree_of_another_adapter_is_refused_with_all_names():
    pretrained = tiny("gpt2", "causal_lm")
    trained, frozen = pretrained.split(lora(rank=2, targets="query|mlp/up"))
    for adapter, message in [
        (lora(rank=2, targets="query"), r"mlp/up/lora_a \(not one of its targets\), .*mlp/up/lora_b"),
        (lora(rank=3, targets="query|mlp/up"), r"lora_a \(shape \(3, 16, 2\), expected rank 3\)"),
        (only("norm"), r"lora_a \(not trained by it\)"),
        (prefix(length=2), r"lora_a \(not trained by it\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            adapter.bind(pretrained.module)(trained, frozen, IDS)
    for kind, wrong in ((prefix(length=2), prefix(length=3)), (bottleneck(width=2), bottleneck(width=3))):
        trained, frozen = pretrained.split(kind)
        with pytest.raises(ValueError, match=r"expected (length|width) 3"):
            wrong.bind(pretrained.module)(trained, frozen, IDS)


def test_each_part_must_train_something_and_the_base_must_be_the_models():
    pretrained = tiny("gpt2", "causal_lm")
    with pytest.raises(ValueError, match=r"LoRA.*no_such.*and 'nothing' match no layer"):
        pretrained.split(combined(lora(rank=1, targets="no_such"), only("nothing"), only("norm")))
    with pytest.raises(ValueError, match="params is not of this model, it lacks encoder/"):
        dataclasses.replace(tiny("bert", None), params=pretrained.params).split(only("encoder|embedding"))
    other = tiny("gpt2", "causal_lm", n_inner=20)
    with pytest.raises(ValueError, match=r"has decoder/blocks/mlp/down/kernel of shape"):
        dataclasses.replace(pretrained, params=other.params).split(lora(rank=1))


def test_the_base_outlives_a_step_that_donates_what_it_trains():
    pretrained = tiny("bert", "classification")
    trained, _ = pretrained.split(only("^head/"))
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)(trained)
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(pretrained.params))


def test_what_sampling_alone_reads_needs_a_key_and_prompts_are_a_batch():
    pretrained = tiny("gpt2", "causal_lm")
    for options in ({"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.5}):
        with pytest.raises(ValueError, match="needs rng="):
            generate(pretrained.module, pretrained.params, IDS, max_new_tokens=1, **options)
    with pytest.raises(ValueError, match=r"shape \(6,\): expected \[B, L\]"):
        generate(pretrained.module, pretrained.params, IDS[0], max_new_tokens=1)
