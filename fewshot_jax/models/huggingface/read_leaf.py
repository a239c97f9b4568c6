"""One leaf of a parameter tree, read from the tensors of a checkpoint: cast, sharded, a tensor at a time."""

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fewshot_jax.models.huggingface.mapping import Rule
from fewshot_jax.models.mapped_files import Tensors

_CACHE_LINE = 64  # bytes
_THREADS = min(4, os.cpu_count() or 1)  # copy layers at once
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


class Source(NamedTuple):
    """Where a leaf, or one entry along its leading axes, lies: the tensor, the index of the entry and the rule."""

    tensor: str
    entry: tuple[int, ...]
    rule: Rule


def read_leaf(
    checkpoint: Tensors, sources: list[Source], shape: tuple[int, ...], dtype: np.dtype, place: jax.sharding.Sharding
) -> jax.Array:
    """A leaf, of which every device is given its own part."""
    leading = sources[0].rule.leading
    entries = {source.entry: source for source in sources}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        ranges = [range(*one.indices(length)) for one, length in zip(index, shape, strict=True)]
        out = _pages(tuple(map(len, ranges)), dtype)

        def fill(entry: tuple[int, ...]) -> None:
            key: Any = (*entry, ...)  # a view, of a scalar too
            here, place = out[key], tuple(along[i] for along, i in zip(ranges, entry, strict=False))
            if place not in entries:
                here[...] = 1  # a norm that the first layer does not have
                return
            tensor, _, rule = entries[place]
            _copy(here, rule.to_leaf(checkpoint.view(tensor), shape[leading:])[index[leading:]])
            checkpoint.release(tensor)

        with ThreadPoolExecutor(_THREADS) as pool:  # numpy alone works in them, and lets go of the interpreter's lock
            list(pool.map(fill, np.ndindex(out.shape[:leading])))
        return out

    return jax.make_array_from_callback(shape, place, part)


def _pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros in pages of their own: from such an address a CPU device can take an array over as it is.

    Not numpy's memory, for which it asks huge pages: a virtual machine may have to fetch those from its host first.
    """
    count = int(np.prod(shape, dtype=np.int64))
    pages = mmap.mmap(-1, max(count * dtype.itemsize, 1), **_PRIVATE)
    return np.frombuffer(pages, dtype, count=count).reshape(shape)


def _copy(out: np.ndarray, view: np.ndarray) -> None:
    """Copy and cast. A transposed matrix goes in blocks of columns that fill one cache line of the output."""
    if view.ndim < 2 or view.strides[-1] <= view.strides[0]:
        out[...] = view
    elif view.ndim == 3 and view.strides[0] < view.strides[1]:  # [inputs, heads, features]: columns have two axes
        for head in range(view.shape[1]):
            _copy(out[:, head], view[:, head])
    else:
        columns = max(1, _CACHE_LINE // out.itemsize)
        for start in range(0, view.shape[-1], columns):
            out[..., start : start + columns] = view[..., start : start + columns]
