"""Packing: nothing of a document is lost, documents stay apart, hardly a slot is empty."""

import pickle

import numpy as np
import pytest

from fewshot_jax.data.pretraining.packing import Packing, pack, read_windows
from fewshot_jax.errors import UserError

PAD, END, START = 0, 3, 2


def documents(seed=0, count=50):
    rng = np.random.default_rng(seed)
    return [rng.integers(10, 300, size=rng.integers(1, 40)) for _ in range(count)]


def all_rows(windows):
    return windows.rows(np.arange(len(windows.tokens)))


@pytest.mark.parametrize("start", [None, START])
@pytest.mark.parametrize("length", [8, 16, 33])
def test_every_document_comes_back(length, start):
    texts = documents()
    windows = pack(texts, Packing(length, END, start, PAD))
    rows = all_rows(windows)
    tokens, segment = rows["input_ids"], rows["segment"]
    if start is not None:
        assert (tokens[:, 0] == START).all(), "a window that begins inside a document begins as a text does"
    stream = tokens[(segment > 0) & (tokens != START)]
    assert stream.tolist() == [token for text in texts for token in [*text.tolist(), END]]
    assert windows.real == (segment > 0).sum()
    assert (segment[:-1] > 0).all(), "padding stands in the last window alone"


def test_segments_and_positions_restart_with_a_document():
    rows = all_rows(pack([[10, 11], [12], [13, 14, 15, 16, 17]], Packing(8, END, START, PAD)))
    assert rows["input_ids"].tolist() == [[2, 10, 11, 3, 2, 12, 3, 2], [2, 13, 14, 15, 16, 17, 3, 0]]
    assert rows["segment"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 1, 1, 1, 0]]
    assert rows["position"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert rows["position"][1, :7].tolist() == list(range(7))


def test_the_packing_is_dense():
    texts = documents(count=400)
    padded = sum(map(len, texts)) / (len(texts) * max(map(len, texts)))
    assert padded < 0.6
    assert pack(texts, Packing(32, END)).efficiency > 0.99
    assert pack(texts, Packing(32, END), full=True).efficiency == 1


def test_a_full_packing_ends_as_it_begins():
    texts = documents(count=20)
    padded, full = pack(texts, Packing(16, END, START, PAD)), pack(texts, Packing(16, END, START, PAD), full=True)
    assert np.array_equal(padded.tokens[:-1], full.tokens[:-1])
    empty = padded.tokens.size - padded.real
    assert 0 < empty < 16
    assert np.array_equal(full.tokens[-1, 16 - empty :], full.tokens[0, :empty])
    assert (all_rows(full)["segment"] > 0).all()
    assert all_rows(full)["position"][-1, 16 - empty] == 0


def test_a_single_window_keeps_its_padding():
    windows = pack([[10, 11]], Packing(8, END), full=True)
    assert windows.efficiency == 3 / 8
    assert all_rows(windows)["segment"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(("size", "dtype"), [(300, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32)])
def test_windows_on_disk_are_those_in_memory(tmp_path, size, dtype):
    packing = Packing(16, END, START, PAD, size)
    texts = [*documents(), [size - 1]]
    held, mapped = pack(texts, packing), pack(texts, packing, directory=tmp_path / "windows")
    assert mapped.tokens.dtype == dtype
    assert held.real == mapped.real
    for one, other in zip(held[:2], mapped[:2], strict=True):
        assert np.array_equal(one, other)
    assert size - 1 in all_rows(mapped)["input_ids"]


def test_a_worker_is_sent_the_names_of_the_files(tmp_path):
    texts = documents(count=2000)
    mapped, held = pack(texts, Packing(16, END), directory=tmp_path), pack(texts, Packing(16, END))
    for windows, most in ((mapped, 1000), (held, 10_000_000)):
        sent = pickle.dumps(windows)
        assert len(sent) < most
        there = pickle.loads(sent)
        assert all(np.array_equal(a, b) for a, b in zip(windows, there, strict=True))


def test_torn_windows_are_refused(tmp_path):
    packing = Packing(16, END)
    windows = pack(documents(), packing, directory=tmp_path)
    with pytest.raises(UserError, match=r"cannot be read.*start a new run"):
        read_windows(tmp_path, packing, windows.real + 100)
    (tmp_path / "tokens.bin").write_bytes(b"123")
    with pytest.raises(UserError, match="cannot be read"):
        read_windows(tmp_path, packing, windows.real)
