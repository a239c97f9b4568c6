"""Positions of tokens: rotary angles, constant sines and cosines, and the relative bias of T5."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Frequencies of rotary positions.

    Attributes:
        theta: base of the wavelengths.
        share: of a head's features, the first of which are rotated and the others left as they are (GPT-NeoX).
        kind: ``"default"``; ``"linear"`` divides all frequencies by ``factor``; ``"llama3"`` divides the long
            wavelengths, keeps the short ones and blends between them; ``"factors"`` divides each frequency by its own.
        factor, low, high, original: of ``"llama3"``: wavelengths beyond ``original / low`` tokens are long,
            below ``original / high`` short.
        factors: of ``"factors"``, ``[R / 2]``.

    References:
        Su et al. RoFormer: Enhanced Transformer with Rotary Position Embedding. arXiv:2104.09864 (section 3.2.2).
        Ding et al. LongRoPE. arXiv:2402.13753 (section 3.2: one factor for each frequency).
        Llama Team. The Llama 3 Herd of Models. arXiv:2407.21783 (section 3.2: theta for long contexts).
    """

    theta: float = 10_000.0
    share: float = 1.0
    kind: Literal["default", "linear", "llama3", "factors"] = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    factors: tuple[float, ...] = ()

    def frequencies(self, features: int) -> np.ndarray:
        """Radians per position, ``[R / 2]`` float32, of a head of which ``R`` features are rotated."""
        rotated = int(features * self.share)
        if rotated % 2 or not 0 < rotated <= features:
            raise ValueError(f"share={self.share} of {features} features: expected an even number of them, at least 2")
        frequency = self.theta ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)
        if self.kind == "linear":
            frequency /= self.factor
        if self.kind == "llama3":
            turns = self.original * frequency / (2 * math.pi)  # in the original context
            share = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
            frequency *= share + (1 - share) / self.factor
        if self.kind == "factors":
            if len(self.factors) != len(frequency):
                raise ValueError(f"{len(self.factors)} factors of rotary positions, expected {len(frequency)}")
            frequency /= self.factors
        return frequency.astype(np.float32)

    def angles(self, positions_BL: jax.Array, features: int) -> tuple[jax.Array, jax.Array]:
        """Cosine and sine ``[B, L, R / 2]``, in float32 also where the model is not."""
        angle_BLK = positions_BL.astype(jnp.float32)[..., None] * self.frequencies(features)[None, None]
        return jnp.cos(angle_BLK), jnp.sin(angle_BLK)


def rotate(x_BLHK: jax.Array, cos_BLR: jax.Array, sin_BLR: jax.Array) -> jax.Array:
    """Rotate feature ``i`` with feature ``i + R / 2`` by the angle of position and frequency ``i``, of ``R / 2``."""
    precise = jnp.promote_types(x_BLHK.dtype, jnp.float32)
    rotated = 2 * cos_BLR.shape[-1]
    first, second = jnp.split(x_BLHK[..., :rotated].astype(precise), 2, axis=-1)
    cos, sin = cos_BLR[:, :, None], sin_BLR[:, :, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BLHK.dtype)
    return turned if rotated == x_BLHK.shape[-1] else jnp.concatenate([turned, x_BLHK[..., rotated:]], axis=-1)


@dataclass(frozen=True, kw_only=True)
class SinusoidalPositions:
    """Constant positions that are added to embeddings: sines in the first half of the features, cosines in the second.

    Attributes:
        inclusive: the lowest frequency is 1 / 10,000 radians per token (tensor2tensor, M2M-100); otherwise the
            frequencies stop one step before it (Marian).

    References:
        Vaswani et al. Attention Is All You Need. NeurIPS 2017 (section 3.5, where sines and cosines alternate).
    """

    inclusive: bool = False

    def rows(self, positions_BL: jax.Array, width: int) -> jax.Array:
        """The numbers ``[B, L, D]`` of some positions, float32."""
        frequency = (1 / self._wavelengths(width)).astype(np.float32)
        angle_BLD = positions_BL.astype(jnp.float32)[..., None] * frequency[None, None]
        return jnp.concatenate([jnp.sin(angle_BLD), jnp.cos(angle_BLD)], axis=-1)

    def table(self, length: int, width: int) -> np.ndarray:
        """The numbers ``[L, D]`` of all positions, float32, computed in float64."""
        angle_LD = np.arange(length)[:, None] / self._wavelengths(width)
        return np.concatenate([np.sin(angle_LD), np.cos(angle_LD)], axis=-1).astype(np.float32)

    def _wavelengths(self, width: int) -> np.ndarray:
        """Tokens per radian, ``[D / 2]`` float64."""
        if width % 2:
            raise ValueError(f"width={width}: sinusoidal positions need an even number of features")
        half = width // 2
        return 10_000.0 ** (np.arange(half) / max(half - 1 if self.inclusive else half, 1))


def relative_buckets(distance: jax.Array, *, buckets: int, farthest: int, both_ways: bool) -> jax.Array:
    """The bucket of each distance (key position minus query position), int32.

    Half of the buckets of a direction hold one distance each, the others grow
    geometrically up to ``farthest`` tokens, beyond which all share the last one.

    References:
        Raffel et al. Exploring the Limits of Transfer Learning with a Unified
        Text-to-Text Transformer. JMLR 2020 (section 2.1).
    """
    of_one_way = buckets // 2 if both_ways else buckets
    exact = of_one_way // 2
    # A table, in NumPy's float32: XLA's logarithm may round another way, and a bound is met exactly.
    steps = np.arange(1, farthest + 1, dtype=np.float32)
    growth = np.log(steps / np.float32(exact)) / np.float32(math.log(farthest / exact)) * (of_one_way - exact)
    grown = np.minimum(exact + growth.astype(np.int32), of_one_way - 1)
    table = jnp.asarray(np.concatenate([[0], np.where(steps < exact, steps, grown)]).astype(np.int32))
    away = jnp.abs(distance) if both_ways else jnp.maximum(-distance, 0)
    bucket = table[jnp.minimum(away, farthest)]
    return bucket + jnp.where(distance > 0, of_one_way, 0) if both_ways else bucket
