"""The layers of a transformer. Array names end in their axes: x_BLD is ``[B, L, D]``.

Attention is written out in XLA operations, because the fused kernels cannot be
differentiated twice, which a second-order inner loop does.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax import block_policy

Norm = Literal["pre", "post"]


# Computed again in a backward pass, from its inputs. What is cheap to compute costs more to write and read: GELU,
# norms, attention given q, k and v. In the scan over blocks XLA cannot merge the two computations; elsewhere it may.
recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


def attend(q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, mask_BLL: jax.Array) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1), ``[B, L, H, K]``."""
    # At least float32 for scores and softmax; float64 stays float64, which jax.nn's attention does not keep.
    precise = jnp.promote_types(q_BLHK.dtype, jnp.float32)
    score_BHLL = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK, preferred_element_type=precise)
    score_BHLL *= q_BLHK.shape[-1] ** -0.5
    score_BHLL = jnp.where(mask_BLL[:, None], score_BHLL, jnp.finfo(precise).min)
    weight_BHLL = jax.nn.softmax(score_BHLL).astype(v_BLHK.dtype)
    return jnp.einsum("BHLM,BMHK->BLHK", weight_BHLL, v_BLHK)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2); ``mask [B, 1 or L, L]`` says who sees whom."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BLL: jax.Array) -> jax.Array:
        items, length, width = x_BLD.shape
        if mask_BLL.shape not in ((items, 1, length), (items, length, length)):
            raise ValueError(
                f"mask has shape {mask_BLL.shape}, expected {(items, 1, length)} or {(items, length, length)}"
            )
        projection = lambda name: nn.DenseGeneral(  # noqa: E731
            (self.heads, width // self.heads), dtype=self.dtype, name=name
        )
        q_BLHK, k_BLHK, v_BLHK = projection("query")(x_BLD), projection("key")(x_BLD), projection("value")(x_BLD)
        y_BLHK = recomputed(attend)(q_BLHK, k_BLHK, v_BLHK, mask_BLL)
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(y_BLHK)


class FeedForward(nn.Module):
    """Two dense layers with an activation between them."""

    width: int
    activation: Callable[[jax.Array], jax.Array] = nn.gelu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        hidden = recomputed(self.activation)(nn.Dense(self.width, dtype=self.dtype, name="up")(x_BLD))
        return nn.Dense(x_BLD.shape[-1], dtype=self.dtype, name="down")(hidden)


class Block(nn.Module):
    """One transformer block; a scan body, so it returns ``(x, None)``.

    ``norm="pre"`` normalises each sub-layer's input (GPT-2), ``"post"`` the sum
    of input and output (BERT).
    """

    heads: int
    mlp_width: int
    norm: Norm = "pre"
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BLL: jax.Array, deterministic: bool) -> tuple[jax.Array, None]:
        attention = Attention(self.heads, self.dtype, name="attention")
        feed_forward = FeedForward(self.mlp_width, dtype=self.dtype, name="mlp")
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        norm_1, norm_2 = (
            nn.remat(nn.LayerNorm, prevent_cse=False)(dtype=self.dtype, name=name)
            for name in ("attention_norm", "mlp_norm")
        )
        if self.norm == "pre":
            x_BLD = x_BLD + drop(attention(norm_1(x_BLD), mask_BLL))
            return x_BLD + drop(feed_forward(norm_2(x_BLD))), None
        x_BLD = norm_1(x_BLD + drop(attention(x_BLD, mask_BLL)))
        return norm_2(x_BLD + drop(feed_forward(x_BLD))), None


def block_stack(layers: int, *arguments: Any) -> nn.Module:
    """``layers`` blocks ``Block(*arguments)`` as one block scanned over stacked parameters, called ``"blocks"``.

    Compile time does not grow with depth, and each block keeps for its backward
    pass what `block_policy` says.
    """
    policy = block_policy.current()
    block = Block if policy is None else nn.remat(Block, policy=policy, prevent_cse=False, static_argnums=(3,))
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=layers,
    )
    return stack(*arguments, name="blocks")
