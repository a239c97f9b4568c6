"""Reading one text and writing another: what answers, translations and replies have in common.

One model serves every learner: a decoder that reads the source and writes after it, or an encoder that reads and a
decoder that writes. Parameters are the model's; nothing is added for a task.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.metric import at_least_float32
from fewshot_jax.applications.application import Functions, Score
from fewshot_jax.errors import UserError
from fewshot_jax.models.adapters import NO_ADAPTER, Adapter
from fewshot_jax.models.attention import Cache
from fewshot_jax.models.generation import generate
from fewshot_jax.models.stack import StackShape, empty_cache
from fewshot_jax.models.transformer import Transformer, with_dropout
from fewshot_jax.types import Aux, Batch, Key, Params


class Written(NamedTuple):
    """What a model makes of a batch of ``B`` examples.

    Attributes:
        nats: ``[B]``, minus the log-likelihood of each target, its end included.
        tokens: ``[B]``, of each target.
        exact: ``[B]`` bool: each token of the target is the most probable one after those before it, so greedy
            decoding writes the target.
        ids: ``[B, M]``, generated; None where nothing was.
    """

    nats: jax.Array
    tokens: jax.Array
    exact: jax.Array
    ids: jax.Array | None = None


def check_batch(batch: Batch) -> None:
    """Check shapes: ``input_ids, attention_mask [B, L]``, ``decoder_label, decoder_mask [B, M]``, ``mask [B]``."""
    read, written = ([batch[name] for name in names] for names in (READ, WRITTEN))
    chex.assert_rank([*read, *written], 2)
    chex.assert_equal_shape(read)
    chex.assert_equal_shape(written)
    chex.assert_equal_shape_prefix([read[0], written[0], batch["mask"]], 1)
    if CONTEXT[0] in batch:
        chex.assert_equal_shape([batch[name] for name in CONTEXT])
        chex.assert_shape(batch[CONTEXT[0]], (1, None))


READ, WRITTEN = ("input_ids", "attention_mask"), ("decoder_label", "decoder_mask")
CONTEXT = ("context_ids", "context_mask")  # ``[1, C]``, what a decoder reads before each item of a batch


def logits_of_targets(module: Transformer, params: Params, batch: Batch, dropout: Key | None = None) -> jax.Array:
    """Logits ``[B, M, V]`` of the target's tokens, each given the source and the tokens before it.

    Args:
        module: a decoder, or an encoder and a decoder.
        params: of the module.
        batch: see `check_batch`; with `CONTEXT`, of a decoder, each source stands after it.
        dropout: key of the dropout; None for none.
    """
    check_batch(batch)
    options = with_dropout(dropout)
    label = batch["decoder_label"]
    if module.shape.encoder is not None:
        if module.shape.start_id is None:
            raise ValueError("the model's config names no token that a decoder starts with")
        start = jnp.full_like(label[:, :1], module.shape.start_id)
        before = jnp.concatenate([start, label[:, :-1]], axis=1)
        seen = jnp.concatenate([jnp.ones_like(batch["decoder_mask"][:, :1]), batch["decoder_mask"][:, :-1]], axis=1)
        return _logits(
            module.apply(
                {"params": params},
                batch["input_ids"],
                batch["attention_mask"],
                decoder_input_ids=before,
                decoder_attention_mask=seen,
                **options,
            )
        )
    ids = jnp.concatenate([batch["input_ids"], label], axis=1)
    mask = jnp.concatenate([batch["attention_mask"], batch["decoder_mask"]], axis=1).astype(bool)
    x_BLD = _hidden_states(module, params, ids, mask, tuple(batch[name] for name in CONTEXT if name in batch), options)
    # A target's first token follows the last real one of the source, wherever its padding stands.
    length = batch["input_ids"].shape[1]
    last = jnp.argmax(jnp.arange(length)[None] * batch["attention_mask"], axis=1)
    first = jnp.take_along_axis(x_BLD, last[:, None, None], axis=1)
    # The head reads these places alone: what it makes of the others, above, is dead code to the compiler.
    x_BMD = jnp.concatenate([first, x_BLD[:, length:-1]], axis=1)
    logits: Any = module.apply({"params": params}, x_BMD, method="token_logits")
    return logits


def _hidden_states(
    module: Transformer,
    params: Params,
    ids: jax.Array,
    mask: jax.Array,
    context: tuple[jax.Array, ...],
    options: dict[str, Any],
) -> jax.Array:
    """A decoder's hidden states ``[B, L, D]`` of some texts, after a context ``[1, C]`` where there is one.

    The context is read once for all texts: they see its keys and values.
    """
    positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    if not context:
        output: Any = module.apply({"params": params}, ids, mask, position_ids=positions, **options)
        return output.last_hidden_state
    assert module.shape.decoder is not None
    before, seen = context[0], context[1].astype(bool)
    (items, length), read = ids.shape, before.shape[1]
    _check_context(module.shape.decoder, seen, mask)

    def follow(ids: jax.Array, mask: jax.Array, cache: Cache, slot: int, positions: jax.Array) -> tuple[Any, Any]:
        call = {"cache": cache, "slot": slot, "position_ids": positions, "method": "read"}
        return module.apply({"params": params}, ids, mask, **call, **options)  # type: ignore[arg-type]

    empty = empty_cache(module.shape.decoder, 1, read + length, dtype=module.dtype)
    room = jnp.pad(seen, ((0, 0), (0, length)))
    _, cache = follow(before, room, empty, 0, jnp.maximum(jnp.cumsum(seen, axis=1) - 1, 0))
    shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (leaf.shape[0], items, *leaf.shape[2:])), cache)
    slots = jnp.concatenate([jnp.broadcast_to(seen, (items, read)), mask], axis=1)
    return follow(ids, slots, shared, read, positions + seen.sum())[0]


def _check_context(shape: StackShape, seen: jax.Array, mask: jax.Array) -> None:
    """Refuse more examples than a model with learned positions can read before a text.

    Args:
        shape: of the decoder.
        seen: ``[1, C]``, which slots of the context hold real tokens.
        mask: ``[B, L]``, those of the texts and their targets.

    Raises:
        UserError: their real tokens are more than the positions. Under ``jit``, which knows shapes alone, slots count
            as tokens: a context without padding (`adaptation.context.packed`) is counted as it is there too.
    """
    read, length = seen.shape[1], mask.shape[1]
    padding = ", padding included"
    if not isinstance(seen, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
        read, length, padding = int(seen.sum()), int(mask.sum(1).max()), ""
    if shape.max_length is not None and read + length > shape.max_length:
        raise UserError(
            f"{read} tokens of examples and {length} of a text and its target{padding}: the model has "
            f"{shape.max_length} positions; give fewer examples (episodes.shots, or those of adapt), or lower "
            "tokenizer.max_length and its buckets"
        )


def _logits(output: Any) -> jax.Array:
    if output.logits is None or output.logits.ndim != 3:
        raise ValueError("this model has no head that predicts tokens")
    return output.logits


def judge_targets(logits: jax.Array, batch: Batch, begun: int = 0) -> Written:
    """Likelihood of the targets under logits ``[B, M, V]``, whose first ``begun`` tokens nobody has to choose."""
    logits, real = at_least_float32(logits), batch["decoder_mask"].astype(bool)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["decoder_label"])
    right = logits.argmax(-1) == batch["decoder_label"]
    right |= jnp.arange(right.shape[1])[None] < begun
    return Written((nats * real).sum(1), real.sum(1), (right | ~real).all(1))


def mean_nats(written: Written, mask: jax.Array) -> jax.Array:
    """Nats per token over the real items."""
    weight = mask.astype(written.nats.dtype)
    return (written.nats * weight).sum() / jnp.maximum((written.tokens * weight).sum(), 1)


def exact_share(exact: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of the real items that are exact."""
    return (exact & mask.astype(bool)).sum() / jnp.maximum(mask.sum(), 1)


