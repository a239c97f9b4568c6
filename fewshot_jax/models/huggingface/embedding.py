"""Texts to vectors with a pretrained model, as its directory describes them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.huggingface.sentence_transformers import NO_LIMIT, TextVectors
from fewshot_jax.models.language_head import Output
from fewshot_jax.models.pooling import TextVector, VectorShape
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHORTEST = 16  # tokens that the shortest batch is padded to


class Embedder:
    """Computes the vectors of texts; see `Pretrained.embed`.

    Args:
        module: the transformer.
        vectors: what makes one vector of a text.
        tokenizer: of the model; None where it has none.
        where: of what messages speak.

    Raises:
        UserError: the model makes no vectors of texts.
    """

    def __init__(
        self, module: Transformer, vectors: TextVectors, tokenizer: "PreTrainedTokenizerBase | None", where: str
    ):
        if module.shape.architecture == "encoder_decoder":
            raise UserError(f"{where}: vectors are made by one stack; give an encoder or a decoder")
        if tokenizer is None:
            raise UserError(
                f"{where}: holds no tokenizer, which texts need; put the one beside it that the model was trained with"
            )
        if vectors.lower_case:
            require(tokenizer.is_fast, f"{where}: do_lower_case takes a tokenizer.json; save a fast tokenizer there")
            tokenizer = deepcopy(tokenizer)
            lower_case(tokenizer.backend_tokenizer)
        self._module, self._vectors, self._tokenizer = module, vectors, tokenizer
        stated = tokenizer.model_max_length if vectors.max_length is None else vectors.max_length
        limits = [stated, module.shape.last.max_length]
        self._limit = min((limit for limit in limits if limit is not None and limit < NO_LIMIT), default=None)

        def vectorize(shape: VectorShape, params: Params, dense: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
            hidden = cast(Output, module.apply({"params": params}, ids, mask)).last_hidden_state
            return cast(jax.Array, TextVector(shape).apply({"params": dense}, hidden, mask))

        self._vectorize = jax.jit(vectorize, static_argnums=0)

    def __call__(
        self, params: Params, dense: Params, texts: Sequence[str], *, prompt: str | None, batch_size: int
    ) -> np.ndarray:
        """Return ``[N, D']`` float32, of parameters of the transformer and of the dense layers."""
        texts = _checked(texts)
        require(batch_size >= 1, f"batch_size={batch_size}: expected at least 1")
        before, shape = self._vectors.prompt(prompt), self._vectors.shape
        if before and not self._vectors.include_prompt:
            shape = replace(shape, skipped=self._prompt_tokens(before))
        rows = self._encode([before + text for text in texts])
        result = np.zeros((len(rows), shape.width(self._module.shape.last.block.width)), np.float32)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        made = []
        for part in parts:  # all are sent to the device before the first is read
            batch = self._batch([rows[i] for i in part], min(batch_size, _bucket(len(part), 1, batch_size)))
            made.append(self._vectorize(shape, params, dense, *batch))
        for part, vectors in zip(parts, made, strict=True):
            result[part] = np.asarray(vectors)[: len(part)]
        return result

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        limit = self._limit
        return [
            list(row) for row in self._tokenizer(texts, truncation=limit is not None, max_length=limit)["input_ids"]
        ]

    def _prompt_tokens(self, prompt: str) -> int:
        """How many tokens of a text are its prompt's, one that the tokenizer puts before it included."""
        (ids,) = self._encode([prompt])
        return len(ids) - (bool(ids) and ids[-1] in self._tokenizer.all_special_ids)

    def _batch(self, rows: list[list[int]], items: int) -> tuple[jax.Array, jax.Array]:
        """Ids and mask ``[items, L]``; rows beyond the last one repeat the first."""
        length = _bucket(max(map(len, rows)), _SHORTEST, self._limit)
        ids, mask = np.full((items, length), self._module.shape.pad_id or 0, np.int32), np.zeros((items, length), bool)
        for i in range(items):
            row = rows[i if i < len(rows) else 0]
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        return jnp.asarray(ids), jnp.asarray(mask)


def _checked(texts: Sequence[str]) -> list[str]:
    require(not isinstance(texts, str), "texts: expected a list of texts, not one text; put it in a list")
    texts = list(texts)
    for i, text in enumerate(texts):
        require(isinstance(text, str), f"texts[{i}] is {type(text).__name__}: expected a text")
    return texts


def lower_case(tokenizer: Any) -> None:
    """Make a tokenizer of the package tokenizers read all texts in lower case, before its own normalisation."""
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Normalizers

    own = tokenizer.normalizer
    tokenizer.normalizer = Lowercase() if own is None else Normalizers([Lowercase(), own])


def _bucket(length: int, shortest: int, longest: int | None) -> int:
    """The smallest power of two that holds a length; ``longest`` where that is less."""
    size = shortest
    while size < length:
        size *= 2
    return size if longest is None else min(size, longest)
