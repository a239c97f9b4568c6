"""A tensor of a GGUF file: where it lies, and its numbers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fewshot_jax.models.mapped_files import MappedFiles

_CHUNK = 2**18  # numbers that are dequantised at once
PLAIN = {  # kinds of tensors that are arrays as they lie there
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}


class StoredTensor(NamedTuple):
    """A tensor of a file: bytes ``start`` to ``stop``, in C order.

    Attributes:
        dtype: of its numbers once they are dequantised.
        shape: as numpy has it, the last axis contiguous; the file lists the axes the other way round.
        kind: name of the type of ggml, as ``"Q4_K"``.
    """

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int
    kind: str


@functools.cache
def block_of(kind: str) -> tuple[int, int]:
    """The numbers in a block of a type, and its bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]]


@functools.cache
def _dequantiser(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from rows of bytes, ``[rows, bytes]`` uint8, to float32 numbers ``[rows, numbers]``."""
    from gguf import GGMLQuantizationType, quants

    return functools.partial(quants.dequantize, qtype=GGMLQuantizationType[kind])


@functools.cache
def can_dequantise(kind: str) -> bool:
    """Whether the gguf package knows a type of quantised tensors: it is tried on one block of zeros."""
    try:
        _dequantiser(kind)(np.zeros((1, block_of(kind)[1]), np.uint8))
    except NotImplementedError:
        return False
    return True


def dequantised(files: MappedFiles, tensor: StoredTensor) -> np.ndarray:
    """The numbers of a tensor: float32 if it is quantised, otherwise a view on the file.

    Blocks do not depend on each other: some after the others are dequantised, as few rows as fill a processor's cache.
    """
    if tensor.kind in PLAIN:
        return files.view(*tensor[:5])
    block, size = block_of(tensor.kind)
    raw = files.view(tensor.file, np.dtype(np.uint8), (tensor.stop - tensor.start,), tensor.start, tensor.stop)
    out = np.empty(len(raw) // size * block, np.float32)
    step, dequantise = max(1, _CHUNK // block), _dequantiser(tensor.kind)
    for first in range(0, len(raw) // size, step):
        rows = raw[first * size : (first + step) * size]
        with np.errstate(all="ignore"):  # scales of a damaged file may be infinite
            out[first * block : (first + step) * block] = dequantise(rows[None])[0]
    return out.reshape(tensor.shape)


def read_tensor(tensor: StoredTensor) -> np.ndarray:
    """The numbers of a tensor, read from its file."""
    return np.array(dequantised(MappedFiles(), tensor))
