"""Numbers of tensors: those that the gguf package dequantises, a piece at a time."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGUFWriter, quants

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf import stored_tensor
from fewshot_jax.models.gguf.file import read_file
from fewshot_jax.models.gguf.stored_tensor import dequantised, read_tensor
from fewshot_jax.models.mapped_files import MappedFiles
from tests.models.gguf.tiny_gguf import write

ROWS, BLOCKS = 3, 2


def works(function, kind, array):
    try:
        function(array, kind)
    except NotImplementedError:
        return False
    return True


READABLE = [
    kind
    for kind, (_, size) in GGML_QUANT_SIZES.items()
    if kind.name not in stored_tensor.PLAIN and works(quants.dequantize, kind, np.zeros((1, size), np.uint8))
]
WRITABLE = [
    kind for kind in READABLE if works(quants.quantize, kind, np.zeros((1, GGML_QUANT_SIZES[kind][0]), np.float32))
]
# The largest error of a number between -1 and 1: half a step of its block, at most.
ERRORS = {
    "Q4_0": 0.13,
    "Q4_1": 0.07,
    "Q5_0": 0.07,
    "Q5_1": 0.04,
    "Q8_0": 0.01,
    "TQ1_0": 0.5,
    "TQ2_0": 0.5,
    "MXFP4": 0.26,
}


def test_most_types_are_readable():
    assert len(READABLE) >= 20 and {"Q4_K", "Q5_K", "Q6_K", "IQ4_XS"} <= {kind.name for kind in READABLE}


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_any_blocks_are_those_of_the_gguf_package(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_tensor, "_CHUNK", 2 * GGML_QUANT_SIZES[kind][0] + 1)
    raw = np.random.default_rng(0).integers(0, 256, (ROWS, BLOCKS * GGML_QUANT_SIZES[kind][1]), np.uint8)
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("w", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = read_file(tmp_path / "a.gguf").tensors["w"]
    with np.errstate(all="ignore"):
        expected = quants.dequantize(raw, kind)
    found = read_tensor(tensor)
    assert found.dtype == np.float32 and found.shape == tensor.shape == (ROWS, BLOCKS * GGML_QUANT_SIZES[kind][0])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_what_was_quantised_is_near(kind, tmp_path):
    array = np.random.default_rng(0).uniform(-1, 1, (ROWS, BLOCKS * GGML_QUANT_SIZES[kind][0])).astype(np.float32)
    path = write(tmp_path / "a.gguf", "llama", {}, {"w": array}, kinds={"w": kind.name})
    found = read_tensor(read_file(path).tensors["w"])
    assert 0 < np.abs(found - array).max() < ERRORS[kind.name]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, np.int16, np.int32, np.int64])
def test_other_tensors_are_views_on_the_file(dtype, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    tensor = read_file(write(tmp_path / "a.gguf", "llama", {}, {"w": array})).tensors["w"]
    found = dequantised(MappedFiles(), tensor)
    assert found.dtype == dtype and not found.flags.owndata and not found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(tmp_path):
    path = write(tmp_path / "a.gguf", "llama", {}, {"w": np.ones((2, 32), np.float32)}, kinds={"w": "Q8_0"})
    tensor = read_file(path).tensors["w"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="has become shorter"):
        read_tensor(tensor)
