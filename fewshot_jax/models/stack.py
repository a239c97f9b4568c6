"""A stack of transformer blocks over embedded tokens: the encoder or the decoder of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.attention import Cache
from fewshot_jax.models.block import PerLayer, block_stack
from fewshot_jax.models.layer_kinds import LayerKind, attention_inputs, attention_numbers, distinct_attentions
from fewshot_jax.models.layers import BlockShape, norm_of
from fewshot_jax.models.positions import SinusoidalPositions, relative_buckets


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """What a stack is made of.

    Attributes:
        block: shape of its blocks.
        layers: number of blocks.
        causal: no position attends to later ones.
        kinds: of layers: windows of attention and rotary positions.
        pattern: for each layer the index of its kind in ``kinds``; a pattern shorter than the stack repeats.
        max_length: longest sequence, in tokens, where positions are learned or sinusoidal; None for no limit.
        sinusoid: positions of sines and cosines, in the place of learned ones.
        position_offset: rows of the learned or sinusoidal positions before that of the first token.
        positions_skip_padding: positions count the tokens that are no padding (RoBERTa), not the slots.
        token_types: number of token types, 0 for none.
        context_width: numbers in a task's context, which shifts the embedding of every token; 0 for none.
        embedding_width: features of the embeddings, which a dense layer then maps to the block's width (ELECTRA);
            None for the block's width and no such layer.
        embedding_deviation: standard deviation of the initial embeddings.
        embedding_norm: a norm after the sum of embeddings.
        embedding_scale: tokens' embeddings are multiplied by it.
        final_norm: a norm after the last block.
        relative_buckets: of T5's bias by distance, 0 for none.
        relative_farthest: distance, in tokens, beyond which all share a bucket.
    """

    block: BlockShape
    layers: int
    causal: bool = False
    kinds: tuple[LayerKind, ...] = (LayerKind(),)
    pattern: tuple[int, ...] = (0,)
    max_length: int | None = None
    sinusoid: SinusoidalPositions | None = None
    position_offset: int = 0
    positions_skip_padding: bool = False
    token_types: int = 0
    context_width: int = 0
    embedding_width: int | None = None
    embedding_deviation: float = 0.02
    embedding_norm: bool = False
    embedding_scale: float | None = None
    final_norm: bool = False
    relative_buckets: int = 0
    relative_farthest: int = 128

    def __post_init__(self) -> None:
        if not self.pattern or len(self.pattern) > self.layers or not set(self.pattern) <= set(range(len(self.kinds))):
            raise ValueError(
                f"pattern={self.pattern} of {self.layers} layers with {len(self.kinds)} kinds: expected indices of "
                "kinds, at least one and at most one for each layer"
            )
        if self.block.disentangled is not None and self.causal:
            raise ValueError("disentangled: a causal stack, whose tokens come one by one, cannot have it")

        if len({kind.rotary.share for kind in self.kinds if kind.rotary is not None}) > 1:
            raise ValueError("rotary: the layers of one stack rotate the same share of a head's features")

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer."""
        return tuple(self.kinds[self.pattern[layer % len(self.pattern)]] for layer in range(self.layers))

    @property
    def counts_distances(self) -> bool:
        """Whether scores depend on distances between slots."""
        return self.relative_buckets > 0 or self.block.disentangled is not None

    @property
    def features_of_embedding(self) -> int:
        """Features of a token's embedding."""
        return self.block.width if self.embedding_width is None else self.embedding_width

    def check_slots(self, slots: int) -> None:
        """Raise a ValueError if a sequence whose positions are its slots is longer than the table of positions."""
        if self.max_length is not None and slots > self.max_length:
            raise ValueError(
                f"{slots} tokens are longer than the model's {self.max_length} positions; cut them, or give the "
                "positions of the real tokens as position_ids"
            )


class Tokens(NamedTuple):
    """The input of a stack.

    Attributes:
        embedding_BLD: of each token.
        position_BL: None to count the slots where the number of positions is limited, as transformers does, and the
            real tokens where it is not. Negative at padding where positions skip it.
        type_BL: None for zeros.
        segment_BL: numbers of texts that share a row and do not attend to each other; None for one text.
        context_C: numbers that shift all embeddings; None for zeros. A stack without a context ignores it.
    """

    embedding_BLD: jax.Array
    position_BL: jax.Array | None = None
    type_BL: jax.Array | None = None
    segment_BL: jax.Array | None = None
    context_C: jax.Array | None = None


