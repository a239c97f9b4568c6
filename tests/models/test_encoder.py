"""The encoder: padding is invisible, attention is what the paper says, second derivatives exist."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.config import ModelConfig
from fewshot_jax.models.attention import Attention, AttentionInputs
from fewshot_jax.models.heads import TextFeatures, zero_head
from fewshot_jax.models.language_head import HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.mlp import MLP
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.text_encoder import TextEncoder, text_encoder_shape
from fewshot_jax.models.transformer import ModelShape, Transformer

VOCABULARY, WIDTH, HEADS, MLP_WIDTH, MAX_LENGTH = 20, 8, 2, 12, 10
SHAPE = BlockShape(width=WIDTH, heads=HEADS, mlp_width=MLP_WIDTH)
NORMS = pytest.mark.parametrize("norm", ["pre", "post"])


def make(norm="pre", layers=2, dtype=jnp.float32, **keywords):
    sizes = {"width": WIDTH, "heads": HEADS, "mlp_width": MLP_WIDTH, "layers": layers, "norm": norm}
    shape = text_encoder_shape(ModelConfig(**{**sizes, **keywords}), vocab_size=VOCABULARY, max_length=MAX_LENGTH)
    return TextEncoder(Transformer(shape, dtype))


def batch(length=6, real=(4, 6, 1)):
    ids = jnp.asarray(np.random.default_rng(0).integers(1, VOCABULARY, (len(real), length)))
    return ids, jnp.arange(length)[None, :] < jnp.asarray(real)[:, None]


def init(module, ids, mask, dtype=np.float32):
    """Parameters in which no bias or scale keeps its initial zero or one."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), ids, mask)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), dtype), shapes)


def masked_mean(x, mask):
    """The mean over real tokens, for the tests' own scalars."""
    return (x * mask[..., None]).sum(1) / mask.sum(1)[:, None]


def run(module, params, ids, mask):
    """The hidden states."""
    return jax.jit(module.apply)({"params": params}, ids, mask)


@NORMS
def test_the_ids_under_padding_do_not_matter(norm):
    ids, mask = batch()
    encoder = make(norm)
    params = init(encoder, ids, mask)
    hidden = run(encoder, params, ids, mask)
    changed = run(encoder, params, jnp.where(mask, ids, 7), mask)
    np.testing.assert_allclose(hidden[mask], changed[mask], atol=1e-6)


@NORMS
def test_longer_padding_does_not_matter(norm):
    ids, mask = batch()
    encoder = make(norm)
    params = init(encoder, ids, mask)
    hidden = run(encoder, params, ids, mask)
    pad = ((0, 0), (0, MAX_LENGTH - ids.shape[1]))
    longer = run(encoder, params, jnp.pad(ids, pad), jnp.pad(mask, pad))
    np.testing.assert_allclose(longer[:, : ids.shape[1]][mask], hidden[mask], atol=1e-6)


@NORMS
def test_every_real_token_attends_to_every_other_one_in_both_directions(norm):
    ids, mask = batch(real=(5, 6, 2))
    encoder = make(norm)
    params = init(encoder, ids, mask)
    hidden = run(encoder, params, ids, mask)
    for position in range(5):
        other = ids.at[0, position].set((ids[0, position] + 1) % VOCABULARY)
        changed = run(encoder, params, other, mask)
        difference = jnp.abs(changed - hidden).max(-1)
        assert (difference[0, :5] > 1e-5).all()
        assert not difference[1:].any(), "items of a batch do not attend to one another"


@NORMS
def test_the_order_of_tokens_matters(norm):
    ids, mask = batch(real=(6, 6, 6))
    encoder = make(norm)
    params = init(encoder, ids, mask)
    hidden = run(encoder, params, ids, mask)
    swapped = run(encoder, params, ids[:, ::-1], mask)
    assert jnp.abs(masked_mean(hidden, mask) - masked_mean(swapped, mask)).max() > 1e-4


