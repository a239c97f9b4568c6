"""Tensors written in the safetensors format: a checkpoint of a directory, whole or not at all."""

import contextlib
import filecmp
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import Order, atomic_files, files_below
from fewshot_jax.models.huggingface.tensors import CODES, SURROGATE


class TensorSource(NamedTuple):
    """A tensor to be written; ``get()`` makes the array ``shape`` of ``dtype`` when its turn has come."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    get: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextlib.contextmanager
def atomic_checkpoint(
    directory: Path, *, stem: str = "model", key: str | None = None, gone: tuple[str, ...] = ()
) -> Iterator[Path]:
    """`atomic_files` for a directory with a checkpoint, which `write_checkpoint` writes, and the files beside it.

    The block writes everything to the directory that this yields. A reader finds the old checkpoint until the new
    one is complete, and never a mixture, also of weights and the files beside them. Where several files of the old
    one must be replaced, ``key`` (or the index) goes first and comes back last; if the machine stops in between,
    neither checkpoint is readable. Old files of the same stem go; tensors may be views on them.

    Args:
        directory: made if need be.
        stem: as of `write_checkpoint`.
        key: the file beside the weights without which nothing is read; the block writes it.
        gone: old files that say something of the old checkpoint, which go where the block does not write them.

    Raises:
        OSError: one file cannot be written; names ``directory``.
    """
    with atomic_files(directory, order=functools.partial(_order, stem=stem, key=key, gone=gone)) as partial:
        yield partial


def write_checkpoint(
    partial: Path, tensors: Iterable[TensorSource], *, stem: str = "model", max_shard_bytes: int = 5 * 2**30
) -> None:
    """Write tensors as a checkpoint, one of them in memory at a time.

    The files are ``{stem}.safetensors``, or, above ``max_shard_bytes`` of data, shards
    ``{stem}-00001-of-0000N.safetensors`` and their index; a larger tensor has a shard of its own.

    Args:
        partial: a directory, of `atomic_checkpoint`.
        tensors: in any order; those of a shard are made and stored from large to small items, which aligns them.
        stem: the start of the files' names, ``"adapter_model"`` for adapters.
        max_shard_bytes: of the tensors of a shard.

    Raises:
        OSError: a file cannot be written.
        ValueError: a name or dtype that the format has not, or an array that is not as announced.
    """
    shards = _split(tensors, max_shard_bytes)
    single, index = _deciding(stem)
    if len(shards) == 1:
        _write(partial / single, _serialized(shards[0]))
        return
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(partial / name, _serialized(shard))
    _write(partial / index, iter([_index(dict(zip(names, shards, strict=True)))]))


def write_tensors(file: Path, tensors: Iterable[TensorSource]) -> None:
    """Write tensors as one new file of a directory that its caller writes atomically.

    Args:
        file: that does not exist.
        tensors: as of `write_checkpoint`.

    Raises:
        OSError: it cannot be written.
        ValueError: as of `write_checkpoint`.
    """
    (shard,) = _split(tensors, math.inf)
    _write(file, _serialized(shard))


def _split(tensors: Iterable[TensorSource], limit: float) -> list[list[TensorSource]]:
    """Check what is to be written and divide it, in order, into shards of at most ``limit`` bytes or one tensor."""
    shards: list[list[TensorSource]] = [[]]
    room, seen = limit, {"__metadata__"}
    for name, dtype, shape, get in tensors:
        source = TensorSource(name, np.dtype(dtype), tuple(map(int, shape)), get)
        if name in seen or SURROGATE.search(name):
            raise ValueError(f"tensor {name!r}: the name stands twice, is reserved or is no text")
        if source.dtype not in CODES:
            raise ValueError(f"tensor {name!r}: cannot be stored as {dtype}, only as {', '.join(map(str, CODES))}")
        seen.add(name)
        if source.nbytes > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(source)
        room -= source.nbytes
    return [sorted(shard, key=lambda source: -source.dtype.itemsize) for shard in shards]


def _serialized(shard: Sequence[TensorSource]) -> Iterator[Any]:
    """The bytes of a file: the header, then one tensor after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for source in shard:
        start, stop = stop, stop + source.nbytes
        code = CODES[source.dtype]
        header[source.name] = {"dtype": code, "shape": source.shape, "data_offsets": [start, stop]}
    raw = strict_json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the data then start at a multiple of 8 bytes
    yield len(raw).to_bytes(8, "little") + raw
    for source in shard:
        yield _data(source, np.asarray(source.get()))


def _data(source: TensorSource, array: np.ndarray) -> np.ndarray:
    if (array.dtype, array.shape) != (source.dtype, source.shape):
        raise ValueError(
            f"tensor {source.name!r}: announced as {source.dtype} {source.shape}, made as {array.dtype} {array.shape}"
        )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _index(shards: Mapping[str, Sequence[TensorSource]]) -> bytes:
    record = {
        "metadata": {"total_size": sum(source.nbytes for shard in shards.values() for source in shard)},
        "weight_map": {source.name: file for file, shard in shards.items() for source in shard},
    }
    return strict_json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"


def _write(file: Path, chunks: Iterator[Any]) -> None:
    """Write a new file; the directory's writer forces it to disk."""
    with file.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            del chunk  # before the next one is made


def _deciding(stem: str) -> tuple[str, str]:
    """The names of a single file and of an index: where both are there, the single file is read."""
    return f"{stem}.safetensors", f"{stem}.safetensors.index.json"


def _order(partial: Path, directory: Path, *, stem: str, key: str | None, gone: tuple[str, ...]) -> Order:
    """How new files replace those of a directory, so that a reader never finds a mixture.

    The single file or the index alone decides which weights are read. Where it alone is replaced, this one step
    is the switch; an old single file, which comes before an index, is read until it is removed, first of all.
    """
    single, index = _deciding(stem)
    ours = re.compile(rf"{re.escape(stem)}(-[0-9]{{5}}-of-[0-9]{{5}})?\.safetensors|{re.escape(index)}")
    made, old = files_below(partial), {path.name for path in directory.iterdir() if ours.fullmatch(path.name)}
    weights = [name for name in made if ours.fullmatch(name)]
    deciding = index if index in weights else single
    shards = [name for name in weights if name != deciding]
    beside = [name for name in made if name not in weights and not _same(partial / name, directory / name)]
    old_texts = [name for name in gone if name not in made and (directory / name).is_file()]
    if not beside and not old_texts and not old.intersection(shards):
        return Order([], [*shards, deciding], sorted(old.difference(weights), key=lambda name: name != single))
    texts = [name for name in beside if name != key]
    first = [name for name in (key, index, single) if name is not None and (directory / name).is_file()]
    replaced = [
        name for name in (*old_texts, *texts, *sorted(old)) if name not in first and (directory / name).is_file()
    ]
    return Order([*first, *replaced], [*texts, *shards, deciding, *([key] if key is not None else [])])


def _same(new: Path, old: Path) -> bool:
    return old.is_file() and filecmp.cmp(new, old, shallow=False)