class Stack(nn.Module):
    """Embedded tokens to hidden states ``[B, L, D]``."""

    shape: StackShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Tokens,
        mask_BM: jax.Array,
        *,
        memory: tuple[jax.Array | None, jax.Array] | None = None,
        cache: Cache | None = None,
        slot: jax.Array | int = 0,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache | None]:
        """Compute the hidden states.

        Args:
            tokens: embeddings and what belongs to them.
            mask_BM: which slots hold real tokens; without a cache ``M = L``.
            memory: of a decoder that reads an encoder: its hidden states (None: they are in the cache) and mask.
            cache: keys and values of the slots before.
            slot: of the first token.
            deterministic: no dropout.

        Returns:
            Hidden states and the cache with this call's keys and values.

        Raises:
            ValueError: the sequence is longer than ``max_length``, or has segments and a cache.
        """
        shape, length = self.shape, tokens.embedding_BLD.shape[1]
        _check(shape, tokens, mask_BM, cache)
        mask_BM = mask_BM.astype(bool)
        query_L, back_BL = slot + jnp.arange(length), None
        if shape.counts_distances and cache is None:
            if shape.max_length is not None and tokens.position_BL is None:
                tokens = tokens._replace(position_BL=jnp.broadcast_to(query_L, mask_BM.shape))
            tokens, mask_BM, back_BL = _real_first(tokens, mask_BM)
        count_BM = jnp.cumsum(mask_BM, axis=1)  # distances are differences of these: padding does not count
        count_BL = jax.lax.dynamic_slice_in_dim(count_BM, slot, length, axis=1)
        position_BL = tokens.position_BL
        if position_BL is None:
            position_BL = query_L[None] if shape.max_length is not None else jnp.maximum(count_BL - 1, 0)
        distance_LM = jnp.arange(mask_BM.shape[1])[None] - query_L[:, None]
        inputs = attention_inputs(
            distinct_attentions(shape.layer_kinds),
            self._mask(mask_BM, distance_LM, tokens.segment_BL),
            self._bias(distance_LM),
            causal=shape.causal,
            tokens_BL=count_BL,
            tokens_BM=count_BM,
            positions_BL=position_BL,
            features=shape.block.features_of_head,
        )
        if shape.block.disentangled is not None:
            embedded_RD = self._distances(length)
            inputs = tuple(each._replace(distances=embedded_RD) for each in inputs)
        x_BLD, cache = block_stack(shape.block, shape.layers, self.dtype)(
            self._embedded(tokens, position_BL, deterministic),
            _per_layer(shape.layer_kinds),
            cache,
            inputs,
            memory,
            None if cache is None else jnp.asarray(slot),
            deterministic,
        )
        if shape.final_norm:
            x_BLD = norm_of(shape.block, "final_norm", self.dtype)(x_BLD)
        if back_BL is not None:
            x_BLD = jnp.take_along_axis(x_BLD, back_BL[..., None], axis=1)
        return x_BLD, cache

    def _embedded(self, tokens: Tokens, position_BL: jax.Array, deterministic: bool) -> jax.Array:
        """The input of the first block, ``[B, L, D]``."""
        shape, width, deviation = self.shape, self.shape.features_of_embedding, self.shape.embedding_deviation
        x_BLE, _, type_BL, _, context_C = tokens
        if shape.embedding_scale is not None:
            x_BLE = x_BLE * jnp.asarray(shape.embedding_scale, x_BLE.dtype)  # rounded as the model was trained
        if shape.sinusoid is not None:
            row_BLE = shape.sinusoid.rows(position_BL + shape.position_offset, width).astype(x_BLE.dtype)
            x_BLE += jnp.where(position_BL[..., None] < 0, 0, row_BLE)
        elif shape.max_length is not None:
            rows = shape.max_length + shape.position_offset
            table = _table(rows, width, self.dtype, "position_embedding", deviation)
            x_BLE += table(position_BL + shape.position_offset)
        if shape.token_types:
            type_BL = jnp.zeros((1, 1), jnp.int32) if type_BL is None else type_BL
            x_BLE += _table(shape.token_types, width, self.dtype, "type_embedding", deviation)(type_BL)
        if shape.context_width:
            # Zintgraf et al., ICML 2019, section 3.1: a context joined to the input is a shift of the first layer.
            context_C = jnp.zeros(shape.context_width, self.dtype) if context_C is None else context_C
            x_BLE += nn.Dense(width, use_bias=False, dtype=self.dtype, name="context")(context_C)[None, None]
        if shape.embedding_norm:
            x_BLE = norm_of(shape.block, "embedding_norm", self.dtype)(x_BLE)
        x_BLE = nn.Dropout(shape.block.dropout, deterministic=deterministic)(x_BLE)
        if shape.embedding_width is None:
            return x_BLE
        return nn.Dense(shape.block.width, dtype=self.dtype, name="embedding_projection")(x_BLE)

    def _mask(self, mask_BM: jax.Array, distance_LM: jax.Array, segment_BL: jax.Array | None) -> jax.Array:
        """Which key positions a query position attends to, ``[B, 1 or L, M]``, in layers without a window."""
        mask_BLM = mask_BM[:, None]
        if self.shape.causal:
            mask_BLM = mask_BLM & (distance_LM <= 0)[None]
        if segment_BL is not None:
            mask_BLM = mask_BLM & (segment_BL[:, :, None] == segment_BL[:, None])
        return mask_BLM

    def _bias(self, distance_LM: jax.Array) -> jax.Array | None:
        """The learned bias ``[1, H, L, M]`` of T5's scores."""
        shape = self.shape
        if not shape.relative_buckets:
            return None
        bucket_LM = relative_buckets(
            distance_LM, buckets=shape.relative_buckets, farthest=shape.relative_farthest, both_ways=not shape.causal
        )
        bias_LMH = _table(shape.relative_buckets, shape.block.heads, self.dtype, "relative_bias")(bucket_LM)
        return bias_LMH.transpose(2, 0, 1)[None]

    def _distances(self, length: int) -> jax.Array:
        """Embeddings ``[2 L - 1, D]`` of the distances from ``L - 1`` down to ``1 - L`` tokens."""
        own, block = self.shape.block.disentangled, self.shape.block
        assert own is not None
        x_RD = _table(2 * own.span, block.width, self.dtype, "distance_embedding")(jnp.asarray(own.rows(length)))
        return norm_of(block, "distance_norm", self.dtype)(x_RD) if own.norm else x_RD


