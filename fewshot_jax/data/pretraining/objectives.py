"""From the config of an objective to the windows it needs and what is asked about them."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.data.pretraining.masking import (
    MaskTokens,
    SpanLengths,
    SpanTokens,
    TokenBatch,
    corrupt_spans,
    mask_tokens,
    most_masked,
    next_tokens,
    span_lengths,
)
from fewshot_jax.data.pretraining.packing import Packing
from fewshot_jax.data.pretraining.pipeline import Ask
from fewshot_jax.errors import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))  # as many as T5's tokenizer has


class Vocabulary(NamedTuple):
    """The special tokens of a tokenizer.

    Attributes:
        size: number of ids.
        pad, end: ids; ``pad`` is ``end`` where there is none.
        start: the token it puts before a text; None for none.
        mask: None for none.
        special: ids of all special tokens.
        sentinels: ids of ``<extra_id_0>`` and so on, as many as there are.
    """

    size: int
    pad: int
    end: int
    start: int | None
    mask: int | None
    special: tuple[int, ...]
    sentinels: tuple[int, ...]

    def within(self, rows: int) -> "Vocabulary":
        """The same for a model with so many embeddings: a padding token that has none gives way to the end."""
        if self.pad < rows:
            return self
        special = tuple(token for token in self.special if token < rows)
        return self._replace(size=min(self.size, rows), pad=self.end, special=special)


def vocabulary_of(tokenizer: "PreTrainedTokenizerBase", where: str) -> Vocabulary:
    """Read the special tokens.

    Raises:
        UserError: nothing ends a text.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    require(end is not None, f"{where}: this tokenizer has no eos_token and no sep_token to end a document with")
    known = tokenizer.get_vocab()
    before = tokenizer("")["input_ids"]  # what it puts around a text
    first = before[0] if before and before[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else None
    sentinels = []
    for name in SENTINELS:
        if name not in known:
            break
        sentinels.append(known[name])
    return Vocabulary(
        size=max(known.values()) + 1,
        pad=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        end=end,
        start=first,
        mask=tokenizer.mask_token_id,
        special=tuple(sorted({*tokenizer.all_special_ids, *sentinels})),
        sentinels=tuple(sentinels),
    )


class Questions(NamedTuple):
    """What an objective makes of documents.

    Attributes:
        packing: of the documents.
        ask: what is asked about a batch of windows.
        input: tokens of a window that the first stack reads.
        target: tokens that the decoder of two stacks reads; 0 for one stack.
        predicted: slots of a window whose logits are needed; 0 for all.
    """

    packing: Packing
    ask: Ask
    input: int
    target: int = 0
    predicted: int = 0


def questions(config: PretrainConfig, vocabulary: Vocabulary, *, decoder_start: int, where: str) -> Questions:
    """Choose windows and masks.

    Args:
        config: objective and batch.
        vocabulary: of the tokenizer.
        decoder_start: the token that a decoder of two stacks starts with.
        where: the tokenizer's place, for messages.

    Raises:
        UserError: the tokenizer lacks a token that the objective needs, or no span fits a window.
    """
    batch = config.batch
    packing = Packing(batch.length, vocabulary.end, vocabulary.start, vocabulary.pad, vocabulary.size)
    if config.objective == "causal_lm":
        return Questions(packing, _ask_next, batch.length)
    if config.objective == "masked_lm":
        require(vocabulary.mask is not None, f"{where}: masked_lm needs a tokenizer with a mask_token; this has none")
        assert vocabulary.mask is not None
        tokens = MaskTokens(vocabulary.mask, vocabulary.special, vocabulary.size)
        ask = functools.partial(_ask_masked, tokens=tokens, rate=batch.mask_rate)
        return Questions(packing, ask, batch.length, predicted=most_masked(batch.length, batch.mask_rate))
    lengths = span_lengths(
        batch.length, rate=batch.mask_rate, span_length=batch.span_length, start=vocabulary.start is not None
    )
    found = len(vocabulary.sentinels)
    require(
        lengths.spans <= found,
        f"{where}: span_corruption of batch.length={batch.length} needs {lengths.spans} sentinel tokens "
        f"(<extra_id_0>, <extra_id_1>, ...), and this tokenizer has {found}; lower batch.length or batch.mask_rate, "
        "raise batch.span_length, or take a T5 tokenizer",
    )
    spans = SpanTokens(vocabulary.sentinels, vocabulary.end, vocabulary.start, decoder_start)
    return Questions(
        packing._replace(length=lengths.window, start=None),
        functools.partial(_ask_spans, lengths=lengths, tokens=spans),
        lengths.input,
        lengths.target,
    )


def _ask_next(rows: TokenBatch, rng: np.random.Generator) -> TokenBatch:
    return next_tokens(rows)


def _ask_masked(rows: TokenBatch, rng: np.random.Generator, *, tokens: MaskTokens, rate: float) -> TokenBatch:
    return mask_tokens(rows, rng, tokens, rate)


def _ask_spans(rows: TokenBatch, rng: np.random.Generator, *, lengths: SpanLengths, tokens: SpanTokens) -> TokenBatch:
    batch = corrupt_spans(rows["input_ids"], rng, lengths, tokens)
    # The last window of a validation may end in padding: it cannot be cut, so it does not count.
    batch["weight"] = batch["weight"] & np.all(rows["segment"] > 0, axis=1)[:, None]
    return batch


def without_special_tokens(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of some texts, however long, whatever limit the tokenizer was saved with."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return [np.asarray(row.ids, np.int32) for row in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
