"""A stack with kinds of layers, and one with embeddings of their own width, are what a plain loop computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.models.language_head import HeadShape
from fewshot_jax.models.layer_kinds import LayerKind
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.positions import Rotary
from fewshot_jax.models.stack import Stack, StackShape, Tokens
from fewshot_jax.models.transformer import ModelShape, Transformer

BLOCK = BlockShape(width=8, heads=2, mlp_width=12, norm="rms", activation="relu", norm_epsilon=1e-6)
LAYERS = [  # window, base of the rotary positions, norm before the attention; the stack has each kind at two places
    (2, 10.0, True),
    (None, None, True),
    (2, 10.0, True),
    (None, 500.0, False),
    (None, None, True),
]
MASK = np.arange(7)[None] < np.array([[7], [5]])


def kind_of(window, base, attention_norm):
    return LayerKind(window=window, rotary=None if base is None else Rotary(theta=base), attention_norm=attention_norm)


def random_params(module, *arguments):
    """Numbers in every leaf, also where it starts at zero or one."""
    shapes = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"], sep="/")
    rng = np.random.default_rng(0)
    return unflatten_dict({path: rng.normal(0, 0.5, leaf.shape) for path, leaf in shapes.items()}, sep="/")


def rms(x, params):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["scale"]


def rotated(vector, position, base):
    """Su et al. 2021, equation 15: each pair of features turns by an angle that grows with the position."""
    half = len(vector) // 2
    for i in range(0 if base is None else half):
        angle = position * base ** (-i / half)
        first, second = vector[i], vector[i + half]
        vector[i] = first * np.cos(angle) - second * np.sin(angle)
        vector[i + half] = second * np.cos(angle) + first * np.sin(angle)
    return vector


def attention(x, params, window, base):
    """Causal attention of one item, one query and one head at a time."""
    q, k, v = (
        np.einsum("ld,dhk->lhk", x, params[name]["kernel"]) + params[name]["bias"] for name in ("query", "key", "value")
    )
    out = np.zeros_like(q)
    for h in range(q.shape[1]):
        for i in range(len(x)):
            attended = [j for j in range(i + 1) if window is None or i - j < window]
            query = rotated(q[i, h].copy(), i, base)
            scores = np.array([query @ rotated(k[j, h].copy(), j, base) for j in attended]) / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max())
            out[i, h] = weights / weights.sum() @ v[attended, h]
    return np.einsum("lhk,hkd->ld", out, params["out"]["kernel"]) + params["out"]["bias"]


def plain_stack(x, blocks):
    """One item, layer by layer."""
    for layer, (window, base, attention_norm) in enumerate(LAYERS):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], blocks)
        given = rms(x, block["attention_norm"]) if attention_norm else x
        x = x + attention(given, block["attention"], window, base)
        hidden = rms(x, block["mlp_norm"]) @ block["mlp"]["up"]["kernel"] + block["mlp"]["up"]["bias"]
        x = x + np.maximum(hidden, 0) @ block["mlp"]["down"]["kernel"] + block["mlp"]["down"]["bias"]
    return x


@pytest.mark.usefixtures("float64")
def test_a_stack_with_three_kinds_of_layers_is_what_a_loop_over_its_layers_computes():
    kinds = list(dict.fromkeys(LAYERS))
    shape = StackShape(
        block=BLOCK,
        layers=len(LAYERS),
        causal=True,
        kinds=tuple(kind_of(*one) for one in kinds),
        pattern=tuple(map(kinds.index, LAYERS)),
    )
    assert len(kinds) == 3
    stack, x = Stack(shape, jnp.float64), np.random.default_rng(1).normal(size=(*MASK.shape, BLOCK.width))
    params = random_params(stack, Tokens(x), MASK)
    ours, _ = jax.jit(stack.apply)({"params": params}, Tokens(jnp.asarray(x)), MASK)
    for item, mask in enumerate(MASK):
        expected = plain_stack(x[item][mask], params["blocks"])
        np.testing.assert_allclose(ours[item][mask], expected, atol=1e-6)  # angles are float32


def test_a_pattern_repeats_and_must_name_kinds_of_the_stack():
    kinds = (LayerKind(window=4), LayerKind())
    shape = StackShape(block=BLOCK, layers=7, kinds=kinds, pattern=(0, 0, 1))
    assert [kind.window for kind in shape.layer_kinds] == [4, 4, None, 4, 4, None, 4]
    for pattern in ((), (2,), (-1,), (0,) * 8):
        with pytest.raises(ValueError, match="of 7 layers with 2 kinds: expected indices of kinds"):
            StackShape(block=BLOCK, layers=7, kinds=kinds, pattern=pattern)


def test_an_embedding_of_its_own_width_is_projected_to_the_models_and_tied_to_the_output():
    block = BlockShape(width=8, heads=2, mlp_width=12, order="post", norm_epsilon=1e-6)
    stack = StackShape(block=block, layers=1, max_length=7, embedding_width=5, embedding_norm=True)
    head = HeadShape(kind="masked_lm", dense="relu", dense_norm=True)
    model = Transformer(ModelShape(vocab_size=11, encoder=stack, head=head))
    ids = np.random.default_rng(2).integers(0, 11, MASK.shape)
    params = random_params(model, ids, MASK)
    assert params["token_embedding"]["embedding"].shape == (11, 5)
    out = model.apply({"params": params}, ids, MASK)

    def layer_norm(x, own):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * own["scale"] + own["bias"]

    own = params["encoder"]
    x = params["token_embedding"]["embedding"][ids] + own["position_embedding"]["embedding"]
    x = layer_norm(x, own["embedding_norm"]) @ own["embedding_projection"]["kernel"]
    x = jnp.asarray(x + own["embedding_projection"]["bias"], jnp.float32)
    inner = Stack(StackShape(block=block, layers=1))
    hidden, _ = inner.apply({"params": {"blocks": own["blocks"]}}, Tokens(x), MASK)
    np.testing.assert_allclose(out.last_hidden_state[MASK], hidden[MASK], rtol=2e-5, atol=2e-5)
    dense = np.maximum(np.asarray(hidden) @ params["head"]["dense"]["kernel"] + params["head"]["dense"]["bias"], 0)
    logits = layer_norm(dense, params["head"]["norm"]) @ params["token_embedding"]["embedding"].T
    np.testing.assert_allclose(out.logits[MASK], (logits + params["head"]["bias"])[MASK], rtol=2e-4, atol=2e-4)
