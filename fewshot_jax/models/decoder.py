"""A causal transformer: hidden states of an encoder whose positions see only what stands before them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.encoder import Encoder


class CausalEncoder(Encoder):
    """An `Encoder` in which position ``i`` attends to real positions ``<= i``."""

    def sees(self, mask_BL: jax.Array) -> jax.Array:
        """Which positions a position attends to, ``[B, L, L]``."""
        length = mask_BL.shape[1]
        return mask_BL[:, None, :] & jnp.tril(jnp.ones((length, length), bool))[None]


class Decoder(nn.Module):
    """Token ids ``[B, L]`` to logits of the next token ``[B, L, V]``.

    Attributes:
        backbone: the causal transformer.

    References:
        Radford et al. Improving Language Understanding by Generative
        Pre-Training. 2018 (section 3.1).
    """

    backbone: CausalEncoder

    @nn.compact
    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array, *, deterministic: bool = True) -> jax.Array:
        x_BLD = self.backbone(input_ids, attention_mask, deterministic=deterministic)
        return nn.Dense(self.backbone.vocab_size, use_bias=False, dtype=self.backbone.dtype, name="logits")(x_BLD)
