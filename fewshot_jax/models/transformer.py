"""A language model: an encoder, a decoder or both over one token embedding, and a head."""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.attention import Cache
from fewshot_jax.models.language_head import Head, HeadShape, Output
from fewshot_jax.models.stack import Stack, StackShape, Tokens

Architecture = Literal["encoder", "decoder", "encoder_decoder"]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model is made of.

    Attributes:
        vocab_size: number of token ids ``V``.
        encoder, decoder: its stacks, at least one.
        head: None for hidden states alone.
        start_id: token that a decoder starts with.
        pad_id: token of padding, where shifting a sequence needs it.
        eos_id: token that ends a sequence, for ``pooling="eos"``.
        never_ids: tokens that are never written.
        flat: the parameters of the only stack lie beside the token embedding (``blocks/...``) and not under the
            stack's name (``encoder/blocks/...``).
    """

    vocab_size: int
    encoder: StackShape | None = None
    decoder: StackShape | None = None
    head: HeadShape | None = None
    start_id: int | None = None
    pad_id: int | None = None
    eos_id: int | None = None
    never_ids: tuple[int, ...] = ()
    flat: bool = False

    def __post_init__(self) -> None:
        stacks = [stack for stack in (self.encoder, self.decoder) if stack is not None]
        if not stacks:
            raise ValueError("a model needs an encoder, a decoder or both")
        if self.flat and len(stacks) == 2:
            raise ValueError("flat=True: a model with two stacks has parameters under the name of each")
        if len({stack.features_of_embedding for stack in stacks}) == 2:
            raise ValueError("embedding_width: two stacks share one token embedding; give both the same width")

    @property
    def architecture(self) -> Architecture:
        """Which stacks it has."""
        if self.encoder is None:
            return "decoder"
        return "encoder" if self.decoder is None else "encoder_decoder"

    @property
    def last(self) -> StackShape:
        """The stack whose hidden states the head reads."""
        stack = self.decoder or self.encoder
        assert stack is not None
        return stack


class Transformer(nn.Module):
    """Token ids to `Output`.

    Attributes:
        shape: of the model.
        dtype: of the computation; scores, norms, softmax and logits are float32 at least.

    References:
        Vaswani et al. Attention Is All You Need. NeurIPS 2017 (section 3).
    """

    shape: ModelShape
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        shape, last = self.shape, self.shape.last
        initial = nn.initializers.normal(last.embedding_deviation)
        self.token_embedding = nn.Embed(
            shape.vocab_size, last.features_of_embedding, dtype=self.dtype, embedding_init=initial
        )
        if shape.encoder is not None:
            self.encoder = Stack(shape.encoder, self.dtype)
        if shape.decoder is not None:
            self.decoder = Stack(shape.decoder, self.dtype)
        if shape.flat:
            nn.share_scope(self, self.decoder if shape.encoder is None else self.encoder)
        if shape.head is not None:
            self.head = Head(shape.head, shape.last.block, shape.vocab_size, shape.eos_id, self.dtype)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        *,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        context: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Output:
        """Compute a batch.

        Has more than 8 parameters because each kind of model reads some of them, as in transformers.

        Args:
            input_ids: ``[B, L]`` token ids.
            attention_mask: ``[B, L]``, zero or False at padding; None for no padding.
            token_type_ids: ``[B, L]``, of models that have them; None for zeros.
            position_ids: ``[B, L]``, from 0, of models with one stack and positions; None to count: slots, or the
                tokens that are not padding (RoBERTa).
            segment_ids: ``[B, L]``, of models with one stack: positions attend to those of the same number alone,
                as of texts that share a row; None for one text.
            decoder_input_ids: ``[B, M]``, of models with an encoder and a decoder; None, for heads that judge a
                whole text, for the input itself after the start token.
            decoder_attention_mask: ``[B, M]``; None for no padding.
            context: ``[context_width]``, of models with one stack that has a context; None for zeros.
            deterministic: no dropout; else a ``"dropout"`` key is needed.

        Raises:
            ValueError: shapes differ, an argument is missing or is none of this model's, or a text has more tokens
                than the model has positions. Under ``jit`` nobody knows how many of RoBERTa's slots are padding: they
                count as tokens there.
        """
        mask_BL = _mask(input_ids, attention_mask, "")
        if self.shape.encoder is None or self.shape.decoder is None:
            if decoder_input_ids is not None or decoder_attention_mask is not None:
                raise ValueError("decoder_input_ids, decoder_attention_mask: this model has one stack")
            if token_type_ids is not None and not self.shape.last.token_types:
                raise ValueError("token_type_ids: this model has no token types")
            if position_ids is None:
                position_ids = self._positions(input_ids, self.shape.last)
            stack = self.decoder if self.shape.encoder is None else self.encoder
            tokens = Tokens(self._embedded(input_ids, mask_BL), position_ids, token_type_ids, segment_ids, context)
            x_BLD, _ = stack(tokens, mask_BL, deterministic=deterministic)
            return self._output(x_BLD, mask_BL, input_ids)
        if any(one is not None for one in (token_type_ids, position_ids, segment_ids, context)):
            raise ValueError("context, token_type_ids, position_ids, segment_ids: a model with two stacks has none")
        if decoder_input_ids is None:
            decoder_input_ids = self._shifted(self._readable(input_ids, mask_BL))
        memory_BMD = self.encode(input_ids, mask_BL, deterministic=deterministic)
        decoder_mask = _mask(decoder_input_ids, decoder_attention_mask, "decoder_")
        x_BLD, _ = self.decoder(
            Tokens(
                self._embedded(decoder_input_ids, decoder_mask), self._positions(decoder_input_ids, self.shape.decoder)
            ),
            decoder_mask,
            memory=(memory_BMD, mask_BL),
            deterministic=deterministic,
        )
        return self._output(x_BLD, decoder_mask, input_ids)._replace(encoder_last_hidden_state=memory_BMD)

    def _positions(self, input_ids: jax.Array, stack: StackShape) -> jax.Array | None:
        """Positions of a stack that counts the tokens that are no padding, whatever the mask says of them (RoBERTa)."""
        if not stack.positions_skip_padding or self.shape.pad_id is None:
            return None
        if isinstance(input_ids, jax.core.Tracer):
            stack.check_slots(input_ids.shape[1])
        real_BL = input_ids != self.shape.pad_id
        return jnp.cumsum(real_BL, axis=1) * real_BL - 1

    def encode(self, input_ids: jax.Array, attention_mask: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Hidden states ``[B, M, D]`` of the encoder."""
        mask_BL = attention_mask.astype(bool)
        assert self.shape.encoder is not None
        tokens = Tokens(self._embedded(input_ids, mask_BL), self._positions(input_ids, self.shape.encoder))
        return self.encoder(tokens, mask_BL, deterministic=deterministic)[0]

    def decode(
        self,
        input_ids: jax.Array,
        mask: jax.Array,
        cache: Cache,
        slot: jax.Array | int,
        *,
        position_ids: jax.Array | None = None,
        memory: tuple[jax.Array | None, jax.Array] | None = None,
        last: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """Logits ``[B, L, V]`` of some tokens that follow others.

        Args:
            input_ids: ``[B, L]``, which go into slots ``slot`` to ``slot + L - 1``.
            mask: ``[B, M]``, of all slots of the cache; no token attends to a later one, whatever the mask says.
            cache: from `stack.empty_cache`, or from the call before.
            slot: of the first token.
            position_ids: ``[B, L]``; None for the slots.
            memory: of an encoder: hidden states, and its mask; after the first call None for the hidden states.
            last: compute the logits of the last position alone, ``[B, 1, V]``.

        Returns:
            The logits, and the cache with these tokens.
        """
        x_BLD, filled = self.read(input_ids, mask, cache, slot, position_ids=position_ids, memory=memory)
        return self.token_logits(x_BLD[:, -1:] if last else x_BLD), filled

    def read(
        self,
        input_ids: jax.Array,
        mask: jax.Array,
        cache: Cache,
        slot: jax.Array | int,
        *,
        position_ids: jax.Array | None = None,
        memory: tuple[jax.Array | None, jax.Array] | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache]:
        """Hidden states ``[B, L, D]`` of some tokens that follow others, and the cache; see `decode`."""
        own_BL = jax.lax.dynamic_slice_in_dim(mask.astype(bool), slot, input_ids.shape[1], axis=1)
        x_BLD, filled = self.decoder(
            Tokens(self._embedded(input_ids, own_BL), position_ids),
            mask,
            memory=memory,
            cache=cache,
            slot=slot,
            deterministic=deterministic,
        )
        assert filled is not None
        return x_BLD, filled

    def token_logits(self, x_BLD: jax.Array) -> jax.Array:
        """Logits ``[B, L, V]`` of some hidden states ``[B, L, D]``, by a head that predicts tokens.

        Raises:
            ValueError: the model's head does not.
        """
        slots = jnp.ones(x_BLD.shape[:2], bool)
        logits = self._output(x_BLD, slots, slots).logits
        if logits is None or logits.ndim != 3:
            raise ValueError("this model has no head that predicts tokens")
        return logits

    def _embedded(self, ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
        """Embeddings of tokens, ``[B, L, D]``, or of a width of their own."""
        return self.token_embedding(self._readable(ids_BL, mask_BL))

    def _readable(self, ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
        """The ids, another one in the place of padding that has no row in the embedding.

        A padding token may have been added to the tokenizer alone. What is read beyond the table is NaN, which
        attention would spread, as zero times NaN is NaN.
        """
        return jnp.where(mask_BL | (ids_BL < self.shape.vocab_size), ids_BL, 0)

    def _output(self, x_BLD: jax.Array, mask_BL: jax.Array, input_ids: jax.Array) -> Output:
        if self.shape.head is None:
            return Output(x_BLD)
        return Output(x_BLD, **self.head(x_BLD, mask_BL, input_ids, self.token_embedding))

    def _shifted(self, input_ids: jax.Array) -> jax.Array:
        """The input moved one place to the right, the start token before it."""
        head, start = self.shape.head, self.shape.start_id
        if head is None or head.kind not in ("classification", "span") or start is None:
            raise ValueError("decoder_input_ids: this model has a decoder that needs them")
        return jnp.concatenate([jnp.full_like(input_ids[:, :1], start), input_ids[:, :-1]], axis=1)


def with_dropout(key: jax.Array | None) -> dict[str, Any]:
    """The arguments of ``module.apply`` for dropout by a key; None for none."""
    return {"deterministic": True} if key is None else {"deterministic": False, "rngs": {"dropout": key}}


def _mask(input_ids: jax.Array, mask: jax.Array | None, which: str) -> jax.Array:
    if input_ids.ndim != 2 or (mask is not None and mask.shape != input_ids.shape):
        raise ValueError(
            f"{which}input_ids {input_ids.shape}, {which}attention_mask {None if mask is None else mask.shape}: "
            "expected two equal shapes [B, L]"
        )
    return jnp.ones(input_ids.shape, bool) if mask is None else mask.astype(bool)
