"""The layers of a transformer, one set for every family. Array names end in their axes: x_BLD is ``[B, L, D]``.

Attention is written out in XLA operations, because the fused kernels cannot be
differentiated twice, which a second-order inner loop does.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax import block_policy
from fewshot_jax.models import prefix
from fewshot_jax.models.positions import rotate

NormOrder = Literal["pre", "post", "sandwich"]
NormKind = Literal["layer", "rms"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}

# Computed again in a backward pass, from its inputs. What is cheap to compute costs more to write and read: GELU,
# norms, attention given q, k and v. In the scan over blocks XLA cannot merge the two computations; elsewhere it may.
recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What a transformer block is made of; families of models differ in nothing else.

    Attributes:
        width: features ``D``.
        heads: of attention, ``H``.
        mlp_width: hidden width of the feed-forward layers.
        kv_heads: heads of keys and values, each read by ``heads / kv_heads`` query heads; None for ``heads``.
        head_width: features of a head, ``K``; None for ``width / heads``.
        order: ``"pre"`` normalises each sub-layer's input (GPT-2), ``"post"`` the sum of input and output
            (BERT), ``"sandwich"`` the input and the output (Gemma 2).
        norm: LayerNorm, or root mean square without mean and bias.
        norm_epsilon: added to the variance.
        norm_bias: of LayerNorm.
        norm_offset: added to the learned scale of ``"rms"`` (Gemma: 1).
        activation: of the feed-forward layers.
        gated: the hidden units are ``activation(gate) * up`` (Shazeer, arXiv:2002.05202).
        attention_bias: of queries, keys and values.
        out_bias: of the attention's output.
        mlp_bias: of the feed-forward layers.
        qk_norm: queries and keys are normalised head by head (Qwen 3).
        score_scale: of attention scores; None for ``K ** -0.5``.
        score_cap: scores become ``cap * tanh(score / cap)``.
        cross: a second attention reads an encoder's output.
        dropout: rate on sub-layer outputs; needs a ``"dropout"`` key.
    """

    width: int
    heads: int
    mlp_width: int
    kv_heads: int | None = None
    head_width: int | None = None
    order: NormOrder = "pre"
    norm: NormKind = "layer"
    norm_epsilon: float = 1e-6
    norm_bias: bool = True
    norm_offset: float = 0.0
    activation: Activation = "gelu_tanh"
    gated: bool = False
    attention_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    score_scale: float | None = None
    score_cap: float | None = None
    cross: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")
        if self.heads % self.shared_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def features_of_head(self) -> int:
        """``K``."""
        return self.width // self.heads if self.head_width is None else self.head_width


class Sight(NamedTuple):
    """What the positions of a sequence see of each other.

    Attributes:
        mask: ``[B, 1 or L, M]``, True where a query position sees a key position.
        rotary: cosine and sine ``[B or 1, L, K / 2]`` of the angles that queries and new keys are rotated by.
        bias: ``[1, H, L, M]``, added to the scores.
    """

    mask: jax.Array
    rotary: tuple[jax.Array, jax.Array] | None = None
    bias: jax.Array | None = None


class Cache(NamedTuple):
    """Keys and values of a layer, ``[B, M, kv_heads, K]``; of a stack, with a leading axis of layers.

    Attributes:
        key, value: of the ``M`` slots of a sequence that grows.
        cross_key, cross_value: of an encoder's output, which stays.
    """

    key: jax.Array
    value: jax.Array
    cross_key: jax.Array | None = None
    cross_value: jax.Array | None = None


class PerLayer(NamedTuple):
    """What differs from layer to layer of a stack, ``[layers]`` bools each; None where nothing does.

    Attributes:
        local: the layer has the second of two sights.
        bare: the layer's attention reads its input as it is, without a norm (the first of ModernBERT).
    """

    local: jax.Array | None = None
    bare: jax.Array | None = None


