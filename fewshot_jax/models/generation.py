"""Generation with a static cache: greedy, sampled, or by beam search. Pure functions, so they jit and vmap.

Under a ``vmap`` over tasks every task generates with its own adapted parameters.
Prompts of different lengths are told apart by their mask, whichever side their padding is on.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.models.attention import Cache
from fewshot_jax.models.stack import empty_cache
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Key, Params

_NEVER = -1e9  # a score that no sequence has


class Generated(NamedTuple):
    """What was generated.

    Attributes:
        ids: ``[B, max_new_tokens]``, without the prompt; padding after the end.
        score: ``[B]``, in nats: the sum of the tokens' log-probabilities; of a beam divided by
            ``length ** length_penalty``.
    """

    ids: jax.Array
    score: jax.Array


class _Sequences(NamedTuple):
    """Logits ``[B, V]`` after the prompts, the cache, and ``(cache, ids [B], t) -> (logits, cache)`` from there."""

    logits: jax.Array
    cache: Cache
    step: Callable[[Cache, jax.Array, jax.Array], tuple[jax.Array, Cache]]


def generate(
    module: Transformer,
    params: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None = None,
    pad_id: int = 0,
    beams: int = 1,
    length_penalty: float = 1.0,
    rng: Key | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Generated:
    """Continue prompts, or answer them with an encoder-decoder.

    Args:
        module: with a head that predicts tokens.
        params: its parameters.
        input_ids: ``[B, L]``.
        attention_mask: ``[B, L]``, zero at padding; None for no padding. At least one real token in a row.
        max_new_tokens: length of the answer, in tokens.
        eos_id: token or tokens that end an answer; None to go on to the end.
        pad_id: what follows the end.
        beams: of beam search; 1 for none.
        length_penalty: exponent of the length that a beam's score is divided by.
        rng: for sampling, consumed; None to take the most probable token.
        temperature: logits are divided by it before sampling; this and what follows need ``rng``.
        top_k: sample from the ``k`` most probable tokens.
        top_p: sample from the smallest set of tokens with at least this probability.

    Raises:
        ValueError: an argument is out of range, the module predicts no tokens, or a prompt and its answer need more
            positions than the model has: of prompts alone, whatever padding they have. Under ``jit``, where their
            lengths are not known, such a row has a score of NaN.

    References:
        Holtzman et al. The Curious Case of Neural Text Degeneration. ICLR 2020 (section 3.1, top-p).
        Wu et al. Google's Neural Machine Translation System. arXiv:1609.08144 (section 7, length
        penalty; its form and the stopping rule are those of transformers, to which beams are equal).
    """
    if max_new_tokens < 1 or beams < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}, beams={beams}: expected at least 1")
    if not temperature > 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: expected positive numbers, top_p at most 1"
        )
    if rng is None and (temperature != 1.0 or top_k is not None or top_p is not None):
        raise ValueError("temperature, top_k and top_p are of sampling, which needs rng=, a key")
    if jnp.ndim(input_ids) != 2:
        raise ValueError(f"input_ids has shape {jnp.shape(input_ids)}: expected [B, L]")
    if rng is not None and beams > 1:
        raise ValueError("beams are not sampled: give rng= or beams=, not both")
    mask = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    _check_positions(module, mask, max_new_tokens)
    ends = jnp.asarray(np.atleast_1d([] if eos_id is None else eos_id), jnp.int32)
    if beams > 1:
        sequences = _start(module, params, input_ids, mask, max_new_tokens, beams)
        return _beam_search(sequences, max_new_tokens, ends, pad_id, beams, float(length_penalty))

    def choose(logits_BV: jax.Array, t: jax.Array | int) -> jax.Array:
        if rng is None:
            return jnp.argmax(logits_BV, -1)
        return jax.random.categorical(
            jax.random.fold_in(rng, t), filtered(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p)
        )

    return _one_by_one(_start(module, params, input_ids, mask, max_new_tokens, 1), max_new_tokens, ends, pad_id, choose)


def _check_positions(module: Transformer, mask_BL: jax.Array, new: int) -> None:
    """Refuse what needs more positions than are learned; padding needs none, and the last token is not read."""
    encoder, decoder = module.shape.encoder, module.shape.decoder
    if encoder is None and not isinstance(mask_BL, jax.core.Tracer):
        longest = int(np.asarray(mask_BL).sum(1).max())  # not by jnp, whose sum of a constant is traced under jit
    else:
        longest = 1  # the start token; or nobody knows
    if decoder is None or decoder.max_length is None or longest + new - 1 <= decoder.max_length:
        return
    raise ValueError(
        f"max_new_tokens={new} after {longest} tokens: the model has {decoder.max_length} positions; shorten the "
        "prompt, or lower max_new_tokens"
    )


def filtered(
    logits_BV: jax.Array, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
    """Logits to sample from: divided by the temperature, minus infinity outside of top-k, then of top-p."""
    logits_BV = logits_BV / temperature
    if top_k is not None:
        least_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if top_p is not None:
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        probability_BV = jax.nn.softmax(sorted_BV)
        # A token stays if those before it have not reached top_p; the first one always does.
        stays_BV = jnp.cumsum(probability_BV, -1) - probability_BV < top_p
        least_B1 = jnp.min(jnp.where(stays_BV, sorted_BV, jnp.inf), -1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    return logits_BV


def _start(
    module: Transformer, params: Params, ids_BL: jax.Array, mask_BL: jax.Array, new: int, beams: int
) -> _Sequences:
    """Read the prompts; ``beams`` copies of each go on."""
    decoder, variables = module.shape.decoder, {"params": params}
    if decoder is None:
        raise ValueError("this model has no decoder")
    items, length = ids_BL.shape
    repeat = lambda leaf, axis=0: jnp.repeat(leaf, beams, axis)  # noqa: E731
    if module.shape.encoder is None:
        order_BL = jnp.argsort(mask_BL, axis=1, stable=True)  # padding first, real tokens after it in their order
        ids_BL, mask_BL = (jnp.take_along_axis(x, order_BL, 1) for x in (ids_BL, mask_BL))
        slots_BM = jnp.concatenate([mask_BL, jnp.ones((items, new), bool)], axis=1)
        first, begin, memory, later = ids_BL, length, None, None
        positions_BL = jnp.maximum(jnp.cumsum(mask_BL, axis=1) - 1, 0)
    else:
        if module.shape.start_id is None:
            raise ValueError("the config names no token that a decoder starts with")
        hidden = module.apply(variables, ids_BL, mask_BL, method="encode")
        slots_BM = jnp.ones((items, 1 + new), bool)
        first, begin = jnp.full((items, 1), module.shape.start_id), 1
        memory, later = (hidden, mask_BL), (None, repeat(mask_BL))
        positions_BL = jnp.zeros((items, 1), jnp.int32)

    def decode(ids_BL: jax.Array, cache: Cache, slot: jax.Array | int, **options: Any) -> tuple[jax.Array, Cache]:
        logits_BLV, filled = module.apply(variables, ids_BL, cache=cache, slot=slot, method="decode", **options)
        return logits_BLV[:, -1], cast(Cache, filled)

    empty = empty_cache(decoder, items, slots_BM.shape[1], length, module.dtype)
    logits_BV, cache = decode(first, empty, 0, mask=slots_BM, position_ids=positions_BL, memory=memory, last=True)
    all_slots_BM, next_B = repeat(slots_BM), repeat(positions_BL[:, -1] + 1)

    def step(cache: Cache, ids_B: jax.Array, t: jax.Array) -> tuple[jax.Array, Cache]:
        return decode(
            ids_B[:, None],
            cache,
            begin + t,
            mask=all_slots_BM,
            position_ids=next_B[:, None] + t,
            memory=later,
        )

    return _Sequences(logits_BV, jax.tree.map(lambda leaf: repeat(leaf, 1), cache), step)


def _one_by_one(
    sequences: _Sequences,
    new: int,
    ends: jax.Array,
    pad_id: int,
    choose: Callable[[jax.Array, jax.Array | int], jax.Array],
) -> Generated:
    """One token after the other, until all have ended."""
    items = sequences.logits.shape[0]

    def take(
        logits_BV: jax.Array, t: jax.Array | int, done_B: jax.Array, out: Generated
    ) -> tuple[jax.Array, jax.Array, Generated]:
        token_B = jnp.where(done_B, pad_id, choose(logits_BV, t))
        gain_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B[:, None], 1)[:, 0]
        score = out.score + jnp.where(done_B, 0, gain_B)
        ids = jax.lax.dynamic_update_index_in_dim(out.ids, token_B.astype(out.ids.dtype), t, 1)
        return token_B, done_B | jnp.isin(token_B, ends), Generated(ids, score)

    empty = Generated(jnp.full((items, new), pad_id, jnp.int32), jnp.zeros(items, sequences.logits.dtype))
    token_B, done_B, out = take(sequences.logits, 0, jnp.zeros(items, bool), empty)

    def body(carry: tuple) -> tuple:
        t, token_B, done_B, out, cache = carry
        # What has ended goes on with any token that has an embedding, which padding may not have.
        logits_BV, cache = sequences.step(cache, jnp.where(done_B, 0, token_B), t - 1)
        return t + 1, *take(logits_BV, t, done_B, out), cache

    def goes_on(carry: tuple) -> jax.Array:
        t, _, done_B, *_ = carry
        return (t < new) & ~done_B.all()

    return jax.lax.while_loop(goes_on, body, (1, token_B, done_B, out, sequences.cache))[3]


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


def _beam_search(
    sequences: _Sequences, new: int, ends: jax.Array, pad_id: int, beams: int, length_penalty: float
) -> Generated:
    items, vocabulary = sequences.logits.shape
    wide = max(2, 1 + ends.size) * beams  # so that enough go on if the best ones all end

    def best(score_BC: jax.Array, count: int, *rows: jax.Array) -> tuple[jax.Array, ...]:
        """The ``count`` best of some candidates: scores and, of each array, their rows."""
        top_BK, index_BK = jax.lax.top_k(score_BC, count)
        take = lambda row: jax.vmap(lambda one, index: one[index])(row, index_BK)  # noqa: E731
        return top_BK, *map(take, rows)

    def body(now: _Beams) -> _Beams:
        log_prob_BKV = jax.nn.log_softmax(now.logits).reshape(items, -1, vocabulary) + now.running_score[..., None]
        flat_BC = log_prob_BKV.reshape(items, -1)
        score_BW, index_BW = jax.lax.top_k(flat_BC, wide)
        parent_BW, token_BW = index_BW // vocabulary, (index_BW % vocabulary).astype(jnp.int32)
        ids_BWN = jax.vmap(lambda rows, parent: rows[parent])(now.running, parent_BW)
        ids_BWN = jax.lax.dynamic_update_index_in_dim(ids_BWN, token_BW, now.t, 2)
        length = now.t + 1
        ends_BW = jnp.isin(token_BW, ends) | (length == new)
        running_score, running, parent_BK, token_BK = best(
            jnp.where(ends_BW, score_BW + _NEVER, score_BW), beams, ids_BWN, parent_BW, token_BW
        )
        just_BW = ends_BW & (jnp.arange(wide) < beams)[None] & now.open[:, None]
        fair_BW = jnp.where(just_BW, score_BW / length**length_penalty, _NEVER)
        ended_score, ended, has_ended = best(
            jnp.concatenate([now.ended_score, fair_BW], 1),
            beams,
            jnp.concatenate([now.ended, ids_BWN], 1),
            jnp.concatenate([now.has_ended, just_BW], 1),
        )
        worst_B = jnp.where(has_ended.all(1), ended_score.min(1), _NEVER)
        is_open = now.open & (running_score[:, 0] / length**length_penalty > worst_B)
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
