"""The text encoder: a transformer that gives hidden states, small and new or pretrained."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.config import ModelConfig
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape, Transformer


def text_encoder_shape(config: ModelConfig, *, vocab_size: int, max_length: int) -> ModelShape:
    """Return the shape of a new text encoder: learned positions, LayerNorm before or after the layers.

    Args:
        config: sizes, order of norms, dropout and width of the context.
        vocab_size: number of token ids ``V``; id 0 is padding.
        max_length: longest sequence, in tokens.

    References:
        Vaswani et al. Attention Is All You Need. NeurIPS 2017 (section 3).
        Xiong et al. On Layer Normalization in the Transformer Architecture.
        ICML 2020 (pre- and post-LayerNorm, figure 1).
    """
    post = config.norm == "post"
    block = BlockShape(
        width=config.width,
        heads=config.heads,
        mlp_width=config.mlp_width,
        order=config.norm,
        dropout=config.dropout,
    )
    stack = StackShape(
        block=block,
        layers=config.layers,
        max_length=max_length,
        context_width=config.context_width,
        # BERT's deviation suits a norm after the embeddings; without one, embeddings of unit variance learn faster.
        embedding_deviation=0.02 if post else 1.0,
        embedding_norm=post,
        final_norm=not post,
    )
    return ModelShape(vocab_size=vocab_size, encoder=stack, pad_id=0, flat=True)


class TextEncoder(nn.Module):
    """Token ids ``[B, L]`` to hidden states ``[B, L, D]``, float32 at least.

    Attributes:
        transformer: of one stack, without a head. A flat one has its parameters where this module has its own, others
            under ``transformer``.
    """

    transformer: Transformer

    @property
    def shape(self) -> ModelShape:
        """Shape of the transformer."""
        return self.transformer.shape

    def setup(self) -> None:
        if self.shape.flat:
            nn.share_scope(self, self.transformer)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        *,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Encode texts; the arguments are those of `Transformer`."""
        out = self.transformer(input_ids, attention_mask, context=context, deterministic=deterministic)
        return out.last_hidden_state.astype(jnp.promote_types(out.last_hidden_state.dtype, jnp.float32))


def text_encoder(config: ModelConfig, *, vocab_size: int, max_length: int) -> TextEncoder:
    """Return a new text encoder, which computes in the config's dtype; see `text_encoder_shape`."""
    shape = text_encoder_shape(config, vocab_size=vocab_size, max_length=max_length)
    return TextEncoder(Transformer(shape, jnp.dtype(config.compute_dtype)))
