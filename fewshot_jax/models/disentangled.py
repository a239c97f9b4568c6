"""Disentangled attention (DeBERTa): scores between contents and the distances of tokens."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Term = Literal["content_to_position", "position_to_content"]


@dataclass(frozen=True, kw_only=True)
class Disentangled:
    """Terms of attention scores that depend on a learned embedding of each distance, one table for all layers.

    Attributes:
        terms: ``"content_to_position"`` adds ``q_l . k(l - m)`` to the score of query ``l`` and key ``m``,
            ``"position_to_content"`` adds ``q(l - m) . k_m``, where ``q(d)`` and ``k(d)`` are projections of the
            embedding of a distance ``d``. All terms share the scale of the score.
        span: rows of the table on each side of distance 0.
        farthest: distances beyond ``span / 2`` share rows, in logarithmic steps up to this distance, in tokens; None
            for a row of their own up to ``span``.
        shared: distances are projected as the tokens' queries and keys are; otherwise by layers of their own, which
            are called as the terms are.
        norm: the table goes through a norm first.

    References:
        He et al. DeBERTa: Decoding-enhanced BERT with Disentangled Attention. ICLR 2021, arXiv:2006.03654 (section
        3.1). The logarithmic steps: make_log_bucket_position of github.com/microsoft/DeBERTa.
    """

    terms: tuple[Term, ...] = ("content_to_position", "position_to_content")
    span: int = 256
    farthest: int | None = None
    shared: bool = False
    norm: bool = False

    def __post_init__(self) -> None:
        if not self.terms or len(set(self.terms)) != len(self.terms):
            raise ValueError(f"terms={self.terms}: expected each term at most once, and at least one")
        if self.span < 1 or (self.farthest is not None and not 2 <= self.span < 2 * (self.farthest - 1)):
            raise ValueError(
                f"span={self.span}, farthest={self.farthest}: expected at least 1 row, and with logarithmic steps at "
                "least 2 and a larger farthest distance than half of them"
            )

    def rows(self, length: int) -> np.ndarray:
        """The row of each distance from ``length - 1`` down to ``1 - length`` tokens, int32."""
        distance = np.arange(length - 1, -length, -1, dtype=np.int32)
        row = distance if self.farthest is None else self._logarithmic(distance, self.farthest)
        return np.clip(row + self.span, 0, 2 * self.span - 1)

    def _logarithmic(self, distance: np.ndarray, farthest: int) -> np.ndarray:
        # In float32, as torch computes it: a bound may be met exactly.
        exact = np.float32(self.span // 2)
        away = np.maximum(np.abs(distance), exact).astype(np.float32)
        growth = np.log(away / exact) / np.log(np.float32((farthest - 1) / (self.span // 2)))
        steps = np.ceil(growth * (exact - 1)) + exact
        return np.where(np.abs(distance) <= exact, distance, np.sign(distance) * steps.astype(np.int32))


class Projected(NamedTuple):
    """The embeddings of distances from ``L - 1`` down to ``1 - L`` tokens as keys and queries, ``[2 L - 1, H, K]``.

    Attributes:
        key: for the queries of tokens; None without that term.
        query: for the keys of tokens; None without that term.
    """

    key: jax.Array | None
    query: jax.Array | None


def distance_scores(q_BLHK: jax.Array, k_BMHK: jax.Array, distances: Projected) -> jax.Array:
    """The terms of all distances, ``[B, H, L, M]``, not scaled; zero for keys before those of the sequence (prefixes).

    Every token meets every distance, and a shift of the rows then leaves the distance to each other token: products,
    slices and reshapes alone, whose derivatives of every order are the same; picking entries by index would have sums
    over indices for derivatives.
    """
    length = q_BLHK.shape[1]
    k_BLHK = k_BMHK[:, k_BMHK.shape[1] - length :]
    precise = jnp.promote_types(q_BLHK.dtype, jnp.float32)
    score_BHLL = jnp.zeros((), precise)
    if distances.key is not None:
        of_query = jnp.einsum("BLHK,RHK->BHLR", q_BLHK, distances.key, preferred_element_type=precise)
        score_BHLL += _shifted(of_query)
    if distances.query is not None:
        of_key = jnp.einsum("BMHK,RHK->BHMR", k_BLHK, distances.query[::-1], preferred_element_type=precise)
        score_BHLL += _shifted(of_key).swapaxes(-1, -2)
    return jnp.pad(score_BHLL, ((0, 0), (0, 0), (0, 0), (k_BMHK.shape[1] - length, 0)))


def _shifted(x_BHLR: jax.Array) -> jax.Array:
    """Of entries ``r`` in ``0 .. 2 L - 2`` of each row ``l``, those of ``r = L - 1 - l + m``, ``[B, H, L, L]``.

    References:
        Huang et al. Music Transformer. ICLR 2019, arXiv:1809.04281 (section 3.4.1, the skewing).
    """
    *leading, length, distances = x_BHLR.shape
    flat = jnp.pad(x_BHLR, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(*leading, -1)
    rows = flat[..., length - 1 : length - 1 + length * distances].reshape(*leading, length, distances)
    return rows[..., :length]
