"""Generation with a static cache: greedy, sampled, or by beam search. Pure functions, so they jit and vmap.

Under a ``vmap`` over tasks every task generates with its own adapted parameters.
Prompts of different lengths are told apart by their mask, whichever side their padding is on.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.models.beam_search import beam_search
from fewshot_jax.models.decoding import Generated, Sequences, check_positions, start_decoding
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Key, Params


def generate(
    module: Transformer,
    params: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None = None,
    pad_id: int = 0,
    begin: Sequence[int] = (),
    beams: int = 1,
    length_penalty: float = 1.0,
    rng: Key | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Generated:
    """Continue prompts, or answer them with an encoder-decoder.

    Has more than 8 parameters because its options are those of transformers' ``generate``, by the same names.

    Args:
        module: with a head that predicts tokens.
        params: its parameters.
        input_ids: ``[B, L]``.
        attention_mask: ``[B, L]``, zero at padding; None for no padding. At least one real token in a row.
        max_new_tokens: length of the answer, in tokens.
        eos_id: token or tokens that end an answer; None to go on to the end.
        pad_id: what follows the end.
        begin: tokens that every answer of an encoder-decoder begins with, after the start token (the language that
            NLLB writes); they are not among the answer's ids and have no part in its score.
        beams: of beam search; 1 for none.
        length_penalty: exponent of the length that a beam's score is divided by, ``begin`` included.
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
    if rng is not None and beams > 1:
        raise ValueError("beams are not sampled: give rng= or beams=, not both")
    if jnp.ndim(input_ids) != 2:
        raise ValueError(f"input_ids has shape {jnp.shape(input_ids)}: expected [B, L]")
    _check_sampling(rng, temperature, top_k, top_p)
    mask = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    check_positions(module, mask, begin, max_new_tokens)
    ends = jnp.asarray(np.atleast_1d([] if eos_id is None else eos_id), jnp.int32)
    sequences = start_decoding(module, params, input_ids, mask, begin=begin, new=max_new_tokens, beams=beams)
    if beams > 1:
        return beam_search(sequences, max_new_tokens, ends, pad_id, beams, float(length_penalty))

    def choose(logits_BV: jax.Array, t: jax.Array | int) -> jax.Array:
        if rng is None:
            return jnp.argmax(logits_BV, -1)
        return jax.random.categorical(
            jax.random.fold_in(rng, t), filtered(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p)
        )

    return _one_by_one(sequences, max_new_tokens, ends, pad_id, choose)


def _check_sampling(rng: Key | None, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise a ValueError if an option of sampling is out of range, or there is no key to sample with."""
    if not temperature > 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: expected positive numbers, top_p at most 1"
        )
    if rng is None and (temperature != 1.0 or top_k is not None or top_p is not None):
        raise ValueError("temperature, top_k and top_p are of sampling, which needs rng=, a key")


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


def _one_by_one(
    sequences: Sequences,
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
        token_B = jnp.where(done_B, pad_id, choose(sequences.possible(logits_BV), t))
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
