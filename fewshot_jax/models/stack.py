"""A stack of transformer blocks over embedded tokens: the encoder or the decoder of a language model."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models.attention import Cache, Sight
from fewshot_jax.models.block import PerLayer, block_stack
from fewshot_jax.models.layers import BlockShape, norm_of
from fewshot_jax.models.positions import Rotary, relative_buckets


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """What a stack is made of.

    Attributes:
        block: shape of its blocks.
        layers: number of blocks.
        causal: a position sees none that come later.
        max_length: longest sequence, in tokens, where positions are learned; None for no limit.
        position_offset: rows of the learned positions before that of the first token.
        positions_skip_padding: positions count the tokens that are no padding (RoBERTa), not the slots.
        token_types: number of token types, 0 for none.
        embedding_norm: a norm after the sum of embeddings.
        embedding_scale: tokens' embeddings are multiplied by it.
        final_norm: a norm after the last block.
        rotary: rotary positions, of all layers or of those that are not local.
        local_rotary: those of local layers; None for the same.
        window: in local layers a position sees those less than ``window`` tokens back (causal),
            or at most ``window`` away (both ways). Padding between two tokens does not count as distance.
        local: which layers are local; None: all of them if there is a window, none if not.
        relative_buckets: of T5's bias by distance, 0 for none.
        relative_farthest: distance, in tokens, beyond which all share a bucket.
        bare_first: the first layer's attention has no norm (ModernBERT).
    """

    block: BlockShape
    layers: int
    causal: bool = False
    max_length: int | None = None
    position_offset: int = 0
    positions_skip_padding: bool = False
    token_types: int = 0
    embedding_norm: bool = False
    embedding_scale: float | None = None
    final_norm: bool = False
    rotary: Rotary | None = None
    local_rotary: Rotary | None = None
    window: int | None = None
    local: tuple[bool, ...] | None = None
    relative_buckets: int = 0
    relative_farthest: int = 128
    bare_first: bool = False

    def check_slots(self, slots: int) -> None:
        """Raise a ValueError if a sequence whose positions are its slots is longer than the table of positions."""
        if self.max_length is not None and slots > self.max_length:
            raise ValueError(
                f"{slots} tokens are longer than the model's {self.max_length} positions; cut them, or give the "
                "positions of the real tokens as position_ids"
            )

    @property
    def mixed(self) -> bool:
        """Whether some layers are local and some are not."""
        return self.window is not None and self.local is not None and len(set(self.local)) == 2

    @property
    def all_local(self) -> bool:
        return self.window is not None and (self.local is None or all(self.local))


class Stack(nn.Module):
    """Embedded tokens ``[B, L, D]`` to hidden states ``[B, L, D]``."""

    shape: StackShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        mask_BM: jax.Array,
        *,
        positions_BL: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        segments_BL: jax.Array | None = None,
        memory: tuple[jax.Array | None, jax.Array] | None = None,
        cache: Cache | None = None,
        slot: jax.Array | int = 0,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache | None]:
        """Compute the hidden states.

        Args:
            x_BLD: embeddings of the tokens.
            mask_BM: which slots hold real tokens; without a cache ``M = L``.
            positions_BL: of the tokens; None to count the slots where positions are learned, as transformers does,
                and the real tokens where they are not.
            token_type_ids: ``[B, L]``; None for zeros.
            segments_BL: numbers of texts that share a row and do not see each other; None for one text.
            memory: of a decoder that reads an encoder: its hidden states (None: they are in the cache) and mask.
            cache: keys and values of the slots before.
            slot: of the first token.
            deterministic: no dropout.

        Returns:
            Hidden states and the cache with this call's keys and values.

        Raises:
            ValueError: the sequence is longer than ``max_length``, or has segments and a cache.
        """
        shape, length = self.shape, x_BLD.shape[1]
        if positions_BL is None:
            shape.check_slots(mask_BM.shape[1])
        elif shape.max_length is not None and not isinstance(positions_BL, jax.core.Tracer):
            shape.check_slots(int(positions_BL.max()) + 1)  # what is traced beyond the table becomes NaN
        if segments_BL is not None and cache is not None:
            raise ValueError("segments: a cache holds one text a row")
        mask_BM = mask_BM.astype(bool)
        back_BL = None
        if shape.relative_buckets and cache is None:
            x_BLD, mask_BM, segments_BL, back_BL = _real_first(x_BLD, mask_BM, segments_BL)
        query_L = slot + jnp.arange(length)
        tokens_BM = jnp.cumsum(mask_BM, axis=1)  # distances are differences of these: padding does not count
        tokens_BL = jax.lax.dynamic_slice_in_dim(tokens_BM, slot, length, axis=1)
        if positions_BL is None:
            positions_BL = query_L[None] if shape.max_length is not None else jnp.maximum(tokens_BL - 1, 0)
        x_BLD = self._embedded(x_BLD, positions_BL, token_type_ids, deterministic)
        local, bare = None, None
        if shape.mixed:
            local = jnp.array(shape.local)
        if shape.bare_first:
            bare = jnp.arange(shape.layers) == 0
        x_BLD, cache = block_stack(shape.block, shape.layers, self.dtype)(
            x_BLD,
            PerLayer(local, bare),
            cache,
            self._sights(mask_BM, query_L, tokens_BM, tokens_BL, positions_BL, segments_BL),
            memory,
            None if cache is None else jnp.asarray(slot),
            deterministic,
        )
        if shape.final_norm:
            x_BLD = norm_of(shape.block, "final_norm", self.dtype)(x_BLD)
        if back_BL is not None:
            x_BLD = jnp.take_along_axis(x_BLD, back_BL[..., None], axis=1)
        return x_BLD, cache

    def _embedded(
        self, x_BLD: jax.Array, positions_BL: jax.Array, types_BL: jax.Array | None, deterministic: bool
    ) -> jax.Array:
        shape, width = self.shape, self.shape.block.width
        if shape.embedding_scale is not None:
            x_BLD = x_BLD * jnp.asarray(shape.embedding_scale, x_BLD.dtype)  # rounded as the model was trained
        if shape.max_length is not None:
            rows = shape.max_length + shape.position_offset
            x_BLD += _table(rows, width, self.dtype, "position_embedding")(positions_BL + shape.position_offset)
        if shape.token_types:
            types_BL = jnp.zeros((1, 1), jnp.int32) if types_BL is None else types_BL
            x_BLD += _table(shape.token_types, width, self.dtype, "type_embedding")(types_BL)
        if shape.embedding_norm:
            x_BLD = norm_of(shape.block, "embedding_norm", self.dtype)(x_BLD)
        return nn.Dropout(shape.block.dropout, deterministic=deterministic)(x_BLD)

    def _sights(
        self,
        mask_BM: jax.Array,
        query_L: jax.Array,
        tokens_BM: jax.Array,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segments_BL: jax.Array | None,
    ) -> tuple[Sight, ...]:
        """What layers see: all of them the same, or those that are not local and those that are."""
        shape = self.shape
        distance_LM = jnp.arange(mask_BM.shape[1])[None] - query_L[:, None]
        seen_BLM = mask_BM[:, None]
        if shape.causal:
            seen_BLM = seen_BLM & (distance_LM <= 0)[None]
        if segments_BL is not None:
            seen_BLM = seen_BLM & (segments_BL[:, :, None] == segments_BL[:, None])
        bias = None
        if shape.relative_buckets:
            bucket_LM = relative_buckets(
                distance_LM,
                buckets=shape.relative_buckets,
                farthest=shape.relative_farthest,
                both_ways=not shape.causal,
            )
            bias_LMH = _table(shape.relative_buckets, shape.block.heads, self.dtype, "relative_bias")(bucket_LM)
            bias = bias_LMH.transpose(2, 0, 1)[None]
        features = shape.block.features_of_head
        rotary = None if shape.rotary is None else shape.rotary.angles(positions_BL, features)
        wide = Sight(seen_BLM, rotary, bias)
        if not (shape.mixed or shape.all_local):
            return (wide,)
        assert shape.window is not None
        apart_BLM = tokens_BM[:, None] - tokens_BL[:, :, None]
        near_BLM = apart_BLM > -shape.window if shape.causal else jnp.abs(apart_BLM) <= shape.window
        if shape.local_rotary is not None:
            rotary = shape.local_rotary.angles(positions_BL, features)
        near = Sight(seen_BLM & near_BLM, rotary, bias)
        if shape.all_local:
            return (near,)
        # One shape for both, so that a layer can take either.
        return Sight(jnp.broadcast_to(wide.mask, near.mask.shape), wide.rotary, bias), near


def _real_first(
    x_BLD: jax.Array, mask_BL: jax.Array, segments_BL: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]:
    """Move padding to the end, so that slots count real tokens; the last array is the way back.

    One bias then serves all rows, which a distance of each row's own would not allow.
    """
    order_BL = jnp.argsort(~mask_BL, axis=1, stable=True)
    x_BLD = jnp.take_along_axis(x_BLD, order_BL[..., None], axis=1)
    mask_BL = jnp.take_along_axis(mask_BL, order_BL, axis=1)
    if segments_BL is not None:
        segments_BL = jnp.take_along_axis(segments_BL, order_BL, axis=1)
    return x_BLD, mask_BL, segments_BL, jnp.argsort(order_BL, axis=1)


def _table(rows: int, width: int, dtype: jnp.dtype, name: str) -> nn.Embed:
    return nn.Embed(rows, width, dtype=dtype, embedding_init=nn.initializers.normal(0.02), name=name)


def empty_cache(
    shape: StackShape, items: int, slots: int, memory_slots: int = 0, dtype: jnp.dtype = jnp.float32
) -> Cache:
    """A cache of zeros for ``items`` sequences of up to ``slots`` tokens; ``memory_slots`` of an encoder's output."""

    def zeros(length: int) -> jax.Array:
        return jnp.zeros((shape.layers, items, length, shape.block.shared_heads, shape.block.features_of_head), dtype)

    cross = (zeros(memory_slots), zeros(memory_slots)) if shape.block.cross else (None, None)
    return Cache(zeros(slots), zeros(slots), *cross)
