"""The tensors of a Hugging Face checkpoint directory, read from the safetensors format.

A file is 8 bytes that hold the length of its header (little-endian), the header, a JSON object
``{name: {"dtype", "shape", "data_offsets"}}``, and the tensors without a gap. A checkpoint is one
file, or shards and an index that says which shard holds which tensor. Files come from strangers:
their headers are checked in full before anything is mapped, and pickles are never opened.
"""

import json
import math
import mmap
import os
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fewshot_jax.errors import UserError, require

# Native byte order is the format's, little-endian: jax runs nowhere else.
_DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
}
CODES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package
_MAX_RANK = 64  # numpy's
_MAX_BYTES = 2**60  # of a tensor whose axes of length 0 count as 1: numpy and safetensors overflow beyond it
_FIELDS = {"dtype", "shape", "data_offsets"}
SURROGATE = re.compile("[\ud800-\udfff]")
_FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
_AGAIN = "Download or save it again."

# Quotes what a file says in a message: of bounded length and depth, whatever it says.
_quote = reprlib.Repr()
_quote.maxstring, _quote.maxother, _quote.maxlist = 100, 100, 8


class TensorInfo(NamedTuple):
    """Where a tensor lies: bytes ``start`` to ``stop`` of a file, in C order."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Checkpoint:
    """The tensors of a directory, for as long as the ``with`` block lasts.

    It is ``{stem}.safetensors`` if that is there, else ``{stem}.safetensors.index.json`` and the
    shards it names. A file may be a symbolic link to anywhere, as in the Hub's cache, where the
    directory's owner made it; the index, which is data, can only name files of its own directory.

    Attributes:
        tensors: name -> TensorInfo, in the order in which they lie in the files.

    Raises:
        UserError: there is no such checkpoint, or a part of it is missing or damaged.
    """

    tensors: Mapping[str, TensorInfo]

    def __init__(self, directory: Path, *, stem: str = "model"):
        self.tensors = MappingProxyType(_find(Path(directory), stem))
        self._maps: dict[Path, mmap.mmap] = {}

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        # Not closed by force: a view that is still in use keeps its map alive.
        self._maps.clear()

    def view(self, name: str) -> np.ndarray:
        """A read-only array on the mapped file: it costs nothing until it is read.

        Raises:
            KeyError: there is no such tensor.
            UserError: the file has gone or shrunk since its header was read.
        """
        file, dtype, shape, start, stop = self.tensors[name]
        if file not in self._maps:
            try:
                with file.open("rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: it is empty by now
                raise UserError(f"{file}: cannot be mapped ({error})") from None
        mapped = self._maps[file]
        require(len(mapped) >= stop, f"{file}: has become shorter since its header was read. {_AGAIN}")
        return np.ndarray(shape, dtype, buffer=mapped, offset=start)

    def release(self, name: str) -> None:
        """Drop a tensor's pages from resident memory; its views stay valid and read them again when asked."""
        info = self.tensors[name]
        mapped = self._maps.get(info.file)
        if mapped is None or info.start == info.stop or not hasattr(mmap, "MADV_DONTNEED"):
            return
        # Whole pages: those shared with a neighbour cost it another read from the page cache.
        start = info.start - info.start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, info.stop - start)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read where the tensors of a file lie, and nothing but its header.

    Stricter than the safetensors package: a name that stands twice, a field too many, a blank
    before the header, or a shape that numpy cannot hold is refused.

    Returns:
        name -> TensorInfo, in the order in which they lie in the file.

    Raises:
        UserError: the file is missing, or is not a whole and sound safetensors file.
    """
    try:
        if not file.is_file():  # a pipe would block when opened
            what = "links to a file that is missing" if file.is_symlink() else "no such file"
            raise UserError(f"{file}: {'not a regular file' if file.exists() else what}. {_AGAIN}")
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            word = stream.read(8)
            length = int.from_bytes(word, "little")
            require(
                word != b"version ",
                f"{file}: a Git LFS pointer, not the file itself. Fetch it with 'git lfs pull'.",
            )
            require(len(word) == 8, f"{file}: has {size} bytes, too few for a safetensors file. {_AGAIN}")
            require(
                2 <= length <= min(_MAX_HEADER, size - 8),
                f"{file}: claims a header of {length} bytes in a file of {size}; it is truncated, damaged or "
                f"not a safetensors file. {_AGAIN}",
            )
            raw = stream.read(length)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    require(raw[:1] == b"{", f"{file}: the header does not start with '{{'. {_AGAIN}")
    header = _parse(file, raw, "header")
    metadata = header.pop("__metadata__", {})
    require(
        isinstance(metadata, dict)
        and not any(not isinstance(text, str) or SURROGATE.search(text) for pair in metadata.items() for text in pair),
        f"{file}: the header's __metadata__ is not an object of strings. {_AGAIN}",
    )
    tensors = {name: _tensor(file, name, entry, 8 + length) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_layout(tensors, 8 + length, size, file)
    return tensors


def _parse(file: Path, raw: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object from a stranger, without Python's leniencies."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{file}: the {what} names {_quote.repr(name)} twice. {_AGAIN}")
        return record

    def constant(name: str) -> None:
        raise UserError(f"{file}: the {what} is not JSON ({name} is no number there). {_AGAIN}")

    def integer(text: str) -> int | float:
        # 20 digits hold 64 bits. Anything longer, and -0, must not become an int without an effort or at all.
        return int(text) if len(text) <= 20 and text != "-0" else float(text)

    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=constant, parse_int=integer)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: the {what} is not UTF-8 (at byte {error.start} of it). {_AGAIN}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: the {what} is not JSON ({error.msg}, character {error.pos}). {_AGAIN}") from None
    except RecursionError:
        raise UserError(f"{file}: the {what} is nested too deeply. {_AGAIN}") from None
    require(isinstance(value, dict), f"{file}: the {what} is not a JSON object. {_AGAIN}")
    return value


def _tensor(file: Path, name: str, entry: Any, offset: int) -> TensorInfo:
    """Check one entry of a header; ``offset`` is where the data begin."""
    where = f"{file}: tensor {_quote.repr(name)}"
    require(not SURROGATE.search(name), f"{where}: half a character in its name. {_AGAIN}")
    require(
        isinstance(entry, dict) and entry.keys() == _FIELDS,
        f"{where}: is not described by dtype, shape and data_offsets alone. {_AGAIN}",
    )
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise UserError(f"{where}: dtype {_quote.repr(code)} is not one of {', '.join(_DTYPES)}")
    require(_naturals(shape), f"{where}: shape {_quote.repr(shape)} is not a list of integers from 0. {_AGAIN}")
    require(
        len(shape) <= _MAX_RANK and math.prod(max(length, 1) for length in shape) * dtype.itemsize < _MAX_BYTES,
        f"{where}: shape {_quote.repr(shape)} is more than an array can have. {_AGAIN}",
    )
    require(
        _naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1],
        f"{where}: data_offsets {_quote.repr(offsets)} are not two integers from 0 in order. {_AGAIN}",
    )
    (start, stop), needed = offsets, math.prod(shape) * dtype.itemsize
    require(
        stop - start == needed,
        f"{where}: data_offsets hold {stop - start} bytes where dtype and shape need {needed}. {_AGAIN}",
    )
    return TensorInfo(file, dtype, tuple(shape), offset + start, offset + stop)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)  # True is an int


def _check_layout(tensors: Mapping[str, TensorInfo], begin: int, size: int, file: Path) -> None:
    """Tensors, in order, must fill a file from its header to its end."""
    for name, info in tensors.items():
        where = f"{file}: tensor {_quote.repr(name)}"
        require(info.stop <= size, f"{where}: ends at byte {info.stop} of a file of {size}: truncated. {_AGAIN}")
        require(info.start >= begin, f"{where}: overlaps another one. {_AGAIN}")
        require(info.start == begin, f"{where}: follows {info.start - begin} bytes that are no tensor's. {_AGAIN}")
        begin = info.stop
    require(begin == size, f"{file}: {size - begin} bytes after the last tensor. {_AGAIN}")


def _find(directory: Path, stem: str) -> dict[str, TensorInfo]:
    """The tensors of a directory's checkpoint, file by file."""
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    try:
        if not directory.is_dir():
            raise UserError(
                f"{directory}: a file. Name its directory."
                if directory.exists()
                else f"{directory}: no such directory. Download the model first: hf download NAME --local-dir DIRECTORY"
            )
        if os.path.lexists(directory / single):
            return read_header(directory / single)
        if not os.path.lexists(directory / index):
            raise UserError(_nothing(directory, single, index))
        return _shards(directory, directory / index)
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror})") from None


