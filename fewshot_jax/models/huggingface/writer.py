"""Tensors written in the safetensors format: a checkpoint of a directory, whole or not at all."""

import contextlib
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import naming, sync_directory
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


def write_checkpoint(
    directory: Path, tensors: Iterable[TensorSource], *, stem: str = "model", max_shard_bytes: int = 5 * 2**30
) -> None:
    """Write tensors as the checkpoint of a directory, whole or not at all, one of them in memory at a time.

    The files are ``{stem}.safetensors``, or, above ``max_shard_bytes`` of data, shards
    ``{stem}-00001-of-0000N.safetensors`` and their index; a larger tensor has a shard of its own.
    An earlier checkpoint of the same stem stays readable until the new one is complete, then it is
    removed; tensors may thus be views on it. If the machine stops while shards replace others of
    the same names, neither is readable, but never a mixture.

    Args:
        directory: made if need be.
        tensors: in any order; those of a shard are made and stored from large to small items, which aligns them.
        stem: the start of the files' names, ``"adapter_model"`` for adapters.
        max_shard_bytes: of the tensors of a shard.

    Raises:
        OSError: the directory cannot be written.
        ValueError: a name or dtype that the format has not, or an array that is not as announced.
    """
    shards = _split(tensors, max_shard_bytes)
    single, index, token = f"{stem}.safetensors", f"{stem}.safetensors.index.json", secrets.token_hex(4)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    contents: dict[str, Iterator[Any]] = dict(
        zip([single] if len(shards) == 1 else names, map(_serialized, shards), strict=True)
    )
    if len(shards) > 1:
        contents[index] = iter([_index(dict(zip(names, shards, strict=True)))])
    partials = {name: directory / f".{name}.{token}.partial" for name in contents}
    try:
        with naming(directory):
            directory.mkdir(parents=True, exist_ok=True)
            for name, chunks in contents.items():
                _write(partials[name], chunks)
            _switch(directory, partials, stem, token)
    finally:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


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
    """Write a new file and wait until the disk has it."""
    with file.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
            del chunk  # before the next one is made
        stream.flush()
        os.fsync(stream.fileno())


def _switch(directory: Path, partials: Mapping[str, Path], stem: str, token: str) -> None:
    """Give finished files their names, the deciding one last; remove the old checkpoint and what killed saves left.

    A reader sees the old checkpoint until the single file or the index is in place; an old single
    file, which comes before an index, until it is removed, first of all.
    """
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    ours = rf"{re.escape(stem)}(-[0-9]{{5}}-of-[0-9]{{5}})?\.safetensors|{re.escape(index)}"
    old = {path.name for path in directory.iterdir() if re.fullmatch(ours, path.name)}
    moves = [(partial, directory / name) for name, partial in partials.items()]
    # Shards that would replace others one by one: the old index must go first, and all come back on failure.
    if index in partials and (clash := old & partials.keys() - {index}):
        first = [name for name in (index, *sorted(clash)) if name in old]
        moves = [(directory / name, directory / f".{name}.{token}.old") for name in first] + moves
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise
    sync_directory(directory)
    stale = [
        path.name
        for path in directory.iterdir()
        if re.fullmatch(rf"{ours}|\.({ours})\.[0-9a-f]{{8}}\.(partial|old)", path.name) and path.name not in partials
    ]
    for name in sorted(stale, key=lambda name: name != single):
        os.unlink(directory / name)
    sync_directory(directory)
