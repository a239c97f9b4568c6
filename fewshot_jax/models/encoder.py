"""A bidirectional transformer encoder for token sequences."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.attention import AttentionInputs
from fewshot_jax.models.block import PerLayer, block_stack
from fewshot_jax.models.layers import BlockShape, NormOrder


class Encoder(nn.Module):
    """Token ids ``[B, L]`` to hidden states ``[B, L, D]``.

    The layers are one block scanned over stacked parameters (leading axis
    ``layers``), so that compile time does not grow with depth.

    Attributes:
        vocab_size: number of token ids ``V``; id 0 is padding by convention.
        width: features ``D``, a multiple of ``heads``.
        layers: number of transformer blocks.
        heads: attention heads ``H``.
        mlp_width: hidden width of the feed-forward layers.
        max_length: longest sequence, in tokens.
        norm: ``"pre"`` or ``"post"`` LayerNorm.
        dropout: rate on embeddings and sub-layer outputs; needs a ``"dropout"`` key.
        dtype: of the computation; parameters stay float32.
        context_width: numbers in a task's context, an input beside every token; 0 for none.

    References:
        Vaswani et al. Attention Is All You Need. NeurIPS 2017 (section 3).
        Xiong et al. On Layer Normalization in the Transformer Architecture.
        ICML 2020 (pre- and post-LayerNorm, figure 1).
    """

    vocab_size: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    mlp_width: int = 512
    max_length: int = 64
    norm: NormOrder = "pre"
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    context_width: int = 0

    def sees(self, mask_BL: jax.Array) -> jax.Array:
        """Which positions a position attends to, ``[B, 1, L]``: all real ones."""
        return mask_BL[:, None, :]

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        *,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Encode a batch.

        Args:
            input_ids: ``[B, L]`` int token ids.
            attention_mask: ``[B, L]``, zero or False at padding.
            context: ``[context_width]``, None for zeros.
            deterministic: no dropout.

        Returns:
            Hidden states ``[B, L, D]``.

        Raises:
            ValueError: shapes differ, or ``L`` exceeds ``max_length``, or
                ``heads`` does not divide ``width``.
        """
        if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
            raise ValueError(
                f"input_ids {input_ids.shape}, attention_mask {attention_mask.shape}: expected two equal shapes [B, L]"
            )
        length = input_ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"a batch of {length} tokens is longer than max_length={self.max_length}")
        shape = BlockShape(
            width=self.width, heads=self.heads, mlp_width=self.mlp_width, order=self.norm, dropout=self.dropout
        )
        mask_BL = attention_mask.astype(bool)
        initial = nn.initializers.normal(0.02 if self.norm == "post" else 1.0)
        tokens_BLD = nn.Embed(
            self.vocab_size, self.width, dtype=self.dtype, embedding_init=initial, name="token_embedding"
        )(input_ids)
        position_LD = nn.Embed(
            self.max_length, self.width, dtype=self.dtype, embedding_init=initial, name="position_embedding"
        )(jnp.arange(length))
        x_BLD = tokens_BLD + position_LD[None]
        if self.context_width:
            # Zintgraf et al., ICML 2019, section 3.1: a context joined to the input is a shift of the first layer.
            given = jnp.zeros(self.context_width, self.dtype) if context is None else context
            x_BLD += nn.Dense(self.width, use_bias=False, dtype=self.dtype, name="context")(given)[None, None]
        if self.norm == "post":
            x_BLD = nn.LayerNorm(dtype=self.dtype, name="embedding_norm")(x_BLD)
        x_BLD = nn.Dropout(self.dropout, deterministic=deterministic)(x_BLD)
        stack = block_stack(shape, self.layers, self.dtype)
        x_BLD, _ = stack(x_BLD, PerLayer(), None, (AttentionInputs(self.sees(mask_BL)),), None, None, deterministic)
        if self.norm == "pre":
            x_BLD = nn.LayerNorm(dtype=self.dtype, name="final_norm")(x_BLD)
        return x_BLD
