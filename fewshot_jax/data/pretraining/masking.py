"""What a language model is asked about a batch of windows: the next token, masked tokens, or missing spans."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# int32 or bool arrays [B, L]: see each function.
TokenBatch = dict[str, np.ndarray]


def next_tokens(rows: TokenBatch) -> TokenBatch:
    """Every token but a document's first is predicted from those before it.

    Args:
        rows: ``input_ids, segment, position`` ``[B, L]``, of `packing.Windows.rows`.

    Returns:
        The rows with ``target``, the token to predict at each position, and ``weight``, True where there is one in
        the same document.
    """
    ids, segment = rows["input_ids"], rows["segment"]
    weight = np.zeros(ids.shape, bool)
    weight[:, :-1] = (segment[:, :-1] == segment[:, 1:]) & (segment[:, 1:] > 0)
    return {**rows, "target": np.roll(ids, -1, axis=1), "weight": weight}


class MaskTokens(NamedTuple):
    """What masking needs to know of a vocabulary.

    Attributes:
        mask: id of the mask token.
        special: ids that are neither masked nor put in a word's place.
        vocab_size: number of ids.
    """

    mask: int
    special: tuple[int, ...]
    vocab_size: int


def most_masked(length: int, rate: float) -> int:
    """How many tokens of a window are masked at most."""
    return max(round(rate * length), 1)


def mask_tokens(rows: TokenBatch, rng: np.random.Generator, tokens: MaskTokens, rate: float) -> TokenBatch:
    """Hide a share of the tokens: 80% become the mask token, 10% another token, 10% stay; all are predicted.

    Args:
        rows: ``input_ids, segment, position`` ``[B, L]``.
        rng: consumed; a new one for each epoch gives new masks (Liu et al. 2019, section 4.1).
        tokens: of the vocabulary.
        rate: share of the tokens that are not special; at least one in a window that has any.

    Returns:
        The rows, some ids replaced, with ``predicted, target, weight`` ``[B, P]``: slots that may be asked about,
        ``P`` of them in a window of ordinary tokens, what stood there, and True where it is asked about.

    References:
        Devlin et al. BERT. NAACL 2019 (section 3.1). Liu et al. RoBERTa. arXiv:1907.11692.
    """
    ids = rows["input_ids"]
    may = (rows["segment"] > 0) & ~np.isin(ids, tokens.special)
    most = most_masked(ids.shape[1], rate)
    wanted = np.where(may.any(axis=1), np.maximum(np.round(rate * may.sum(axis=1)), 1), 0)
    # Those of the lowest random numbers: an exact share, so that all batches have one shape.
    predicted = np.argsort(np.where(may, rng.random(ids.shape), 2.0), axis=1)[:, :most]
    weight = np.arange(most) < wanted[:, None]
    target = np.take_along_axis(ids, predicted, axis=1)
    ordinary = np.setdiff1d(np.arange(tokens.vocab_size), tokens.special)
    fate, other = rng.random(target.shape), ordinary[rng.integers(len(ordinary), size=target.shape)]
    changed = np.where(fate < 0.8, tokens.mask, np.where(fate < 0.9, other, target))
    hidden = ids.copy()
    np.put_along_axis(hidden, predicted, np.where(weight, changed, target).astype(ids.dtype), axis=1)
    return {**rows, "input_ids": hidden, "predicted": predicted.astype(np.int32), "target": target, "weight": weight}


class SpanLengths(NamedTuple):
    """Lengths in tokens.

    Attributes:
        window: of the text that is corrupted.
        noise: how many of its tokens are hidden.
        spans: in how many spans.
        input: of the encoder's input, start and end tokens included.
        target: of the decoder's, with the end token.
    """

    window: int
    noise: int
    spans: int
    input: int
    target: int


def span_lengths(length: int, *, rate: float, span_length: float, start: bool = False) -> SpanLengths:
    """The longest window that, corrupted, fits an encoder's input of ``length`` tokens.

    Args:
        length: of the input.
        rate: share of the window that is hidden.
        span_length: mean length of a span.
        start: the input begins with a start token.

    Returns:
        The lengths; of an input too short for one span and one other token, a window of two tokens, whose input
        is longer than ``length``.

    References:
        Raffel et al. JMLR 2020 (section 3.1.4); ``random_spans_helper`` of the authors' code.
    """

    def of(window: int) -> SpanLengths:
        noise = min(max(round(window * rate), 1), window - 1)
        spans = min(max(round(noise / span_length), 1), window - noise)
        return SpanLengths(window, noise, spans, window - noise + spans + 1 + start, noise + spans + 1)

    found = of(2)
    while (longer := of(found.window + 1)).input <= length:
        found = longer
    return found


class SpanTokens(NamedTuple):
    """What span corruption needs to know of a vocabulary.

    Attributes:
        sentinels: ids that stand for the first span, the second and so on.
        end: the token at the end of input and target.
        start: the token at the start of the input; None for none.
        decoder_start: the token that the decoder starts with.
    """

    sentinels: Sequence[int]
    end: int
    start: int | None
    decoder_start: int


def _random_lengths(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """``parts`` positive lengths of the sum ``total``, every such division equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def span_mask(lengths: SpanLengths, rng: np.random.Generator) -> np.ndarray:
    """``[window]`` bools, True at hidden tokens: spans and what lies between them take turns, the text first."""
    text = _random_lengths(lengths.window - lengths.noise, lengths.spans, rng)
    noise = _random_lengths(lengths.noise, lengths.spans, rng)
    return np.repeat(np.arange(2 * lengths.spans) % 2 == 1, np.stack([text, noise], axis=1).reshape(-1))


def _replaced(ids: np.ndarray, hidden: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """The ids, each run of hidden ones replaced by the next sentinel."""
    first = hidden & ~np.concatenate([[False], hidden[:-1]])
    out = ids.copy()
    out[first] = sentinels[: first.sum()]
    return out[~hidden | first]


def corrupt_spans(ids: np.ndarray, rng: np.random.Generator, lengths: SpanLengths, tokens: SpanTokens) -> TokenBatch:
    """Replace spans of windows by sentinels; the target is the sentinels, each with what it stands for.

    Args:
        ids: ``[B, window]`` token ids.
        rng: consumed.
        lengths: of window, input and target.
        tokens: of the vocabulary.

    Returns:
        ``input_ids`` ``[B, input]``; ``decoder_input_ids, target`` ``[B, target]``; ``weight``, all True.

    References:
        Raffel et al. Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer. JMLR 2020
        (section 3.1.4, figure 2).
    """
    sentinels = np.asarray(tokens.sentinels, np.int32)
    before = [] if tokens.start is None else [tokens.start]
    inputs, targets = [], []
    for row in ids:
        hidden = span_mask(lengths, rng)
        inputs.append(np.concatenate([before, _replaced(row, hidden, sentinels), [tokens.end]]))
        # A span and the text before it have the same number, so each stands for the other.
        targets.append(np.concatenate([_replaced(row, ~hidden, sentinels), [tokens.end]]))
    target = np.stack(targets).astype(np.int32)
    shifted = np.concatenate([np.full((len(target), 1), tokens.decoder_start, np.int32), target[:, :-1]], axis=1)
    return {
        "input_ids": np.stack(inputs).astype(np.int32),
        "decoder_input_ids": shifted,
        "target": target,
        "weight": np.ones(target.shape, bool),
    }
