"""Beam search over sequences that continue prompts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fewshot_jax.models.attention import Cache
from fewshot_jax.models.decoding import Generated, Sequences

_NEVER = -1e9  # a score that no sequence has


class _Beams(NamedTuple):
    """Beam search at one length. Sequences ``[B, K, new]``, scores ``[B, K]``.

    Attributes:
        t: tokens so far.
        running, running_score: that may go on; sums of log-probabilities.
        ended, ended_score, has_ended: the best that have ended; scores divided by the length penalty.
        open: ``[B]``: a running one may still become better than the worst that has ended.
        logits, cache: of the running ones, ``[B * K, ...]``.
    """

    t: jax.Array
    running: jax.Array
    running_score: jax.Array
    ended: jax.Array
    ended_score: jax.Array
    has_ended: jax.Array
    open: jax.Array
    logits: jax.Array
    cache: Cache


def beam_search(
    sequences: Sequences, new: int, ends: jax.Array, pad_id: int, beams: int, length_penalty: float
) -> Generated:
    items, vocabulary = sequences.logits.shape
    wide = max(2, 1 + ends.size) * beams  # so that enough go on if the best ones all end

    def best(score_BC: jax.Array, count: int, *rows: jax.Array) -> tuple[jax.Array, ...]:
        """The ``count`` best of some candidates: scores and, of each array, their rows."""
        top_BK, index_BK = jax.lax.top_k(score_BC, count)
        take = lambda row: jax.vmap(lambda one, index: one[index])(row, index_BK)  # noqa: E731
        return top_BK, *map(take, rows)

    def body(now: _Beams) -> _Beams:
        log_prob_BKV = sequences.possible(jax.nn.log_softmax(now.logits)).reshape(items, -1, vocabulary)
        flat_BC = (log_prob_BKV + now.running_score[..., None]).reshape(items, -1)
        score_BW, index_BW = jax.lax.top_k(flat_BC, wide)
        parent_BW, token_BW = index_BW // vocabulary, (index_BW % vocabulary).astype(jnp.int32)
        ids_BWN = jax.vmap(lambda rows, parent: rows[parent])(now.running, parent_BW)
        ids_BWN = jax.lax.dynamic_update_index_in_dim(ids_BWN, token_BW, now.t, 2)
        length = now.t + 1
        whole = length + sequences.begun
        ends_BW = jnp.isin(token_BW, ends) | (length == new)
        running_score, running, parent_BK, token_BK = best(
            jnp.where(ends_BW, score_BW + _NEVER, score_BW), beams, ids_BWN, parent_BW, token_BW
        )
        just_BW = ends_BW & (jnp.arange(wide) < beams)[None] & now.open[:, None]
        fair_BW = jnp.where(just_BW, score_BW / whole**length_penalty, _NEVER)
        ended_score, ended, has_ended = best(
            jnp.concatenate([now.ended_score, fair_BW], 1),
            beams,
            jnp.concatenate([now.ended, ids_BWN], 1),
            jnp.concatenate([now.has_ended, just_BW], 1),
        )
        worst_B = jnp.where(has_ended.all(1), ended_score.min(1), _NEVER)
        is_open = now.open & (running_score[:, 0] / whole**length_penalty > worst_B)
        rows = (jnp.arange(items)[:, None] * beams + parent_BK).reshape(-1)
        cache = jax.tree.map(lambda leaf: leaf[:, rows], now.cache)
        logits, cache = sequences.step(cache, token_BK.reshape(-1), now.t)
        return _Beams(length, running, running_score, ended, ended_score, has_ended, is_open, logits, cache)

    empty = jnp.full((items, beams, new), pad_id, jnp.int32)
    nothing = jnp.full((items, beams), _NEVER, sequences.logits.dtype)
    start = _Beams(
        t=jnp.array(0),
        running=empty,
        running_score=nothing.at[:, 0].set(0),  # all beams are the prompt: one goes on
        ended=empty,
        ended_score=nothing,
        has_ended=jnp.zeros((items, beams), bool),
        open=jnp.ones(items, bool),
        logits=jnp.repeat(sequences.logits, beams, 0),
        cache=sequences.cache,
    )
    end = jax.lax.while_loop(lambda now: (now.t < new) & now.open.any(), body, start)
    return Generated(end.ended[:, 0], end.ended_score[:, 0])
