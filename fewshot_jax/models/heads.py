"""From hidden states to text features, and from features to class logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.pooling import TextVector, VectorShape
from fewshot_jax.models.text_encoder import TextEncoder


class AttentionPool(nn.Module):
    """A weighted mean over the real tokens, the weights a softmax of learned scores.

    A token's score is read off its hidden state and off a table over the
    vocabulary, where a weight like the inverse document frequency of a word can
    be learned in a few hundred steps. Both start at zero: a plain mean.

    Attributes:
        vocab_size: number of token ids ``V``.
        table_gain: the table's entries count this many times, so that they keep
            pace with Adam's small steps.

    References:
        Yang et al. Hierarchical Attention Networks for Document Classification.
        NAACL 2016 (section 2.2, with the hidden states themselves as keys).
    """

    vocab_size: int
    table_gain: float = 10.0

    @nn.compact
    def __call__(self, x_BLD: jax.Array, input_ids: jax.Array, mask_BL: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros
        score_BL1 = nn.Dense(1, use_bias=False, kernel_init=zeros, name="score")(x_BLD)
        score_BL1 += self.table_gain * nn.Embed(self.vocab_size, 1, embedding_init=zeros, name="table")(input_ids)
        weight_BL1 = jax.nn.softmax(jnp.where(mask_BL.astype(bool)[..., None], score_BL1, -1e9), axis=1)
        return (x_BLD * weight_BL1).sum(1)


def _unit(x_BD: jax.Array) -> jax.Array:
    return x_BD * jax.lax.rsqrt(jnp.sum(x_BD**2, -1, keepdims=True) + 1e-6)


class TextFeatures(nn.Module):
    """One vector per text, of a learned length: ``[B, L] -> [B, D + G]``.

    The vector of the encoder's hidden states (``D`` features) and, beside it, the
    hashed n-grams of the text (``G``), each column with a learned weight: what the
    inverse document frequency is to TF-IDF, but trained for the task. They carry
    words that the encoder has never met. A mean of hidden states is a weighted one, see
    `AttentionPool`, which starts as the plain one. Both parts have unit length; the n-grams
    enter with a small gate, which grows as far as it helps.

    Vectors are of unit length times one scale. For prototypes its square is an
    inverse temperature; for a linear head that starts at zero it multiplies the
    inner rate, since the logits are ``(scale u) . w`` and so is the gradient.

    Attributes:
        encoder: the backbone.
        initial_scale: length of the vectors before training.
        ngram_width: ``G``; 0 for none.
        initial_gate: length of the n-grams, that of the encoder's part being 1, before training.
        weight_gain: the logarithms of the columns' weights count this many times,
            so that they keep pace with Adam's small steps.
        vectors: from hidden states to one vector; dense layers have their parameters under this name.
    """

    encoder: TextEncoder
    initial_scale: float = 4.0
    ngram_width: int = 0
    initial_gate: float = 0.2
    weight_gain: float = 10.0
    vectors: VectorShape = VectorShape()

    @property
    def width(self) -> int:
        """Number of features of a text."""
        return self.vectors.width(self.encoder.shape.last.block.width) + self.ngram_width

    @property
    def context_width(self) -> int:
        """Numbers in a task's context, 0 for none."""
        return self.encoder.shape.last.context_width

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        ngrams: jax.Array | None = None,
        *,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        x_BLD = self.encoder(input_ids, attention_mask, context=context, deterministic=deterministic)
        mean_BD = None
        if "mean" in self.vectors.pooling:
            pool = AttentionPool(self.encoder.shape.vocab_size, name="pool")
            mean_BD = pool(x_BLD, input_ids, self.vectors.pooled_tokens(attention_mask))
        unit_BD = _unit(TextVector(self.vectors, name="vectors")(x_BLD, attention_mask, mean_BD))
        given = None if ngrams is None else ngrams.shape
        if given != ((input_ids.shape[0], self.ngram_width) if self.ngram_width else None):
            raise ValueError(f"ngrams has shape {given}: expected [B, {self.ngram_width}], or none with ngram_width=0")
        if ngrams is not None:
            gate = self.param("ngram_gate", nn.initializers.constant(self.initial_gate), ())
            log_weight_G = self.param("ngram_log_weight", nn.initializers.zeros, (self.ngram_width,))
            ngram_BG = _unit(ngrams.astype(unit_BD.dtype) * jnp.exp(self.weight_gain * log_weight_G)[None, :])
            unit_BD = _unit(jnp.concatenate([unit_BD, gate * ngram_BG], axis=-1))
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
