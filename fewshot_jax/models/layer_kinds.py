"""Kinds of layers as data: which positions a layer attends to, and the rotary positions that it has."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fewshot_jax.models.attention import AttentionInputs
from fewshot_jax.models.positions import Rotary


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What sets some layers of a stack apart from its other layers; all of them have the same parameters.

    Attributes:
        window: a position attends to positions less than ``window`` tokens back (causal), or at most ``window`` away
            (both directions); None for no limit. Padding between two tokens does not count as distance.
        rotary: rotary positions; None for a layer without them.
        attention_norm: the attention has a norm before it. False: it reads its input as it is (the first layer of
            ModernBERT).
    """

    window: int | None = None
    rotary: Rotary | None = None
    attention_norm: bool = True


def distinct_attentions(kinds: Sequence[LayerKind]) -> list[LayerKind]:
    """One kind for each pair of window and rotary positions among ``kinds``, in order of appearance."""
    found: dict[tuple[int | None, Rotary | None], LayerKind] = {}
    for kind in kinds:
        found.setdefault((kind.window, kind.rotary), kind)
    return list(found.values())


def attention_numbers(kinds: Sequence[LayerKind]) -> list[int]:
    """The number of each layer's kind among `distinct_attentions`."""
    found = [(kind.window, kind.rotary) for kind in distinct_attentions(kinds)]
    return [found.index((kind.window, kind.rotary)) for kind in kinds]


def attention_inputs(
    kinds: Sequence[LayerKind],
    mask_BLM: jax.Array,
    bias: jax.Array | None,
    *,
    causal: bool,
    tokens_BL: jax.Array,
    tokens_BM: jax.Array,
    positions_BL: jax.Array,
    features: int,
) -> tuple[AttentionInputs, ...]:
    """Compute what the attention of each kind of layer reads, in arrays of equal shapes.

    Args:
        kinds: of layers.
        mask_BLM: ``[B, 1 or L, M]``, where a query position attends to a key position if no window limits it.
        bias: ``[1, H, L, M]``, added to the scores of all layers.
        causal: no position attends to later ones.
        tokens_BL: number of real tokens up to each query position.
        tokens_BM: the same of each key position; the differences of both are distances.
        positions_BL: of the queries, for rotary angles.
        features: of an attention head, ``K``.
    """
    masks, angles = [], []
    for kind in kinds:
        mask = mask_BLM
        if kind.window is not None:
            apart_BLM = tokens_BM[:, None] - tokens_BL[:, :, None]
            mask = mask & (apart_BLM > -kind.window if causal else jnp.abs(apart_BLM) <= kind.window)
        masks.append(mask)
        angles.append(None if kind.rotary is None else kind.rotary.angles(positions_BL, features))
    shape = jnp.broadcast_shapes(*(mask.shape for mask in masks))
    turned = next((pair for pair in angles if pair is not None), None)
    if turned is not None:  # a rotation by an angle of zero changes no number
        angles = [(jnp.ones_like(turned[0]), jnp.zeros_like(turned[1])) if pair is None else pair for pair in angles]
    return tuple(
        AttentionInputs(jnp.broadcast_to(mask, shape), pair, bias) for mask, pair in zip(masks, angles, strict=True)
    )