def _nothing(directory: Path, single: str, index: str) -> str:
    """Say why a directory holds no checkpoint, and what to do."""
    names = sorted(path.name for path in directory.iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    foreign = [name for name in names if name.endswith(_FOREIGN)]
    if shards:
        return f"{directory}: holds {_quote.repr(shards[0])}, but neither {single} nor {index}. Add the missing one."
    if foreign and single.startswith("adapter"):
        return (
            f"{directory}: holds {_quote.repr(foreign[0])}, but not {single}; no other format is read, pickles least "
            "of all, as they can run code. Convert it where torch is installed: load it with peft's "
            f"PeftModel.from_pretrained(base, '{directory}') and call save_pretrained('NEW')"
        )
    if foreign:
        return (
            f"{directory}: holds {_quote.repr(foreign[0])}, but not {single}; no other format is read, pickles least "
            'of all, as they can run code. Convert it where torch is installed: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained('{directory}').save_pretrained('NEW')\", with the class "
            "of the model"
        )
    return (
        f"{directory}: holds no model, neither {single} nor {index}. Give the directory that holds the weights, or "
        "download them: hf download NAME --local-dir DIRECTORY"
    )


def _shards(directory: Path, index: Path) -> dict[str, TensorInfo]:
    """The tensors of the shards that an index names.

    It must name all that the shards hold: if it does not, they are not of one save, and other
    readers, which load all they find, would read another model than we.
    """
    require(index.is_file(), f"{index}: not a file, or links to one that is missing. {_AGAIN}")
    require(index.stat().st_size <= _MAX_HEADER, f"{index}: larger than {_MAX_HEADER} bytes. {_AGAIN}")
    weight_map = _parse(index, index.read_bytes(), "index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: has no weight_map {{tensor: file}}. {_AGAIN}")
    for shard in weight_map.values():
        # Slashes of both kinds and drives lead elsewhere; what is not printable cannot be shown either.
        plain = isinstance(shard, str) and shard.isprintable() and not set(shard) & set("/\\:")
        require(
            plain and shard.endswith(".safetensors"),
            f"{index}: {_quote.repr(shard)} is not the plain name of a .safetensors file beside it",
        )
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        header = read_header(directory / shard)
        named = {name for name, file in weight_map.items() if file == shard}
        if missing := sorted(named - header.keys()):
            raise UserError(f"{directory / shard}: lacks tensor {_quote.repr(missing[0])} of {index.name}. {_AGAIN}")
        if extra := sorted(header.keys() - named):
            raise UserError(
                f"{directory / shard}: holds tensor {_quote.repr(extra[0])}, which {index.name} does not place there: "
                "they are not of one save. Download or save all of them again."
            )
        tensors |= header
    return tensors
