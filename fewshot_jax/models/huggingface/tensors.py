"""The tensors of a Hugging Face checkpoint directory, read from the safetensors format.

A checkpoint is one file, or shards and an index that says which shard holds which tensor. The
safetensors package reads and checks the headers: a file that it cannot read is refused here too.
The tensors are mapped here, since the package's ``get_tensor`` copies, knows no float8 in numpy, and cannot
give the pages of a tensor back (`Checkpoint.release`, which keeps the memory of loading at one tensor).
Files come from strangers: nothing is mapped before its header was checked, and pickles are never opened.
"""

import json
import math
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
from safetensors import SafetensorError, safe_open

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.mapped_files import MappedTensors, first_bytes

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
_MAX_INDEX = 100_000_000  # bytes; the limit of the safetensors package for a header
_MAX_RANK = 64  # numpy's
_MAX_BYTES = 2**60  # of a tensor whose axes of length 0 count as 1: numpy overflows beyond it
SURROGATE = re.compile("[\ud800-\udfff]")
_FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
_AGAIN = "Download or save it again."

# Quotes what a file says in a message: of bounded length and depth, whatever it says.
_quote = reprlib.Repr()
_quote.maxstring, _quote.maxother, _quote.maxlist = 100, 100, 8
_reason = reprlib.Repr()
_reason.maxstring = 250


class TensorInfo(NamedTuple):
    """Where a tensor lies: bytes ``start`` to ``stop`` of a file, in C order."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Checkpoint(MappedTensors):
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
        super().__init__()
        self.tensors = MappingProxyType(_find(Path(directory), stem))

    def view(self, name: str) -> np.ndarray:
        """A read-only array on the mapped file: it costs nothing until it is read.

        Raises:
            KeyError: there is no such tensor.
            UserError: the file has gone or shrunk since its header was read.
        """
        return self._files.view(*self.tensors[name])

    def release(self, name: str) -> None:
        """Drop a tensor's pages from resident memory; its views stay valid and read them again when asked."""
        info = self.tensors[name]
        self._files.release(info.file, info.start, info.stop)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read where the tensors of a file lie, and nothing but its header, by the safetensors package.

    The package refuses a header whose tensors do not fill the file from the header to its end, in order; that gives
    the offsets, which it does not tell.

    Returns:
        name -> TensorInfo, in the order in which they lie in the file.

    Raises:
        UserError: the file is missing, or is not a whole and sound safetensors file, or has a tensor that numpy
            cannot hold.
    """
    first_bytes(file, _AGAIN)
    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
            described = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        reason = _reason.repr(str(error).removeprefix("Error while deserializing header: "))
        raise UserError(f"{file}: truncated, damaged or not a safetensors file ({reason}). {_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    dtypes = {name: _dtype_of(file, name, *description) for name, description in described.items()}
    sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, (_, shape) in described.items()}
    start = file.stat().st_size - sum(sizes.values())
    tensors = {}
    for name, (_, shape) in described.items():
        tensors[name] = TensorInfo(file, dtypes[name], shape, start, start + sizes[name])
        start += sizes[name]
    return tensors


def _dtype_of(file: Path, name: str, code: str, shape: tuple[int, ...]) -> np.dtype:
    """Return the dtype of a tensor; refuse what numpy cannot hold."""
    where = f"{file}: tensor {_quote.repr(name)}"
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise UserError(f"{where}: dtype {_quote.repr(code)} is not one of {', '.join(_DTYPES)}")
    require(
        len(shape) <= _MAX_RANK and math.prod(max(length, 1) for length in shape) * dtype.itemsize < _MAX_BYTES,
        f"{where}: shape {_quote.repr(list(shape))} is more than an array can have. {_AGAIN}",
    )
    return dtype


def _parse_index(file: Path, raw: bytes) -> dict[str, Any]:
    """Parse the index of a checkpoint: JSON from a stranger, without Python's leniencies."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            name = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{file}: the index names {_quote.repr(name)} twice. {_AGAIN}")
        return record

    def constant(name: str) -> None:
        raise UserError(f"{file}: the index is not JSON ({name} is no number there). {_AGAIN}")

    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=constant, parse_int=float)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: the index is not UTF-8 (at byte {error.start} of it). {_AGAIN}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: the index is not JSON ({error.msg}, character {error.pos}). {_AGAIN}") from None
    except RecursionError:
        raise UserError(f"{file}: the index is nested too deeply. {_AGAIN}") from None
    require(isinstance(value, dict), f"{file}: the index is not a JSON object. {_AGAIN}")
    return value


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
    require(index.stat().st_size <= _MAX_INDEX, f"{index}: larger than {_MAX_INDEX} bytes. {_AGAIN}")
    weight_map = _parse_index(index, index.read_bytes()).get("weight_map")
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