NATS = Score(
    "nats per token",
    lambda written, episode: mean_nats(written, episode.query["mask"]),
    larger_is_better=False,
    percent=False,
)
EXACT = Score("exact match", lambda written, episode: exact_share(written.exact, episode.query["mask"]))


def examples_before(support: Batch, query: Batch) -> Batch:
    """The direct form of a context: all support examples, source and target, before each query's source.

    Args:
        support: ``S`` examples; those that ``mask`` calls padding are not seen.
        query: ``Q`` examples.

    Returns:
        The queries with `CONTEXT`, ``[1, S (L + M)]``.
    """
    return _after(_flat(support, READ, WRITTEN), query)


def examples_before_swapped(support: Batch, query: Batch) -> Batch:
    """The channel form: each example's target before its source, and of a query the source is to be written.

    References:
        Min, Lewis, Hajishirzi, Zettlemoyer. Noisy Channel Language Model Prompting. ACL 2022 (section 3).
    """
    swapped = {**query, **{new: query[old] for old, new in zip((*READ, *WRITTEN), (*WRITTEN, *READ), strict=True)}}
    return _after(_flat(support, WRITTEN, READ), swapped)


def _flat(support: Batch, first: tuple[str, str], second: tuple[str, str]) -> tuple[jax.Array, jax.Array]:
    ids, mask = (jnp.concatenate([support[a], support[b]], axis=1) for a, b in zip(first, second, strict=True))
    return ids.reshape(1, -1), (mask.astype(bool) & support["mask"].astype(bool)[:, None]).reshape(1, -1)


