"""The loader: buckets, masks, augmentation, and a thread that prepares ahead."""

import threading
import time

import jax
import numpy as np
import pytest

from fewshot_jax.data.episodes import EpisodeSampler, EpisodeSize
from fewshot_jax.data.loader import (
    EncodedTexts,
    augment,
    bucket,
    by_frequency,
    encode_texts,
    prefetch,
    text_batch,
    text_episodes,
)
from fewshot_jax.data.ngrams import hashed_ngrams
from fewshot_jax.data.tokenization import train_tokenizer
from fewshot_jax.types import Episode

SPECIAL, MASK, VOCABULARY = 5, 4, 300


def encoded_texts(lengths, seed=0):
    """Texts that start with [CLS] = 2, then words, 0 where padded."""
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths, np.int32)
    ids = rng.integers(SPECIAL, VOCABULARY, (len(lengths), lengths.max()), dtype=np.int32)
    ids[:, 0] = 2
    ids[np.arange(lengths.max()) >= lengths[:, None]] = 0
    return EncodedTexts(ids, lengths)


@pytest.mark.parametrize(("length", "expected"), [(0, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 16)])
def test_the_smallest_bucket_that_holds_a_length(length, expected):
    assert bucket(length, (8, 4, 16)) == expected


@pytest.mark.parametrize("length", [3, 6, 9])
def test_text_batch_pads_cuts_and_masks(length):
    encoded = encoded_texts([2, 6, 4])
    batch = text_batch(encoded, np.array([[1, 0], [2, 2]]), length)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, length)
    for row, item in (((0, 0), 1), ((0, 1), 0), ((1, 0), 2), ((1, 1), 2)):
        real = min(int(encoded.lengths[item]), length)
        assert batch["input_ids"][row][:real].tolist() == encoded.input_ids[item, :real].tolist()
        assert not batch["input_ids"][row][real:].any()
        assert batch["attention_mask"][row].tolist() == [True] * real + [False] * (length - real)


def test_text_batch_does_not_hand_out_the_data_itself():
    encoded = encoded_texts([4, 4])
    before = encoded.input_ids.copy()
    text_batch(encoded, np.array([0, 1]), 4)["input_ids"][...] = 99
    np.testing.assert_array_equal(encoded.input_ids, before)


def test_a_batch_has_the_ngrams_of_its_texts():
    texts = ["book a table", "cancel it", "what is my balance"]
    encoded = encode_texts(train_tokenizer(texts), texts, max_length=8, ngram_width=64)
    ngrams = text_batch(encoded, np.array([[2, 0], [1, 1]]), 8)["ngrams"]
    expected = hashed_ngrams([texts[i] for i in (2, 0, 1, 1)], 64).toarray().reshape(2, 2, 64)
    np.testing.assert_array_equal(ngrams, expected)
    assert "ngrams" not in text_batch(encode_texts(train_tokenizer(texts), texts, max_length=8), np.array([0]), 8)


def test_dropped_ngrams_are_gone_from_support_and_query_alike():
    def batch():
        return {"input_ids": np.full((50, 4), 9), "ngrams": np.ones((50, 200), np.float32)}

    episode = Episode(batch(), batch())
    augment(
        episode,
        rng=np.random.default_rng(0),
        vocabulary=np.array([9]),
        token_dropout=0.0,
        token_remap=0.0,
        mask_id=MASK,
        ngram_dropout=0.3,
    )
    kept = episode.support["ngrams"][0]
    assert 0.6 < kept.mean() < 0.8
    for part in episode:
        np.testing.assert_array_equal(part["ngrams"], np.tile(kept, (50, 1)))


def test_by_frequency_orders_the_words_that_occur():
    encoded = EncodedTexts(np.array([[2, 9, 9, 7], [2, 9, 7, 0], [2, 6, 0, 0]], np.int32), np.array([4, 3, 2]))
    assert by_frequency(encoded, special=SPECIAL).tolist() == [9, 7, 6]


