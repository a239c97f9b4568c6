"""Texts to vectors with a pretrained model, as its directory describes them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.pooling import TextVector, VectorShape
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fewshot_jax.models.huggingface.pretrained import Pretrained

Vectorize = Callable[..., jax.Array]
_SHORTEST = 16  # tokens that the shortest batch is padded to


def vectorizer(module: Transformer) -> Vectorize:
    """Return ``(shape, params, dense_params, input_ids, attention_mask) -> vectors [B, D']``, compiled per shape."""

    def vectors(shape: VectorShape, params: Params, dense: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
        out = module.apply({"params": params}, ids, mask)
        return TextVector(shape).apply({"params": dense}, out.last_hidden_state, mask)  # type: ignore[union-attr, return-value]

    return jax.jit(vectors, static_argnums=0)


def embed_texts(
    pretrained: "Pretrained", texts: Sequence[str], vectorize: Vectorize, *, prompt: str | None, batch_size: int
) -> np.ndarray:
    """Compute `Pretrained.embed`, whose arguments and errors are these.

    Args:
        vectorize: from `vectorizer`, for the module of the model.
    """
    require(not isinstance(texts, str), "texts: expected a list of texts, not one text; put it in a list")
    texts = list(texts)
    if any(not isinstance(text, str) for text in texts):
        wrong = next(i for i, text in enumerate(texts) if not isinstance(text, str))
        raise UserError(f"texts[{wrong}] is {type(texts[wrong]).__name__}: expected a text")
    require(batch_size >= 1, f"batch_size={batch_size}: expected at least 1")
    module, vectors = pretrained.module, pretrained.vectors
    if module.shape.architecture == "encoder_decoder":
        raise UserError(f"{pretrained.path}: vectors are made by one stack; give an encoder or a decoder")
    tokenizer = _tokenizer(pretrained)
    limit, before = _most_tokens(pretrained, tokenizer), vectors.prompt(prompt)
    shape = vectors.shape
    if before and not vectors.include_prompt:
        shape = replace(shape, skipped=_prompt_tokens(tokenizer, before, limit))
    rows = _encode(tokenizer, [before + text for text in texts], limit)
    result = np.zeros((len(rows), shape.width(module.shape.last.block.width)), np.float32)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    pad = module.shape.pad_id or 0
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        items = min(batch_size, _bucket(len(chosen), 1, batch_size))
        ids, mask = _batch([rows[i] for i in chosen], items, limit, pad)
        made = vectorize(shape, pretrained.params, pretrained.dense_params, ids, mask)
        result[chosen] = np.asarray(made)[: len(chosen)]
    return result


def lower_case(tokenizer: Any) -> None:
    """Make a tokenizer of the package tokenizers read all texts in lower case, before its own normalisation."""
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers

    own = tokenizer.normalizer
    tokenizer.normalizer = Lowercase() if own is None else Normalizers([Lowercase(), own])


def _tokenizer(pretrained: "Pretrained") -> "PreTrainedTokenizerBase":
    tokenizer = pretrained.tokenizer
    if tokenizer is None:
        raise UserError(
            f"{pretrained.path}: holds no tokenizer, which texts need; put the one beside it that the model was "
            "trained with"
        )
    if pretrained.vectors.lower_case:
        from copy import deepcopy

        tokenizer = deepcopy(tokenizer)
        lower_case(tokenizer.backend_tokenizer)
    return tokenizer


def _most_tokens(pretrained: "Pretrained", tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The limit of a text's tokens: what the directory states, or the tokenizer, and never more than positions."""
    stated = pretrained.vectors.max_length
    own = tokenizer.model_max_length if stated is None else stated
    positions = pretrained.module.shape.last.max_length
    limits = [limit for limit in (own, positions) if limit is not None and limit < 10**6]
    return min(limits, default=None)


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str], limit: int | None) -> list[list[int]]:
    if not texts:
        return []
    rows = tokenizer(texts, truncation=limit is not None, max_length=limit, add_special_tokens=True)["input_ids"]
    return [list(row) for row in rows]


def _prompt_tokens(tokenizer: "PreTrainedTokenizerBase", prompt: str, limit: int | None) -> int:
    """How many tokens of a text are its prompt's, one that the tokenizer puts before it included."""
    (ids,) = _encode(tokenizer, [prompt], limit)
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.all_special_ids)


def _bucket(length: int, shortest: int, longest: int | None) -> int:
    """The smallest power of two that holds a length; ``longest`` where that is less."""
    size = shortest
    while size < length:
        size *= 2
    return size if longest is None else min(size, longest)


def _batch(rows: list[list[int]], items: int, limit: int | None, pad: int) -> tuple[jax.Array, jax.Array]:
    """Ids and mask ``[items, L]``; rows beyond the last one repeat the first."""
    length = _bucket(max(map(len, rows)), _SHORTEST, limit)
    ids, mask = np.full((items, length), pad, np.int32), np.zeros((items, length), bool)
    for i in range(items):
        row = rows[i if i < len(rows) else 0]
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    return jnp.asarray(ids), jnp.asarray(mask)