def _after(context: tuple[jax.Array, jax.Array], query: Batch) -> Batch:
    return {**query, **dict(zip(CONTEXT, context, strict=True))}


def _whole(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The ids and the mask of all that is read, the context before each source."""
    items = batch[READ[0]].shape[0]
    parts = zip(CONTEXT, READ, strict=True)
    ids, mask = (
        jnp.concatenate([jnp.broadcast_to(batch[before], (items, batch[before].shape[1])), batch[own]], axis=1)
        if before in batch
        else batch[own]
        for before, own in parts
    )
    return ids, mask


def text_to_text(
    module: Transformer,
    init_params: Callable[[Key], Params],
    *,
    end_id: int,
    max_new_tokens: int,
    pad_id: int = 0,
    begin: tuple[int, ...] = (),
    dropout: bool = False,
    adapter: Adapter = NO_ADAPTER,
    beams: int = 1,
    channel: bool = False,
) -> Functions:
    """Return the functions of a model that reads and writes.

    Has more than 8 parameters because the model, the ids of its tokens and the search are independent of each other.

    Args:
        module: a decoder, or an encoder and a decoder, with a head that predicts tokens.
        init_params: ``rng -> params``.
        end_id: of the token that ends a target.
        max_new_tokens: most tokens that are written.
        pad_id: of padding.
        begin: tokens that every target begins with, which are given where one is written.
        dropout: in the loss.
        adapter: what is added to the model, such as LoRA.
        beams: of the search, in writing; 1 for the most probable token each time.
        channel: contexts are of the channel form, see `examples_before_swapped`.
    """
    adapted = adapter.active

    def output_fn(params: Params, batch: Batch, rng: Key) -> Written:
        del rng
        with adapted():
            return judge_targets(logits_of_targets(module, params, batch), batch, len(begin))

    def write_fn(params: Params, batch: Batch, rng: Key) -> Written:
        written = output_fn(params, batch, rng)
        with adapted():
            ids = generate(
                module,
                params,
                *_whole(batch),
                max_new_tokens=max_new_tokens,
                eos_id=end_id,
                pad_id=pad_id,
                begin=begin,
                beams=beams,
            ).ids
        return written._replace(ids=ids)

    def loss_fn(params: Params, batch: Batch, rng: Key) -> tuple[jax.Array, Aux]:
        """Mean nats per token over the real items, with ``exact_match``."""
        with adapted():
            logits = logits_of_targets(module, params, batch, rng if dropout else None)
            written = judge_targets(logits, batch, len(begin))
        return mean_nats(written, batch["mask"]), {"exact_match": exact_share(written.exact, batch["mask"])}

    return Functions(
        init_params=init_params,
        loss_fn=loss_fn,
        output_fn=output_fn,
        joint_loss_fn=loss_fn,
        write_fn=write_fn,
        join_fn=None if module.shape.encoder is not None else examples_before_swapped if channel else examples_before,
    )