def draw(encoded, **keywords):
    label = np.repeat(np.arange(4), len(encoded.lengths) // 4)
    sampler = EpisodeSampler(label, EpisodeSize(ways=3, shots=2, queries=2), seed=1)
    return text_episodes(encoded, sampler, **{"step": 0, "tasks": 3, "buckets": (4, 8, 16), **keywords}), sampler


@pytest.mark.parametrize(("longest", "expected"), [(3, 4), (4, 4), (5, 8), (9, 16), (20, 16)])
def test_text_episodes_takes_the_smallest_bucket_and_cuts_at_the_largest(longest, expected):
    encoded = encoded_texts([longest] * 24)
    episodes, sampler = draw(encoded)
    drawn = sampler.batch(0, 3)
    for batch, items in zip(episodes, drawn, strict=True):
        assert batch["input_ids"].shape == (3, 6, expected)
        assert batch["attention_mask"].sum(-1).tolist() == [[min(longest, expected)] * 6] * 3
        real = min(longest, expected)
        np.testing.assert_array_equal(batch["input_ids"][..., :real], encoded.input_ids[items.position][..., :real])
        np.testing.assert_array_equal(batch["label"], items.label)
        np.testing.assert_array_equal(batch["mask"], items.mask)


def test_one_long_text_decides_the_bucket_of_support_and_query():
    episodes, _ = draw(encoded_texts([3] * 23 + [7]), tasks=12)  # so many tasks draw the long text
    assert episodes.support["input_ids"].shape[-1] == episodes.query["input_ids"].shape[-1] == 8


def remapped(episode, *, seed=0, dropout=0.0, remap=1.0, vocabulary=None):
    """A changed copy of an episode."""
    episode = jax.tree.map(np.copy, episode)
    vocabulary = np.arange(SPECIAL, VOCABULARY, dtype=np.int32) if vocabulary is None else vocabulary
    augment(
        episode,
        rng=np.random.default_rng(seed),
        vocabulary=vocabulary,
        token_dropout=dropout,
        token_remap=remap,
        mask_id=MASK,
    )
    return episode


@pytest.fixture(scope="module")
def episode():
    encoded = encoded_texts([20, 13] * 200)
    half = text_batch(encoded, np.arange(400), 20)
    other = text_batch(encoded, np.arange(400)[::-1], 20)
    return Episode(half, other)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_remapping_is_a_permutation_shared_by_support_and_query(episode, share):
    changed = remapped(episode, remap=share)
    image = {}
    for before, after in zip(episode, changed, strict=True):
        for old, new in zip(before["input_ids"].reshape(-1), after["input_ids"].reshape(-1), strict=True):
            assert image.setdefault(int(old), int(new)) == new
    assert set(image) == set(image.values())
    assert all(image[token] == token for token in range(SPECIAL) if token in image)
    moved = sum(old != new for old, new in image.items()) / (VOCABULARY - SPECIAL)
    assert abs(moved - share) < 0.1


def test_words_trade_places_with_words_of_similar_frequency(episode):
    vocabulary = np.random.default_rng(9).permutation(np.arange(SPECIAL, VOCABULARY, dtype=np.int32))
    rank = np.zeros(VOCABULARY, int)
    rank[vocabulary] = np.arange(len(vocabulary))
    changed = remapped(episode, vocabulary=vocabulary)
    words = episode.support["input_ids"] >= SPECIAL
    distance = rank[episode.support["input_ids"]] - rank[changed.support["input_ids"]]
    assert 0 < np.abs(distance[words]).max() < 64


def test_words_outside_the_vocabulary_and_padding_stay(episode):
    vocabulary = np.arange(SPECIAL, 100, dtype=np.int32)
    changed = remapped(episode, dropout=0.5, vocabulary=vocabulary)
    for before, after in zip(episode, changed, strict=True):
        kept = ~np.isin(before["input_ids"], vocabulary)
        np.testing.assert_array_equal(after["input_ids"][kept], before["input_ids"][kept])
        np.testing.assert_array_equal(after["attention_mask"], before["attention_mask"])
        assert (after["input_ids"] != before["input_ids"]).any()


def test_dropout_replaces_its_share_of_the_words_and_nothing_else(episode):
    changed = remapped(episode, dropout=0.3, remap=0.0)
    for before, after in zip(episode, changed, strict=True):
        words = before["input_ids"] >= SPECIAL
        dropped = after["input_ids"] == MASK
        assert not dropped[~words].any()
        assert abs(dropped[words].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / words.sum())
        np.testing.assert_array_equal(after["input_ids"][~dropped], before["input_ids"][~dropped])


def test_augmentation_is_a_function_of_its_generator(episode):
    one, two, three = (remapped(episode, seed=seed, dropout=0.2, remap=0.5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.query["input_ids"], two.query["input_ids"])
    assert (one.query["input_ids"] != three.query["input_ids"]).any()


def test_the_change_of_a_task_does_not_depend_on_how_a_batch_is_split():
    encoded = encoded_texts([8] * 24)

    def change(episode, rng):
        episode.support["input_ids"] += rng.integers(1, 1000)

    whole, _ = draw(encoded, tasks=4, change=change)
    part, _ = draw(encoded, tasks=2, offset=2, change=change)
    plain, _ = draw(encoded, tasks=4)
    np.testing.assert_array_equal(whole.support["input_ids"][2:], part.support["input_ids"])
    added = whole.support["input_ids"] - plain.support["input_ids"]
    assert len({int(task.min()) for task in added}) == 4, "every task has a change of its own"
    assert all(task.min() == task.max() > 0 for task in added)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def gone(before, seconds=5.0):
    """Whether the threads started since have ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if set(prefetch_threads()) <= set(before):
            return True
        time.sleep(0.02)
    return False


def test_prefetch_yields_in_order_and_ends_its_thread():
    before = prefetch_threads()
    assert list(prefetch(lambda step: step * step, range(3, 40), depth=3)) == [step * step for step in range(3, 40)]
    assert list(prefetch(lambda step: step, range(0))) == []
    assert gone(before)


def test_prefetch_works_ahead_but_no_further_than_its_depth():
    made = []

    def make(step):
        made.append(step)
        return step

    steps = prefetch(make, range(100), depth=2)
    assert next(steps) == 0
    end = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2]  # one yielded, two ready
    steps.close()


def test_an_exception_is_raised_at_the_step_where_it_happened():
    before = prefetch_threads()

    def make(step):
        if step == 4:
            raise KeyError("four")
        return step

    seen = []
    with pytest.raises(KeyError, match="four"):  # noqa: PT012
        for made in prefetch(make, range(10)):
            seen.append(made)
    assert seen == [0, 1, 2, 3]
    assert gone(before)


def test_an_abandoned_prefetch_stops_its_thread():
    before = prefetch_threads()
    steps = prefetch(lambda step: step, range(10**9))
    assert next(steps) == 0
    assert len(prefetch_threads()) == len(before) + 1
    steps.close()
    assert gone(before)
