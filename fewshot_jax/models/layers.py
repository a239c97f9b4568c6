"""The shape of a transformer block, its norms and its feed-forward layers, one set for every family.

Array names end in their axes: x_BLD is ``[B, L, D]``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.disentangled import Disentangled

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
        parallel: attention and feed-forward layers both read the block's input, and both outputs are added to it
            (GPT-NeoX); otherwise the second reads what the first gives. Not with ``"post"``.
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
        disentangled: terms of the scores that depend on a learned embedding of the distance (DeBERTa).
        cross: a second attention reads an encoder's output.
        dropout: rate on sub-layer outputs; needs a ``"dropout"`` key.
    """

    width: int
    heads: int
    mlp_width: int
    kv_heads: int | None = None
    head_width: int | None = None
    order: NormOrder = "pre"
    parallel: bool = False
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
    disentangled: Disentangled | None = None
    cross: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.parallel and self.order == "post":
            raise ValueError("parallel=True: a norm of each sum (order='post') needs one sum after the other")
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")
        if self.heads % self.shared_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.disentangled is not None and self.shared_heads != self.heads:
            raise ValueError(f"disentangled: needs as many heads of keys as of queries, not {self.kv_heads}")

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def features_of_head(self) -> int:
        """``K``."""
        return self.width // self.heads if self.head_width is None else self.head_width


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
