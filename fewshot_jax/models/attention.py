"""Attention. It is written out in XLA operations: the fused kernels cannot be differentiated twice, which a
second-order inner loop does."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax.models import prefix
from fewshot_jax.models.disentangled import Projected, Term, distance_scores
from fewshot_jax.models.layers import BlockShape, RMSNorm, recomputed
from fewshot_jax.models.positions import rotate


class AttentionInputs(NamedTuple):
    """What attention reads beside the hidden states.

    Attributes:
        mask: ``[B, 1 or L, M]``, True where a query position attends to a key position.
        rotary: cosine and sine ``[B or 1, L, R / 2]`` of the angles that queries and new keys are rotated by, in
            their first ``R`` features.
        bias: ``[1, H, L, M]``, added to the scores.
        distances: ``[2 L - 1, D]``, embeddings of the distances from ``L - 1`` down to ``1 - L`` tokens, of a sequence
            that attends to itself.
    """

    mask: jax.Array
    rotary: tuple[jax.Array, jax.Array] | None = None
    bias: jax.Array | None = None
    distances: jax.Array | None = None


class Cache(NamedTuple):
    """Keys and values of a layer, ``[B, M, kv_heads, K]``; of a stack, with a leading axis of layers.

    Attributes:
        key, value: of the ``M`` slots of a sequence that grows.
        cross_key, cross_value: of an encoder's output, which stays.
    """

    key: jax.Array
    value: jax.Array
    cross_key: jax.Array | None = None
    cross_value: jax.Array | None = None


def attend(
    q_BLHK: jax.Array,
    k_BMHK: jax.Array,
    v_BMHK: jax.Array,
    mask_BLM: jax.Array,
    bias_HLM: jax.Array | None = None,
    distances: Projected | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1), ``[B, L, H, K]``.

    Keys and values may have fewer heads, each for a group of query heads (Ainslie et al., arXiv:2305.13245).
    """
    items, length, heads, features = q_BLHK.shape
    q_BLHGK = q_BLHK.reshape(items, length, k_BMHK.shape[2], -1, features)
    # At least float32 for scores and softmax; float64 stays float64, which jax.nn's attention does not keep.
    precise = jnp.promote_types(q_BLHK.dtype, jnp.float32)
    score_BHGLM = jnp.einsum("BLHGK,BMHK->BHGLM", q_BLHGK, k_BMHK, preferred_element_type=precise)
    if distances is not None:
        score_BHGLM += distance_scores(q_BLHK, k_BMHK, distances).reshape(score_BHGLM.shape)
    score_BHGLM *= features**-0.5 if scale is None else scale
    if cap is not None:
        score_BHGLM = cap * jnp.tanh(score_BHGLM / cap)
    if bias_HLM is not None:
        score_BHGLM += bias_HLM.reshape(1, *score_BHGLM.shape[1:3], *bias_HLM.shape[1:])
    score_BHGLM = jnp.where(mask_BLM[:, None, None], score_BHGLM, jnp.finfo(precise).min)
    weight_BHGLM = jax.nn.softmax(score_BHGLM).astype(v_BMHK.dtype)
    return jnp.einsum("BHGLM,BMHK->BLHGK", weight_BHGLM, v_BMHK).reshape(items, length, heads, features)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) of a sequence to itself, or to another one.

    Returns the output and the keys and values to keep.
    """

    shape: BlockShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        inputs: AttentionInputs,
        *,
        other_BMD: jax.Array | None = None,
        kept: tuple[jax.Array, jax.Array] | None = None,
        slot: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attend.

        Args:
            x_BLD: the sequence of the queries.
            inputs: its mask, rotary angles and bias.
            other_BMD: the sequence of the keys and values; None for ``x_BLD`` itself.
            kept: keys and values ``[B, M, kv_heads, K]`` of earlier calls.
            slot: where among them those of ``x_BLD`` go; None: ``x_BLD`` attends to ``kept`` alone.
        """
        shape, features = self.shape, self.shape.features_of_head

        dense = {
            name: nn.DenseGeneral((heads, features), use_bias=shape.attention_bias, dtype=self.dtype, name=name)
            for name, heads in (("query", shape.heads), ("key", shape.shared_heads), ("value", shape.shared_heads))
        }

        def project(name: str, x: jax.Array) -> jax.Array:
            y_BLHK = dense[name](x)
            if shape.qk_norm and name != "value":
                y_BLHK = RMSNorm(shape.norm_epsilon, shape.norm_offset, self.dtype, name=f"{name}_norm")(y_BLHK)
            return y_BLHK if inputs.rotary is None or name == "value" else rotate(y_BLHK, *inputs.rotary)

        q_BLHK = project("query", x_BLD)
        if kept is not None and slot is None:
            k_BMHK, v_BMHK = kept
        else:
            source = x_BLD if other_BMD is None else other_BMD
            k_BMHK, v_BMHK = (project(name, source) for name in ("key", "value"))
            if kept is not None and slot is not None:
                k_BMHK, v_BMHK = (
                    jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=1)
                    for old, new in zip(kept, (k_BMHK, v_BMHK), strict=True)
                )
        allowed = {(x_BLD.shape[0], length, k_BMHK.shape[1]) for length in (1, x_BLD.shape[1])}
        if inputs.mask.shape not in allowed:
            raise ValueError(f"mask has shape {inputs.mask.shape}, expected {' or '.join(map(str, sorted(allowed)))}")
        attention = functools.partial(attend, scale=shape.score_scale, cap=shape.score_cap)
        kept = k_BMHK, v_BMHK
        if prefix.current_prefix():
            k_BMHK, v_BMHK, inputs = self._with_prefix(k_BMHK, v_BMHK, inputs)
        bias_HLM = None if inputs.bias is None else inputs.bias[0]
        distances = None if inputs.distances is None else self._projected(inputs.distances, dense)
        y_BLHK = recomputed(attention)(q_BLHK, k_BMHK, v_BMHK, inputs.mask, bias_HLM, distances)
        out = nn.DenseGeneral(shape.width, axis=(-2, -1), use_bias=shape.out_bias, dtype=self.dtype, name="out")
        return out(y_BLHK), kept

    def _projected(self, distance_RD: jax.Array, dense: Mapping[str, nn.Module]) -> Projected:
        """Embeddings of distances as keys and queries, by the tokens' own layers or by one for each term."""
        shape, own = self.shape, self.shape.disentangled
        assert own is not None

        def project(term: Term, tokens: str) -> jax.Array | None:
            if term not in own.terms:
                return None
            heads = (shape.heads, shape.features_of_head)
            layer = nn.DenseGeneral(heads, use_bias=shape.attention_bias, dtype=self.dtype, name=term)
            return (dense[tokens] if own.shared else layer)(distance_RD)

        return Projected(project("content_to_position", "key"), project("position_to_content", "query"))

    def _with_prefix(
        self, k_BMHK: jax.Array, v_BMHK: jax.Array, inputs: AttentionInputs
    ) -> tuple[jax.Array, jax.Array, AttentionInputs]:
        """Put learned keys and values before the others; every position attends to them, and no cache holds them."""
        length, items = prefix.current_prefix(), k_BMHK.shape[0]

        def before(name: str, x_BMHK: jax.Array) -> jax.Array:
            rows_PHK = self.param(f"prefix_{name}", nn.initializers.normal(0.02), (length, *x_BMHK.shape[2:]))
            rows_BPHK = jnp.broadcast_to(rows_PHK.astype(x_BMHK.dtype)[None], (items, *rows_PHK.shape))
            return jnp.concatenate([rows_BPHK, x_BMHK], axis=1)

        mask = jnp.pad(inputs.mask, ((0, 0), (0, 0), (length, 0)), constant_values=True)
        bias = inputs.bias
        if bias is not None:
            bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (length, 0)))
        return before("key", k_BMHK), before("value", v_BMHK), inputs._replace(mask=mask, bias=bias)
