"""The three objectives, against their papers."""

import numpy as np
import pytest

from fewshot_jax.data.pretraining.masking import (
    MaskTokens,
    SpanTokens,
    corrupt_spans,
    mask_tokens,
    most_masked,
    next_tokens,
    span_lengths,
    span_mask,
)
from fewshot_jax.data.pretraining.packing import Packing, pack

END, START, MASK, SIZE = 3, 2, 4, 1000
TOKENS = MaskTokens(MASK, (0, 1, 2, 3, 4), SIZE)


def rows(count=400, length=64, seed=0):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(10, SIZE, size=rng.integers(5, 60)) for _ in range(count)]
    windows = pack(texts, Packing(length, END, START))
    return windows.rows(np.arange(len(windows.tokens)))


def test_the_next_token_is_that_of_the_same_document():
    given = rows()
    batch = next_tokens(given)
    ids, segment = given["input_ids"], given["segment"]
    for row, slot in np.argwhere(batch["weight"]):
        assert segment[row, slot] == segment[row, slot + 1] > 0
        assert batch["target"][row, slot] == ids[row, slot + 1]
    # Every token but the first of a part is predicted once.
    parts = sum(len(set(line[line > 0])) for line in segment)
    assert batch["weight"].sum() == (segment > 0).sum() - parts


def asked_about(batch):
    """``[B, L]``, True at the tokens to predict."""
    found = np.zeros(batch["input_ids"].shape, bool)
    np.put_along_axis(found, batch["predicted"], batch["weight"], axis=1)
    return found


def test_masking_hides_what_the_paper_says():
    given = rows(4000)
    batch = mask_tokens(given, np.random.default_rng(0), TOKENS, 0.15)
    asked, ids, hidden = asked_about(batch), given["input_ids"], batch["input_ids"]
    ordinary = (given["segment"] > 0) & ~np.isin(ids, TOKENS.special)
    assert not (asked & ~ordinary).any(), "special tokens and padding are never masked"
    assert asked.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.005)
    assert asked.sum() == batch["weight"].sum()
    assert np.array_equal(batch["target"], np.take_along_axis(ids, batch["predicted"], axis=1))
    assert np.array_equal(hidden[~asked], ids[~asked])
    chosen = asked.sum()
    masked = (hidden == MASK) & asked
    other = asked & (hidden != MASK) & (hidden != ids)
    assert masked.sum() / chosen == pytest.approx(0.8, abs=0.01)
    assert other.sum() / chosen == pytest.approx(0.1, abs=0.01)
    assert not np.isin(hidden[other], TOKENS.special).any()
    assert np.ptp(asked.sum(axis=1)[:-1]) <= 4, "windows are asked about equally often"
    assert batch["predicted"].shape[1] == most_masked(64, 0.15) == 10
    per_slot = asked.sum(axis=0)[ordinary.mean(axis=0) > 0.9] / len(asked)
    assert per_slot.std() < 0.02, "every slot is as likely as the next"


def test_masks_differ_between_draws_and_are_repeatable():
    given = rows(20)
    one, same = (mask_tokens(given, np.random.default_rng(0), TOKENS, 0.15) for _ in range(2))
    other = mask_tokens(given, np.random.default_rng(1), TOKENS, 0.15)
    assert np.array_equal(one["input_ids"], same["input_ids"])
    assert not np.array_equal(asked_about(one), asked_about(other))


def test_a_window_without_words_is_not_asked_about():
    given = {"input_ids": np.array([[2, 3, 2, 3]], np.int32), "segment": np.ones((1, 4), np.int32)}
    batch = mask_tokens(given, np.random.default_rng(0), TOKENS, 0.15)
    assert not batch["weight"].any()
    assert np.array_equal(batch["input_ids"], given["input_ids"])


@pytest.mark.parametrize(("length", "window", "target"), [(512, 568, 114)])
def test_span_lengths_are_those_of_t5(length, window, target):
    """T5's own: 512 tokens of input come from 568, with a target of 114 (compute_input_and_target_lengths)."""
    lengths = span_lengths(length, rate=0.15, span_length=3.0)
    assert (lengths.window, lengths.target) == (window, target)
    assert lengths.input <= length


@pytest.mark.parametrize("length", range(8, 80, 7))
@pytest.mark.parametrize("start", [False, True])
def test_the_longest_window_that_fits_is_taken(length, start):
    lengths = span_lengths(length, rate=0.15, span_length=3.0, start=start)
    assert length - 1 <= lengths.input <= length
    assert 1 <= lengths.spans <= lengths.noise < lengths.window


def test_a_span_mask_has_its_share_in_spans():
    lengths = span_lengths(128, rate=0.15, span_length=3.0)
    masks = np.stack([span_mask(lengths, np.random.default_rng(seed)) for seed in range(200)])
    assert masks.shape == (200, lengths.window)
    assert (masks.sum(axis=1) == lengths.noise).all()
    begins = masks & ~np.pad(masks, ((0, 0), (1, 0)))[:, :-1]
    assert (begins.sum(axis=1) == lengths.spans).all()
    assert not masks[:, 0].any(), "text comes first, as in T5"
    inside = masks[:, 20:-20].mean(axis=0)
    assert inside.std() < 0.05, "every token is as likely hidden as the next"


def test_input_and_target_together_are_the_text():
    lengths = span_lengths(64, rate=0.3, span_length=2.0, start=True)
    sentinels = range(900, 1000)
    tokens = SpanTokens(sentinels, END, START, 0)
    ids = np.random.default_rng(0).integers(10, 900, size=(5, lengths.window))
    batch = corrupt_spans(ids, np.random.default_rng(1), lengths, tokens)
    assert batch["input_ids"].shape == (5, lengths.input)
    assert batch["target"].shape == (5, lengths.target)
    for row in range(5):
        given, target = batch["input_ids"][row].tolist(), batch["target"][row].tolist()
        assert given[0] == START
        assert given[-1] == target[-1] == END
        spans, current = {}, None
        for token in target[:-1]:
            if token >= 900:
                current = spans.setdefault(token, [])
            else:
                current.append(token)
        assert list(spans) == list(sentinels[: lengths.spans]), "one sentinel after the other"
        whole = [t for token in given[1:-1] for t in (spans[token] if token >= 900 else [token])]
        assert whole == ids[row].tolist()
        assert batch["decoder_input_ids"][row].tolist() == [0, *target[:-1]]
    assert batch["weight"].all()