class RMSNorm(nn.Module):
    """``x / rms(x) * (offset + scale)`` (Zhang, Sennrich, arXiv:1910.07467, equation 4), in float32 at least."""

    epsilon: float
    offset: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", start, (x.shape[-1],), jnp.float32) + self.offset
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean_square = jnp.mean(precise**2, axis=-1, keepdims=True)
        scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
        return (precise * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(self.dtype)


def norm_of(shape: BlockShape, name: str, dtype: jnp.dtype) -> nn.Module:
    """The norm of a block, computed again in the backward pass."""
    if shape.norm == "rms":
        return nn.remat(RMSNorm, prevent_cse=False)(shape.norm_epsilon, shape.norm_offset, dtype, name=name)
    return nn.remat(nn.LayerNorm, prevent_cse=False)(
        epsilon=shape.norm_epsilon, use_bias=shape.norm_bias, use_fast_variance=False, dtype=dtype, name=name
    )


def attend(
    q_BLHK: jax.Array,
    k_BMHK: jax.Array,
    v_BMHK: jax.Array,
    mask_BLM: jax.Array,
    bias_HLM: jax.Array | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1), ``[B, L, H, K]``.

    Keys and values may have fewer heads, each for a group of query heads (Ainslie et al., arXiv:2305.13245).
    """
    items, length, heads, features = q_BLHK.shape
    q_BLHGK = q_BLHK.reshape(items, length, k_BMHK.shape[2], -1, features)
    # At least float32 for scores and softmax; float64 stays float64, which jax.nn's attention does not keep.
    precise = jnp.promote_types(q_BLHK.dtype, jnp.float32)
    score_BHGLM = jnp.einsum("BLHGK,BMHK->BHGLM", q_BLHGK, k_BMHK, preferred_element_type=precise)
    score_BHGLM *= features**-0.5 if scale is None else scale
    if cap is not None:
        score_BHGLM = cap * jnp.tanh(score_BHGLM / cap)
    if bias_HLM is not None:
        score_BHGLM += bias_HLM.reshape(1, *score_BHGLM.shape[1:3], *bias_HLM.shape[1:])
    score_BHGLM = jnp.where(mask_BLM[:, None, None], score_BHGLM, jnp.finfo(precise).min)
    weight_BHGLM = jax.nn.softmax(score_BHGLM).astype(v_BMHK.dtype)
    return jnp.einsum("BHGLM,BMHK->BLHGK", weight_BHGLM, v_BMHK).reshape(items, length, heads, features)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) of a sequence to itself, or to another one.

    Returns the output and the keys and values to keep.
    """

    shape: BlockShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        sight: Sight,
        *,
        other_BMD: jax.Array | None = None,
        kept: tuple[jax.Array, jax.Array] | None = None,
        slot: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attend.

        Args:
            x_BLD: the sequence that asks.
            sight: what it sees.
            other_BMD: the sequence that answers; None for ``x_BLD`` itself.
            kept: keys and values ``[B, M, kv_heads, K]`` of earlier calls.
            slot: where among them those of ``x_BLD`` go; None: ``kept`` is all there is to see.
        """
        shape, features = self.shape, self.shape.features_of_head

        def project(name: str, x: jax.Array, heads: int) -> jax.Array:
            dense = nn.DenseGeneral((heads, features), use_bias=shape.attention_bias, dtype=self.dtype, name=name)
            y_BLHK = dense(x)
            if shape.qk_norm and name != "value":
                y_BLHK = RMSNorm(shape.norm_epsilon, shape.norm_offset, self.dtype, name=f"{name}_norm")(y_BLHK)
            return y_BLHK if sight.rotary is None or name == "value" else rotate(y_BLHK, *sight.rotary)

        q_BLHK = project("query", x_BLD, shape.heads)
        if kept is not None and slot is None:
            k_BMHK, v_BMHK = kept
        else:
            source = x_BLD if other_BMD is None else other_BMD
            k_BMHK, v_BMHK = (project(name, source, shape.shared_heads) for name in ("key", "value"))
            if kept is not None and slot is not None:
                k_BMHK, v_BMHK = (
                    jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=1)
                    for old, new in zip(kept, (k_BMHK, v_BMHK), strict=True)
                )
        allowed = {(x_BLD.shape[0], length, k_BMHK.shape[1]) for length in (1, x_BLD.shape[1])}
        if sight.mask.shape not in allowed:
            raise ValueError(f"mask has shape {sight.mask.shape}, expected {' or '.join(map(str, sorted(allowed)))}")
        attention = functools.partial(attend, scale=shape.score_scale, cap=shape.score_cap)
        kept = k_BMHK, v_BMHK
        if prefix.current():
            k_BMHK, v_BMHK, sight = self._with_prefix(k_BMHK, v_BMHK, sight)
        bias_HLM = None if sight.bias is None else sight.bias[0]
        y_BLHK = recomputed(attention)(q_BLHK, k_BMHK, v_BMHK, sight.mask, bias_HLM)
        out = nn.DenseGeneral(shape.width, axis=(-2, -1), use_bias=shape.out_bias, dtype=self.dtype, name="out")
        return out(y_BLHK), kept

    def _with_prefix(self, k_BMHK: jax.Array, v_BMHK: jax.Array, sight: Sight) -> tuple[jax.Array, jax.Array, Sight]:
        """Learned keys and values before the others, which every position sees; the cache never holds them."""
        length, items = prefix.current(), k_BMHK.shape[0]

        def before(name: str, x_BMHK: jax.Array) -> jax.Array:
            rows_PHK = self.param(f"prefix_{name}", nn.initializers.normal(0.02), (length, *x_BMHK.shape[2:]))
            rows_BPHK = jnp.broadcast_to(rows_PHK.astype(x_BMHK.dtype)[None], (items, *rows_PHK.shape))
            return jnp.concatenate([rows_BPHK, x_BMHK], axis=1)

        mask = jnp.pad(sight.mask, ((0, 0), (0, 0), (length, 0)), constant_values=True)
        bias = sight.bias
        if bias is not None:
            bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (length, 0)))
        return before("key", k_BMHK), before("value", v_BMHK), Sight(mask, sight.rotary, bias)


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, gated or not."""

    shape: BlockShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        shape, activation = self.shape, ACTIVATIONS[self.shape.activation]
        dense = functools.partial(nn.Dense, use_bias=shape.mlp_bias, dtype=self.dtype)
        hidden = dense(shape.mlp_width, name="up")(x_BLD)
        if shape.gated:
            gate = dense(shape.mlp_width, name="gate")(x_BLD)
            hidden = recomputed(lambda gate, up: activation(gate) * up)(gate, hidden)
        else:
            hidden = recomputed(activation)(hidden)
        return dense(shape.width, name="down")(hidden)


class Block(nn.Module):
    """One transformer block; a scan body, so it returns ``(x, kept)``."""

    shape: BlockShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        per_layer: PerLayer,
        cache: Cache | None,
        sights: tuple[Sight, ...],
        memory: tuple[jax.Array | None, jax.Array] | None,
        slot: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, Cache | None]:
        """Compute the block.

        Args:
            x_BLD: its input.
            per_layer: this layer's entries, scalars.
            cache: this layer's keys and values; None to keep none.
            sights: what is seen; in a layer that is local, by the second one.
            memory: an encoder's output ``[B, M, D]`` (None: the cache has its keys) and its mask ``[B, M]``.
            slot: index in the cache of the first position of ``x_BLD``.
            deterministic: no dropout.
        """
        shape = self.shape
        drop = nn.Dropout(shape.dropout, deterministic=deterministic)
        sight, local = sights[0], per_layer.local
        if local is not None:
            sight = jax.tree.map(lambda wide, near: jnp.where(local, near, wide), *sights)

        def around(x_BLD: jax.Array, name: str, layer: Callable[[jax.Array], jax.Array]) -> jax.Array:
            """A sub-layer with its norm and the residual sum."""
            norm = norm_of(shape, f"{name}_norm", self.dtype)
            if shape.order == "post":
                return norm(x_BLD + drop(layer(x_BLD)))
            given = norm(x_BLD)
            if per_layer.bare is not None and name == "attention":
                given = jnp.where(per_layer.bare, x_BLD, given)
            y_BLD = layer(given)
            if shape.order == "sandwich":
                y_BLD = norm_of(shape, f"{name}_out_norm", self.dtype)(y_BLD)
            return x_BLD + drop(y_BLD)

        kept: list[jax.Array] = []

        def attention(x_BLD: jax.Array) -> jax.Array:
            own = None if cache is None else (cache.key, cache.value)
            y_BLD, now = Attention(shape, self.dtype, name="attention")(x_BLD, sight, kept=own, slot=slot)
            kept.extend(now)
            return y_BLD

        def cross_attention(x_BLD: jax.Array) -> jax.Array:
            assert memory is not None
            other_BMD, mask_BM = memory
            own = None
            if (
                other_BMD is None
                and cache is not None
                and cache.cross_key is not None
                and cache.cross_value is not None
            ):
                own = cache.cross_key, cache.cross_value
            layer = Attention(shape, self.dtype, name="cross_attention")
            y_BLD, now = layer(x_BLD, Sight(mask_BM[:, None]), other_BMD=other_BMD, kept=own)
            kept.extend(now)
            return y_BLD

        x_BLD = around(x_BLD, "attention", attention)
        if shape.cross:
            x_BLD = around(x_BLD, "cross_attention", cross_attention)
        x_BLD = around(x_BLD, "mlp", FeedForward(shape, self.dtype, name="mlp"))
        return x_BLD, None if cache is None else Cache(*kept)


def block_stack(shape: BlockShape, layers: int, dtype: jnp.dtype = jnp.float32) -> nn.Module:
    """``layers`` blocks as one block scanned over stacked parameters, called ``"blocks"``.

    Compile time does not grow with depth, and each block keeps for its backward
    pass what `block_policy` says. Called as a `Block` is, `PerLayer` and `Cache` with an axis of layers.
    """
    policy = block_policy.current()
    block = Block if policy is None else nn.remat(Block, policy=policy, prevent_cse=False, static_argnums=(7,))
    stack = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
        length=layers,
    )
    return stack(shape, dtype, name="blocks")
