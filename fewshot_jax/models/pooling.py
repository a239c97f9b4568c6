"""From the hidden states of a text to one vector, in the ways that sentence-transformers knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

PoolingKind = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
POOLING_KINDS: tuple[PoolingKind, ...] = get_args(PoolingKind)
DenseActivation = Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"]

_ACTIVATIONS: dict[DenseActivation, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """A linear layer on a vector, and an activation.

    Attributes:
        inputs, outputs: numbers of a vector.
        bias: whether it has one.
        activation: of the outputs.
    """

    inputs: int
    outputs: int
    bias: bool = True
    activation: DenseActivation = "tanh"


VectorStep = Literal["normalize"] | DenseLayer


@dataclass(frozen=True, kw_only=True)
class VectorShape:
    """What makes one vector of the hidden states of a text; the default is their plain mean.

    Attributes:
        pooling: kinds of pooling, whose vectors are joined in this order.
        steps: what follows, in order: unit length, or a dense layer.
        outputs: how many numbers of a vector are kept, from its beginning; None for all.
        skipped: tokens at the beginning of each text that the pooling leaves out, those of a prompt.
    """

    pooling: tuple[PoolingKind, ...] = ("mean",)
    steps: tuple[VectorStep, ...] = ()
    outputs: int | None = None
    skipped: int = 0

    @property
    def dense(self) -> tuple[DenseLayer, ...]:
        """The dense layers."""
        return tuple(step for step in self.steps if isinstance(step, DenseLayer))

    def width(self, hidden: int) -> int:
        """Numbers of a vector, ``D'``, of hidden states of so many."""
        width = self.dense[-1].outputs if self.dense else len(self.pooling) * hidden
        return width if self.outputs is None else min(width, self.outputs)

    def pooled_tokens(self, mask_BL: jax.Array) -> jax.Array:
        """The tokens that are pooled, ``[B, L]`` bool: the real ones without those that are skipped."""
        mask_BL = mask_BL.astype(bool)
        return mask_BL & (_slots(mask_BL) >= _first(mask_BL) + self.skipped) if self.skipped else mask_BL


def _slots(mask_BL: jax.Array) -> jax.Array:
    return jnp.arange(mask_BL.shape[1])[None, :]


def _first(mask_BL: jax.Array) -> jax.Array:
    """The slot of the first token, ``[B, 1]``; 0 where there is none."""
    return jnp.argmax(mask_BL, axis=1)[:, None]


def _at(x_BLD: jax.Array, slot_B1: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BLD, slot_B1[:, :, None], axis=1)[:, 0]


def pool_tokens(kind: PoolingKind, x_BLD: jax.Array, pooled_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
    """Pool hidden states to one vector of each text, ``[B, D]``.

    Padding may hold any number. A text without a token to pool gives zeros.

    Args:
        kind: ``"cls"`` and ``"lasttoken"`` take the first and the last token, wherever the padding stands; ``"mean"``
            divides the sum by the number of tokens, ``"mean_sqrt_len_tokens"`` by its square root; ``"weightedmean"``
            gives the tokens of a text the weights 1, 2, ...; ``"max"`` takes the largest of each number.
        x_BLD: hidden states, float32.
        pooled_BL: the tokens that are pooled.
        mask_BL: all tokens of the text, by which ``"weightedmean"`` counts.

    References:
        Reimers, Gurevych. Sentence-BERT. EMNLP 2019 (section 3: cls, mean, max).
        Muennighoff. SGPT: GPT Sentence Embeddings for Semantic Search. arXiv:2202.08904 (section 4.1: weighted mean).
    """
    mask_BL, pooled_BL = mask_BL.astype(bool), pooled_BL.astype(bool)
    some_B1 = pooled_BL.any(axis=1, keepdims=True)
    x_BLD = jnp.where(pooled_BL[..., None], x_BLD, 0)
    if kind == "cls":
        return _at(x_BLD, _first(pooled_BL))
    if kind == "lasttoken":
        return _at(x_BLD, pooled_BL.shape[1] - 1 - _first(pooled_BL[:, ::-1]))
    if kind == "max":
        largest_BD = jnp.where(pooled_BL[..., None], x_BLD, jnp.finfo(x_BLD.dtype).min).max(axis=1)
        return jnp.where(some_B1, largest_BD, 0)
    weight_BL = pooled_BL.astype(x_BLD.dtype)
    if kind == "weightedmean":
        weight_BL *= 1 + _slots(mask_BL) - _first(mask_BL)
    total_B1 = jnp.where(some_B1, weight_BL.sum(axis=1, keepdims=True), 1)
    divisor_B1 = jnp.sqrt(total_B1) if kind == "mean_sqrt_len_tokens" else total_B1
    return (x_BLD * weight_BL[..., None]).sum(axis=1) / divisor_B1


def unit_vectors(x_BD: jax.Array) -> jax.Array:
    """Vectors divided by their Euclidean length, or by 1e-12 where that is larger, as torch does; zero stays zero.

    Both derivatives are finite at zero.
    """
    square_B1 = jnp.sum(x_BD**2, -1, keepdims=True)
    length_B1 = jnp.sqrt(jnp.where(square_B1 > 0, square_B1, 1))
    return x_BD / jnp.maximum(length_B1, 1e-12)


class TextVector(nn.Module):
    """Hidden states ``[B, L, D]`` to one vector of each text, ``[B, D']``, float32 at least.

    Its parameters are those of dense layers: ``dense_0``, ``dense_1``, ... in order; without these it has none.

    Attributes:
        shape: what is computed.
    """

    shape: VectorShape

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BL: jax.Array, mean_BD: jax.Array | None = None) -> jax.Array:
        """Compute a batch.

        Args:
            x_BLD: hidden states.
            mask_BL: zero or False at padding, on either side.
            mean_BD: taken for the plain mean, where the shape has one; None to compute it.
        """
        x_BLD = x_BLD.astype(jnp.promote_types(x_BLD.dtype, jnp.float32))
        pooled_BL = self.shape.pooled_tokens(mask_BL)
        parts = [
            mean_BD if kind == "mean" and mean_BD is not None else pool_tokens(kind, x_BLD, pooled_BL, mask_BL)
            for kind in self.shape.pooling
        ]
        x_BD = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        layers = 0
        for step in self.shape.steps:
            if isinstance(step, DenseLayer):
                layer = nn.Dense(step.outputs, use_bias=step.bias, dtype=x_BD.dtype, name=f"dense_{layers}")
                x_BD, layers = _ACTIVATIONS[step.activation](layer(x_BD)), layers + 1
            else:
                x_BD = unit_vectors(x_BD)
        return x_BD[:, : self.shape.width(x_BLD.shape[-1])]