def _check(shape: StackShape, tokens: Tokens, mask_BM: jax.Array, cache: Cache | None) -> None:
    """Raise a ValueError if a sequence is too long, or has segments and a cache."""
    positions = tokens.position_BL
    if positions is None:
        shape.check_slots(mask_BM.shape[1])
    elif shape.max_length is not None and not isinstance(positions, jax.core.Tracer):
        shape.check_slots(int(positions.max()) + 1)  # what is traced beyond the table becomes NaN
    if tokens.segment_BL is not None and cache is not None:
        raise ValueError("segments: a cache holds one text a row")


def _per_layer(kinds: Sequence[LayerKind]) -> PerLayer:
    """What differs between layers of these kinds."""
    numbers, bare = attention_numbers(kinds), [not kind.attention_norm for kind in kinds]
    return PerLayer(
        attention=jnp.array(numbers, jnp.int32) if any(numbers) else None, bare=jnp.array(bare) if any(bare) else None
    )


def _real_first(tokens: Tokens, mask_BL: jax.Array) -> tuple[Tokens, jax.Array, jax.Array]:
    """Move padding to the end, so that slots count real tokens; the last array restores the order.

    One bias then serves all rows, which a distance of each row's own would not allow.
    """
    order_BL = jnp.argsort(~mask_BL, axis=1, stable=True)

    def ordered(x_BL: jax.Array | None) -> jax.Array | None:
        return None if x_BL is None else jnp.take_along_axis(jnp.broadcast_to(x_BL, mask_BL.shape), order_BL, axis=1)

    tokens = tokens._replace(
        embedding_BLD=jnp.take_along_axis(tokens.embedding_BLD, order_BL[..., None], axis=1),
        position_BL=ordered(tokens.position_BL),
        type_BL=ordered(tokens.type_BL),
        segment_BL=ordered(tokens.segment_BL),
    )
    return tokens, jnp.take_along_axis(mask_BL, order_BL, axis=1), jnp.argsort(order_BL, axis=1)


def _table(rows: int, width: int, dtype: jnp.dtype, name: str, deviation: float = 0.02) -> nn.Embed:
    return nn.Embed(rows, width, dtype=dtype, embedding_init=nn.initializers.normal(deviation), name=name)


def empty_cache(
    shape: StackShape, items: int, slots: int, memory_slots: int = 0, dtype: jnp.dtype = jnp.float32
) -> Cache:
    """A cache of zeros for ``items`` sequences of up to ``slots`` tokens; ``memory_slots`` of an encoder's output."""

    def zeros(length: int) -> jax.Array:
        return jnp.zeros((shape.layers, items, length, shape.block.shared_heads, shape.block.features_of_head), dtype)

    cross = (zeros(memory_slots), zeros(memory_slots)) if shape.block.cross else (None, None)
    return Cache(zeros(slots), zeros(slots), *cross)
