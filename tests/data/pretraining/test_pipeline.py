"""Batches: a function of seed and step, every window once an epoch, the same with processes."""

import functools

import grain
import jax
import numpy as np
import pytest

from fewshot_jax.data.pretraining.masking import MaskTokens, mask_tokens
from fewshot_jax.data.pretraining.packing import Packing, pack
from fewshot_jax.data.pretraining.pipeline import held_out_batches, read_ahead, training_batches

SEQUENCES, WINDOWS = 4, 20
TOKENS = MaskTokens(4, (0, 1, 2, 3, 4), 1000)
ask = functools.partial(mask_tokens, tokens=TOKENS, rate=0.15)


def windows(count=WINDOWS, **options):
    """Windows of one document each."""
    return pack([[100 + n] * 15 for n in range(count)], Packing(16, 3), **options)


def batches(seed=0, **options):
    return training_batches(windows(), ask, sequences=SEQUENCES, seed=seed, **options)


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def numbers(batch):
    """Of the windows; every token of one tells it."""
    return batch["target"][:, 0].tolist()


def test_every_epoch_has_every_window_once_in_another_order():
    stream = batches()
    per_epoch = WINDOWS // SEQUENCES
    epochs = [[n for step in range(e * per_epoch, (e + 1) * per_epoch) for n in numbers(stream[step])] for e in (0, 1)]
    for epoch in epochs:
        assert sorted(epoch) == [100 + n for n in range(WINDOWS)]
    assert epochs[0] != epochs[1]


def test_masks_are_new_in_every_epoch():
    one = training_batches(windows(SEQUENCES), ask, sequences=SEQUENCES, seed=0)
    hidden = [one[epoch]["predicted"][np.argsort(numbers(one[epoch]))] for epoch in range(3)]
    assert not np.array_equal(hidden[0], hidden[1])
    assert not np.array_equal(hidden[1], hidden[2])


def test_a_batch_is_a_function_of_seed_and_step():
    whole = list(read_ahead(batches(), range(0, 12)))
    assert len(whole) == 12
    assert all(map(same, whole[5:], read_ahead(batches(), range(5, 12))))
    assert same(whole[7], batches()[7])
    assert not same(whole[7], batches(seed=1)[7])
    assert not list(read_ahead(batches(), range(3, 3)))


def test_grain_can_save_and_restore_its_place():
    stream = batches().slice(slice(0, 10)).to_iter_dataset()
    iterator = iter(stream)
    for _ in range(4):
        next(iterator)
    place, wanted = iterator.get_state(), next(iterator)
    again = iter(stream)
    again.set_state(place)
    assert same(next(again), wanted)
    assert same(wanted, batches()[4])
    assert isinstance(stream, grain.IterDataset)


@pytest.mark.slow
def test_processes_give_the_same_batches(tmp_path):
    mapped = windows(directory=tmp_path)
    stream = training_batches(mapped, ask, sequences=SEQUENCES, seed=0)
    assert all(map(same, read_ahead(stream, range(3, 9), workers=2), read_ahead(stream, range(3, 9))))


def test_a_validation_is_the_same_every_time_and_counts_a_window_once():
    held_out = windows(10)
    one, other = (held_out_batches(held_out, ask, sequences=SEQUENCES, batches=5, seed=0) for _ in range(2))
    assert same(one, other)
    assert [batch["input_ids"].shape for batch in one] == [(SEQUENCES, 16)] * 3
    counted = [n for batch in one for n, w in zip(numbers(batch), batch["weight"].any(axis=1), strict=True) if w]
    assert sorted(counted) == [100 + n for n in range(10)]
    few = held_out_batches(held_out, ask, sequences=SEQUENCES, batches=2, seed=0)
    assert len({n for batch in few for n in numbers(batch)}) == 8
