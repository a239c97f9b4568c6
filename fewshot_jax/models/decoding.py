"""What greedy search, sampling and beam search share: read the prompts, then continue them token by token."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.models.attention import Cache
from fewshot_jax.models.stack import empty_cache
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Params


class Generated(NamedTuple):
    """What was generated.

    Attributes:
        ids: ``[B, max_new_tokens]``, without the prompt; padding after the end.
        score: ``[B]``, in nats: the sum of the tokens' log-probabilities; of a beam divided by
            ``length ** length_penalty``.
    """

    ids: jax.Array
    score: jax.Array


class Sequences(NamedTuple):
    """Prompts that were read.

    Attributes:
        logits: ``[B, V]`` after them.
        cache: of their keys and values.
        step: ``(cache, ids [B], t) -> (logits, cache)`` from there.
        begun: tokens of the answer that were given, and are read already.
        never_ids: tokens that are never written.
    """

    logits: jax.Array
    cache: Cache
    step: Callable[[Cache, jax.Array, jax.Array], tuple[jax.Array, Cache]]
    begun: int = 0
    never_ids: tuple[int, ...] = ()

    def possible(self, scores_V: jax.Array) -> jax.Array:
        """Scores ``[..., V]``, minus infinity for what is never written."""
        return scores_V.at[..., list(self.never_ids)].set(-jnp.inf) if self.never_ids else scores_V


def check_positions(module: Transformer, mask_BL: jax.Array, begin: Sequence[int], new: int) -> None:
    """Refuse what needs more positions than there are; padding needs none, and the last token is not read."""
    encoder, decoder = module.shape.encoder, module.shape.decoder
    if encoder is None and begin:
        raise ValueError(f"begin={tuple(begin)}: this model has one stack; put these tokens at the end of the prompts")
    if encoder is None and not isinstance(mask_BL, jax.core.Tracer):
        longest = int(np.asarray(mask_BL).sum(1).max())  # not by jnp, whose sum of a constant is traced under jit
    else:
        longest = 1 + len(begin)  # after the start token; or nobody knows
    if decoder is None or decoder.max_length is None or longest + new - 1 <= decoder.max_length:
        return
    raise ValueError(
        f"max_new_tokens={new} after {longest} tokens: the model has {decoder.max_length} positions; shorten the "
        "prompt, or lower max_new_tokens"
    )


def start_decoding(
    module: Transformer,
    params: Params,
    ids_BL: jax.Array,
    mask_BL: jax.Array,
    *,
    begin: Sequence[int],
    new: int,
    beams: int,
) -> Sequences:
    """Read the prompts, and what an answer begins with; ``beams`` copies of each go on."""
    decoder, variables = module.shape.decoder, {"params": params}
    if decoder is None:
        raise ValueError("this model has no decoder")
    items, length = ids_BL.shape
    repeat = lambda leaf, axis=0: jnp.repeat(leaf, beams, axis)  # noqa: E731
    if module.shape.encoder is None:
        order_BL = jnp.argsort(mask_BL, axis=1, stable=True)  # padding first, real tokens after it in their order
        ids_BL, mask_BL = (jnp.take_along_axis(x, order_BL, 1) for x in (ids_BL, mask_BL))
        slots_BM = jnp.concatenate([mask_BL, jnp.ones((items, new), bool)], axis=1)
        first, memory, later = ids_BL, None, None
        positions_BL = jnp.maximum(jnp.cumsum(mask_BL, axis=1) - 1, 0)
    else:
        if module.shape.start_id is None:
            raise ValueError("the config names no token that a decoder starts with")
        hidden = module.apply(variables, ids_BL, mask_BL, method="encode")
        first = jnp.tile(jnp.array([[module.shape.start_id, *begin]], jnp.int32), (items, 1))
        slots_BM = jnp.ones((items, first.shape[1] + new), bool)
        memory, later = (hidden, mask_BL), (None, repeat(mask_BL))
        positions_BL = jnp.tile(jnp.arange(first.shape[1])[None], (items, 1))

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
            first.shape[1] + t,
            mask=all_slots_BM,
            position_ids=next_B[:, None] + t,
            memory=later,
        )

    cache = jax.tree.map(lambda leaf: repeat(leaf, 1), cache)
    return Sequences(logits_BV, cache, step, len(begin), module.shape.never_ids)
