"""What reads the hidden states of a language model: logits of tokens, of classes, of spans, or a text's vector."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.layers import ACTIVATIONS, Activation, BlockShape, norm_of

HeadKind = Literal["masked_lm", "causal_lm", "classification", "span", "pooler", "encoder"]
Pooling = Literal["first", "mean", "last", "eos"]


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What reads the hidden states.

    Attributes:
        kind: logits of a token at every position (``"masked_lm"``, ``"causal_lm"``), of ``labels`` classes,
            of a span's start and end, or a text's vector (``"pooler"``, the dense layer alone). ``"encoder"`` is
            no head: the encoder without its decoder.
        labels: number of classes.
        pooling: which position stands for a text: the first, the last real one, the last end-of-sequence
            token of the input, or the mean.
        dense: activation of a dense layer before the output; None for no such layer.
        dense_bias: of that layer.
        dense_norm: a norm after it.
        bias: of the output.
        tied: the output layer is the token embedding.
        scale: hidden states are multiplied by it first.
        cap: logits become ``cap * tanh(logit / cap)``.
    """

    kind: HeadKind
    labels: int = 2
    pooling: Pooling = "first"
    dense: Activation | None = None
    dense_bias: bool = True
    dense_norm: bool = False
    bias: bool = True
    tied: bool = True
    scale: float = 1.0
    cap: float | None = None


class Output(NamedTuple):
    """What a model computes; None where there is no such head.

    Attributes:
        last_hidden_state: ``[B, L, D]``, of the decoder where there are two stacks.
        logits: ``[B, L, V]``, or ``[B, labels]`` of a classification, float32 at least.
        start_logits, end_logits: ``[B, L]``.
        pooler_output: ``[B, D]``.
        encoder_last_hidden_state: ``[B, M, D]``, where there are two stacks.
    """

    last_hidden_state: jax.Array
    logits: jax.Array | None = None
    start_logits: jax.Array | None = None
    end_logits: jax.Array | None = None
    pooler_output: jax.Array | None = None
    encoder_last_hidden_state: jax.Array | None = None


class Head(nn.Module):
    """From hidden states to what `HeadShape` says, as fields of `Output`.

    Attributes:
        shape: what it computes.
        block: of the stack that it reads; its norm is of the same kind.
        vocab_size: number of token ids ``V``.
        eos_id: token that ends a sequence, for ``pooling="eos"``.
        dtype: of the computation.
    """

    shape: HeadShape
    block: BlockShape
    vocab_size: int
    eos_id: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, mask_BL: jax.Array, input_ids: jax.Array, embedding: nn.Embed
    ) -> dict[str, jax.Array]:
        shape, width = self.shape, x_BLD.shape[-1]
        if shape.kind in ("classification", "pooler"):
            x_BLD = self._pooled(x_BLD, mask_BL, input_ids)
        if shape.dense is not None:
            if shape.kind in ("masked_lm", "causal_lm"):
                width = embedding.features  # of an embedding of another width too (ELECTRA)
            x_BLD = ACTIVATIONS[shape.dense](
                nn.Dense(width, use_bias=shape.dense_bias, dtype=self.dtype, name="dense")(x_BLD)
            )
        if shape.dense_norm:
            x_BLD = norm_of(self.block, "norm", self.dtype)(x_BLD)
        if shape.kind == "pooler":
            return {"pooler_output": x_BLD}
        if shape.kind == "classification":
            x_BLD = nn.Dense(shape.labels, use_bias=shape.bias, dtype=self.dtype, name="output")(x_BLD)
            return {"logits": precise(x_BLD)}
        if shape.kind == "span":
            both = precise(nn.Dense(2, use_bias=shape.bias, dtype=self.dtype, name="output")(x_BLD))
            return {"start_logits": both[..., 0], "end_logits": both[..., 1]}
        x_BLD = x_BLD * jnp.asarray(shape.scale, x_BLD.dtype)
        if shape.tied:
            logits = embedding.attend(x_BLD)
            if shape.bias:
                bias_V = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
                logits += bias_V.astype(logits.dtype)[None, None]
        else:
            logits = nn.Dense(self.vocab_size, use_bias=shape.bias, dtype=self.dtype, name="output")(x_BLD)
        logits = precise(logits)
        return {"logits": logits if shape.cap is None else shape.cap * jnp.tanh(logits / shape.cap)}

    def _pooled(self, x_BLD: jax.Array, mask_BL: jax.Array, input_ids: jax.Array) -> jax.Array:
        pooling = self.shape.pooling
        if pooling == "first":
            return x_BLD[:, 0]
        if pooling == "mean":
            weight_BL1 = precise(mask_BL.astype(x_BLD.dtype))[..., None]
            # A row without a real token has a finite mean: as padding of a batch it must not spoil the gradient.
            return ((x_BLD * weight_BL1).sum(1) / jnp.maximum(weight_BL1.sum(1), 1)).astype(x_BLD.dtype)
        marked = mask_BL
        if pooling == "eos":
            if self.eos_id is None:
                raise ValueError("this model pools at the end-of-sequence token, and its config names none")
            marked = input_ids == jnp.asarray(self.eos_id)
        last_B = jnp.argmax(jnp.arange(marked.shape[1])[None] * marked, axis=1)
        return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0]


def precise(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
