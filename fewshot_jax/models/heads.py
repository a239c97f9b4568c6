"""From hidden states to text features, and from features to class logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.encoder import Encoder


class AttentionPool(nn.Module):
    """A weighted mean over the real tokens, the weights a softmax of a learned score.

    The scores start at zero, hence the pool as a plain mean; what it learns first
    is to pass over function words, as inverse document frequencies do.

    References:
        Yang et al. Hierarchical Attention Networks for Document Classification.
        NAACL 2016 (section 2.2, with the hidden states themselves as keys).
    """

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BL: jax.Array) -> jax.Array:
        score_BL1 = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, name="score")(x_BLD)
        weight_BL1 = jax.nn.softmax(jnp.where(mask_BL.astype(bool)[..., None], score_BL1, -1e9), axis=1)
        return (x_BLD * weight_BL1).sum(1)


class TextFeatures(nn.Module):
    """One vector per text, of a learned length: ``[B, L] -> [B, D]``.

    Unit vectors times one scale. For prototypes its square is an inverse
    temperature; for a linear head that starts at zero it multiplies the
    inner rate, since the logits are ``(scale u) . w`` and so is the gradient.

    Attributes:
        encoder: the backbone.
        initial_scale: length of the vectors before training.
    """

    encoder: Encoder
    initial_scale: float = 4.0

    @nn.compact
    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array, *, deterministic: bool = True) -> jax.Array:
        hidden_BLD, _ = self.encoder(input_ids, attention_mask, deterministic=deterministic)
        pooled_BD = AttentionPool(name="pool")(hidden_BLD, attention_mask)
        unit_BD = pooled_BD * jax.lax.rsqrt(jnp.sum(pooled_BD**2, -1, keepdims=True) + 1e-6)
        log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(self.initial_scale)), ())
        return unit_BD * jnp.exp(log_scale)


def zero_head(width: int, ways: int, dtype: jnp.dtype = jnp.float32) -> dict[str, jax.Array]:
    """A linear head ``[D, N]`` that starts at zero and has no bias.

    The same for every class, so relabelling the classes of an episode
    relabels its predictions and nothing else. (A shared non-zero column would
    add one number to all logits, which a softmax cannot see.)

    References:
        Ye, Chao. How to Train Your MAML to Excel in Few-Shot Classification.
        ICLR 2022 (UNICORN-MAML, section 5).
    """
    return {"kernel": jnp.zeros((width, ways), dtype)}