@NORMS
def test_parameters_are_stacked_over_layers_and_counted_by_the_formula(norm):
    layers = 3
    ids, mask = batch()
    params = jax.jit(make(norm, layers=layers).init)(jax.random.key(0), ids, mask)["params"]
    assert all(leaf.shape[0] == layers for leaf in jax.tree.leaves(params["blocks"]))
    attention = 4 * (WIDTH * WIDTH + WIDTH)
    feed_forward = WIDTH * MLP_WIDTH + MLP_WIDTH + MLP_WIDTH * WIDTH + WIDTH
    block = attention + feed_forward + 2 * 2 * WIDTH
    # Pre-norm has one more LayerNorm after the last block, post-norm one on the embeddings.
    expected = VOCABULARY * WIDTH + MAX_LENGTH * WIDTH + layers * block + 2 * WIDTH
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    kernel = params["blocks"]["mlp"]["up"]["kernel"]
    assert not jnp.allclose(kernel[0], kernel[1]), "each layer has parameters of its own"


def layer_norm(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def numpy_attention(x, mask, params):
    """Vaswani et al. 2017, equation 1 and section 3.2.2, one query at a time."""
    q, k, v = (
        np.einsum("bld,dhk->blhk", x, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    out = np.zeros_like(q)
    for b, item in enumerate(mask):
        for h in range(q.shape[2]):
            for i in range(q.shape[1]):
                scores = k[b, item, h] @ q[b, i, h] / math.sqrt(q.shape[-1])
                weights = np.exp(scores - scores.max())
                out[b, i, h] = weights / weights.sum() @ v[b, item, h]
    return np.einsum("blhk,hkd->bld", out, params["out"]["kernel"]) + params["out"]["bias"]


def numpy_feed_forward(x, params):
    hidden = x @ params["up"]["kernel"] + params["up"]["bias"]
    # The tanh form of GELU: Hendrycks, Gimpel 2016, section 2.
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return hidden @ params["down"]["kernel"] + params["down"]["bias"]


@pytest.mark.usefixtures("float64")
def test_attention_is_the_papers():
    _, mask = batch()
    x = np.random.default_rng(1).normal(size=(*mask.shape, WIDTH))
    attention = Attention(SHAPE, jnp.float64)
    params = init(attention, x, AttentionInputs(mask[:, None]), np.float64)
    ours, _ = jax.jit(attention.apply)({"params": params}, x, AttentionInputs(mask[:, None]))
    expected = numpy_attention(x, np.asarray(mask), jax.tree.map(np.asarray, params))
    np.testing.assert_allclose(ours, expected, atol=1e-10)


@pytest.mark.usefixtures("float64")
@NORMS
def test_the_encoder_is_what_numpy_computes(norm):
    ids, mask = batch()
    encoder = make(norm, layers=2, dtype=jnp.float64)
    params = init(encoder, ids, mask, np.float64)
    ours = run(encoder, params, ids, mask)
    params, real = jax.tree.map(np.asarray, params), np.asarray(mask)
    x = params["token_embedding"]["embedding"][np.asarray(ids)]
    x = x + params["position_embedding"]["embedding"][: ids.shape[1]]
    if norm == "post":
        x = layer_norm(x, params["embedding_norm"])
    for layer in range(2):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        if norm == "pre":
            x = x + numpy_attention(layer_norm(x, block["attention_norm"]), real, block["attention"])
            x = x + numpy_feed_forward(layer_norm(x, block["mlp_norm"]), block["mlp"])
        else:
            x = layer_norm(x + numpy_attention(x, real, block["attention"]), block["attention_norm"])
            x = layer_norm(x + numpy_feed_forward(x, block["mlp"]), block["mlp_norm"])
    if norm == "pre":
        x = layer_norm(x, params["final_norm"])
    np.testing.assert_allclose(np.asarray(ours)[real], x[real], atol=1e-9)


@pytest.mark.usefixtures("float64")
@NORMS
def test_the_gradient_of_the_gradient_is_that_of_finite_differences(norm):
    ids, mask = batch()
    encoder = make(norm, dtype=jnp.float64)
    params = init(encoder, ids, mask, np.float64)
    rng = np.random.default_rng(5)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    def loss(params):
        hidden = run(encoder, params, ids, mask)
        return jnp.sum(jnp.sin(masked_mean(hidden, mask)))

    def slope(params):
        """The derivative of the loss along the direction, by reverse mode."""
        products = jax.tree.map(jnp.vdot, jax.grad(loss)(params), direction)
        return sum(jax.tree.leaves(products))

    @jax.jit
    def at(t):
        return slope(jax.tree.map(lambda leaf, d: leaf + t * d, params, direction))

    curvature = jax.jit(jax.grad(at))(0.0)
    step = 1e-5
    assert abs(float(curvature)) > 1e-3
    assert float(curvature) == pytest.approx(float(at(step) - at(-step)) / (2 * step), rel=1e-5)


@NORMS
def test_the_program_does_not_grow_with_depth(norm):
    ids, mask = batch()

    def size(layers):
        encoder = make(norm, layers=layers)
        params = jax.eval_shape(encoder.init, jax.random.key(0), ids, mask)["params"]

        def loss(params):
            return jnp.sum(encoder.apply({"params": params}, ids, mask) ** 2)

        return len(jax.jit(jax.grad(loss)).lower(params).as_text())

    assert size(12) < 1.05 * size(2)


def test_too_long_a_batch_is_refused():
    ids, mask = batch(length=11, real=(3,))
    with pytest.raises(ValueError, match=r"11 tokens are longer than the model's 10 positions"):
        make().init(jax.random.key(0), ids, mask)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"width=8 is not a multiple of heads=3"):
        make(heads=3).init(jax.random.key(0), *batch())


@pytest.mark.parametrize("shapes", [((3, 6), (3, 5)), ((6,), (6,)), ((1, 3, 6), (1, 3, 6))])
def test_shapes_that_differ_are_refused(shapes):
    ids, mask = (jnp.ones(shape, jnp.int32) for shape in shapes)
    with pytest.raises(ValueError, match=r"expected two equal shapes \[B, L\]"):
        make().init(jax.random.key(0), ids, mask)


def test_dropout_needs_a_key_and_is_a_function_of_it():
    ids, mask = batch()
    encoder = make(dropout=0.5)
    variables = {"params": init(encoder, ids, mask)}
    noisy = jax.jit(functools.partial(encoder.apply, deterministic=False))

    def dropped(seed):
        key = jax.random.key(seed)
        return noisy(variables, ids, mask, rngs={"dropout": key})

    plain = run(encoder, variables["params"], ids, mask)
    np.testing.assert_array_equal(plain, run(make(), variables["params"], ids, mask))
    np.testing.assert_array_equal(dropped(1), dropped(1))
    assert (dropped(1) != dropped(2)).any()
    assert (dropped(1) != plain).any()


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_text_features_have_the_learned_length(scale):
    ids, mask = batch()
    model = TextFeatures(make(), scale)
    params = jax.jit(model.init)(jax.random.key(0), ids, mask)["params"]
    features = jax.jit(model.apply)({"params": params}, ids, mask)
    assert features.shape == (3, WIDTH)
    np.testing.assert_allclose(jnp.linalg.norm(features, axis=-1), scale, rtol=1e-4)
    params = {**params, "log_scale": jnp.asarray(math.log(2.5))}
    longer = jax.jit(model.apply)({"params": params}, ids, mask)
    np.testing.assert_allclose(jnp.linalg.norm(longer, axis=-1), 2.5, rtol=1e-4)
    np.testing.assert_allclose(longer, features * 2.5 / scale, rtol=1e-4)


def test_before_training_the_features_are_the_direction_of_the_mean_over_real_tokens():
    ids, mask = batch()
    model = TextFeatures(make(), 3.0)
    features, variables = jax.jit(model.init_with_output)(jax.random.key(0), ids, mask)
    hidden = np.asarray(run(make(), variables["params"]["encoder"], ids, mask))
    mean = np.stack([row[real].mean(0) for row, real in zip(hidden, np.asarray(mask), strict=True)])
    expected = 3 * mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ngram_width", [0, 5])
def test_padding_has_no_part_in_the_features(ngram_width):
    ids, mask = batch()
    model = TextFeatures(make(), ngram_width=ngram_width)
    ngrams = jnp.arange(3.0 * ngram_width).reshape(3, -1) if ngram_width else None
    params = jax.jit(model.init)(jax.random.key(0), ids, mask, ngrams)["params"]
    apply = jax.jit(lambda ids, mask: model.apply({"params": params}, ids, mask, ngrams))
    features = apply(ids, mask)
    assert features.shape == (3, model.width) == (3, WIDTH + ngram_width)
    np.testing.assert_allclose(apply(jnp.where(mask, ids, 7), mask), features, atol=1e-6)
    pad = ((0, 0), (0, MAX_LENGTH - ids.shape[1]))
    np.testing.assert_allclose(apply(jnp.pad(ids, pad), jnp.pad(mask, pad)), features, atol=1e-5)
    np.testing.assert_allclose(apply(ids, mask.astype(jnp.int32)), features, atol=1e-6)


def test_ngrams_stand_beside_the_encoder_weighted_by_column_and_gated():
    ids, mask = batch()
    model = TextFeatures(make(), 3.0, ngram_width=4, initial_gate=0.5, weight_gain=2.0)
    ngrams = jnp.array([[1.0, 0, -2, 0], [0, 0, 0, 0], [3, 1, 0, 1]])  # the second text has none
    params = jax.jit(model.init)(jax.random.key(0), ids, mask, ngrams)["params"]
    params = {**params, "ngram_log_weight": jnp.log(jnp.array([1.0, 2, 3, 4])) / 2.0}
    features = jax.jit(model.apply)({"params": params}, ids, mask, ngrams)
    plain = TextFeatures(make(), 1.0)
    alone = {name: params[name] for name in ("encoder", "pool")} | {"log_scale": jnp.zeros(())}
    hidden = np.asarray(jax.jit(plain.apply)({"params": alone}, ids, mask))
    weighted = np.asarray(ngrams) * [1, 2, 3, 4]
    weighted /= np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-3)
    both = np.concatenate([hidden, 0.5 * weighted], axis=1)
    expected = 3 * both / np.linalg.norm(both, axis=1, keepdims=True)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    grad = jax.jit(jax.grad(lambda params: model.apply({"params": params}, ids, mask, ngrams).sum()))
    assert np.isfinite(grad(params)["ngram_gate"])


def test_a_model_with_ngrams_says_that_it_needs_them():
    ids, mask = batch()
    for width, ngrams in ((4, None), (4, jnp.ones((3, 1))), (0, jnp.ones((3, 4)))):
        with pytest.raises(ValueError, match="ngrams has shape"):
            TextFeatures(make(), ngram_width=width).init(jax.random.key(0), ids, mask, ngrams)


def test_a_mask_of_another_shape_is_refused():
    ids, mask = batch()
    x = jnp.ones((*ids.shape, WIDTH))
    with pytest.raises(ValueError, match="mask has shape"):
        Attention(SHAPE).init(jax.random.key(0), x, AttentionInputs(mask))


def test_no_position_of_a_decoder_attends_to_a_later_one():
    ids, mask = batch(real=(6, 6, 6))
    stack = StackShape(block=SHAPE, layers=2, causal=True, max_length=MAX_LENGTH, final_norm=True)
    head = HeadShape(kind="causal_lm", tied=False, bias=False)
    decoder = Transformer(ModelShape(vocab_size=VOCABULARY, decoder=stack, head=head))
    params = jax.jit(decoder.init)(jax.random.key(0), ids, mask)["params"]
    apply = jax.jit(lambda ids: decoder.apply({"params": params}, ids, mask).logits)
    logits = apply(ids)
    assert logits.shape == (*ids.shape, VOCABULARY)
    for position in range(ids.shape[1]):
        other = ids.at[:, position].set((ids[:, position] + 1) % VOCABULARY)
        changed = jnp.abs(apply(other) - logits).max((0, 2))
        np.testing.assert_allclose(changed[:position], 0, atol=1e-6)
        assert changed[position:].min() > 1e-4  # itself, and all that come after it


def test_the_head_starts_at_zero():
    (kernel,) = zero_head(5, 3).values()
    assert kernel.shape == (5, 3)
    assert not kernel.any()


@pytest.mark.parametrize("activation", [(nn.relu, lambda x: np.maximum(x, 0)), (jnp.tanh, np.tanh)])
def test_mlp_is_what_numpy_computes(activation):
    ours, theirs = activation
    model = MLP((7, 4, 2), ours)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    params = model.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    expected = np.asarray(x)
    for index in range(3):
        layer = params[f"dense_{index}"]
        expected = expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        expected = theirs(expected) if index < 2 else expected
    np.testing.assert_allclose(model.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)
