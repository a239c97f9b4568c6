"""The header of a GGUF file: its metadata, and where its tensors lie.

Files come from strangers, so every count, length and offset is checked against the size of the file before anything
is allocated. The reader of the gguf package does not do that (an array's length of 2^60 keeps it busy for ever);
its constants say what each type of value and of tensor is.

References:
    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import functools
import math
import mmap
import re
import reprlib
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.gguf.stored_tensor import PLAIN, StoredTensor, block_of, can_dequantise
from fewshot_jax.models.mapped_files import first_bytes

AGAIN = "Download it again."
_VERSIONS = (2, 3)
_MAX_RANK = 4  # ggml's
_LENGTH = struct.Struct("<Q")  # of a string
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

_short = reprlib.Repr()
_short.maxstring, _short.maxother = 100, 100
quote = _short.repr  # what a file says, of bounded length


class GGUFFile(NamedTuple):
    """What the headers of a model's files say.

    Attributes:
        metadata: key -> bool, int, float, str, list of str, or array of numbers.
        tensors: name -> StoredTensor.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file, there or not; a directory with such a name is none."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def read_file(path: Path) -> GGUFFile:
    """Read the header of a file, and of the further parts of a model that is split into several.

    Raises:
        UserError: the file is missing, damaged, truncated, or holds tensors of a type that cannot be read; or it is
            one part of a model whose other parts are not beside it.
    """
    first = _read_one(path)
    count = first.metadata.get("split.count", 1)
    if count in (0, 1):
        return first
    named = _PART.fullmatch(path.name)
    if named is None or count != int(named["count"]):
        raise UserError(
            f"{path}: one of {quote(count)} parts of a model, and its name does not end as "
            "'-00001-of-00002.gguf' does. Give it and the other parts their own names again"
        )
    if int(named["number"]) != 1:
        raise UserError(f"{path}: give the first part, {named['stem']}-00001-of-{named['count']}.gguf")
    tensors = dict(first.tensors)
    for number in range(2, int(named["count"]) + 1):
        part = _read_one(path.with_name(f"{named['stem']}-{number:05d}-of-{named['count']}.gguf"))
        for name in part.tensors:
            require(name not in tensors, f"{part.path}: tensor {quote(name)} is in two parts. {AGAIN}")
        tensors |= part.tensors
    return first._replace(tensors=MappingProxyType(tensors))


def _read_one(path: Path) -> GGUFFile:
    """Read the header of one file."""
    magic = first_bytes(path, "Give a .gguf file that exists")
    require(len(magic) == 8 and magic[:4] == b"GGUF", f"{path}: not a GGUF file, or truncated. {AGAIN}")
    try:
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    with mapped:
        return _Header(path, mapped).read()


class _Header:
    """A cursor over the header of a mapped file."""

    def __init__(self, path: Path, mapped: mmap.mmap):
        self.path, self._mapped, self._at, self._size = path, mapped, 4, len(mapped)

    def read(self) -> GGUFFile:
        version = self._number("<I")
        if version & 0xFFFF == 0:
            raise UserError(f"{self.path}: written for big-endian machines, which is not supported. Take another file")
        require(
            version in _VERSIONS,
            f"{self.path}: version {version} of the format is not supported, only 2 and 3. Take a file of this version",
        )
        tensors, pairs = self._number("<Q"), self._number("<Q")
        metadata: dict[str, Any] = {}
        # The least that a pair and a tensor's entry can take: a string's length, a type, a value; ... rank, offset.
        for _ in range(self._countable(pairs, 8 + 4 + 1, "metadata values")):
            key = self._string("a key of the metadata")
            require(key not in metadata, f"{self.path}: the metadata has {quote(key)} twice. {AGAIN}")
            metadata[key] = self._value(key, self._number("<I"))
        infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(self._countable(tensors, 8 + 4 + 4 + 8, "tensors")):
            name = self._string("a tensor's name")
            require(name not in infos, f"{self.path}: holds tensor {quote(name)} twice. {AGAIN}")
            infos[name] = self._info(name)
        return GGUFFile(self.path, MappingProxyType(metadata), MappingProxyType(self._placed(infos, metadata)))

    def _countable(self, count: int, least: int, what: str) -> int:
        """A number of things, each of which takes at least some bytes of what is left of the file."""
        left = self._size - self._at
        require(count * least <= left, f"{self.path}: truncated or damaged (says that {count} {what} follow). {AGAIN}")
        return count

    def _take(self, size: int) -> int:
        """Move the cursor; return where it was."""
        start, self._at = self._at, self._at + size
        if self._at > self._size:
            raise UserError(f"{self.path}: truncated or damaged (its header does not end). {AGAIN}")
        return start

    def _number(self, code: str) -> Any:
        return struct.unpack_from(code, self._mapped, self._take(struct.calcsize(code)))[0]

    def _string(self, what: str) -> str:
        length = _LENGTH.unpack_from(self._mapped, self._take(8))[0]
        start = self._take(length)
        try:
            return self._mapped[start : self._at].decode()
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: {what} is not UTF-8. {AGAIN}") from None

    def _value(self, key: str, code: int) -> Any:
        """A value of the metadata."""
        kind = _kinds_of_values().get(code)
        if kind is None:
            raise UserError(f"{self.path}: metadata {quote(key)}: unknown type of value {code}. {AGAIN}")
        if kind == "STRING":
            return self._string(f"metadata {quote(key)}")
        if kind != "ARRAY":
            value = np.frombuffer(self._mapped, kind, 1, self._take(kind.itemsize))[0]
            return float(str(value)) if kind == np.float32 else value.item()  # 1e-05 as it was written
        of, count = _kinds_of_values().get(self._number("<I")), self._number("<Q")
        if of is None or of == "ARRAY":
            raise UserError(f"{self.path}: metadata {quote(key)}: an array of an unknown type. {AGAIN}")
        if of == "STRING":
            what = f"metadata {quote(key)}"
            return [self._string(what) for _ in range(self._countable(count, 8, "strings"))]
        start = self._take(self._countable(count, of.itemsize, "numbers") * of.itemsize)
        return np.frombuffer(self._mapped, of, count, start).copy()  # the map is closed after the header

    def _info(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """Shape, type and offset of a tensor."""
        rank = self._number("<I")
        require(rank <= _MAX_RANK, f"{self.path}: tensor {quote(name)} has {rank} axes. {AGAIN}")
        shape = tuple(self._number("<Q") for _ in range(rank))[::-1]
        return shape, self._number("<I"), self._number("<Q")

    def _placed(
        self, infos: Mapping[str, tuple[tuple[int, ...], int, int]], metadata: Mapping[str, Any]
    ) -> dict[str, StoredTensor]:
        """The tensors of a file: each lies in it, and none over another."""
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise UserError(f"{self.path}: general.alignment={quote(alignment)} is no power of two. {AGAIN}")
        data = -(-self._at // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, (shape, code, offset) in infos.items():
            where = f"{self.path}: tensor {quote(name)}"
            kind, block, size = _kind_of_tensor(where, code)
            row = shape[-1] if shape else 1
            require(row % block == 0, f"{where} has rows of {row} numbers, no multiple of {kind}'s {block}. {AGAIN}")
            start, stop = data + offset, data + offset + math.prod(shape) // block * size
            require(offset % alignment == 0, f"{where} is not aligned to {alignment} bytes. {AGAIN}")
            require(stop <= self._size, f"{where} ends behind the file: truncated or damaged. {AGAIN}")
            tensors[name] = StoredTensor(self.path, PLAIN.get(kind, PLAIN["F32"]), shape, start, stop, kind)
        end, before = data, ""
        for name, tensor in sorted(tensors.items(), key=lambda pair: pair[1][3:5]):
            both = f"tensors {quote(before)} and {quote(name)}"
            require(tensor.start >= end or tensor.start == tensor.stop, f"{self.path}: {both} overlap. {AGAIN}")
            end, before = max(end, tensor.stop), name
        return tensors


@functools.cache
def _kinds_of_values() -> dict[int, Any]:
    """The types of metadata: ``"STRING"``, ``"ARRAY"``, or the dtype of a number."""
    from gguf import GGUFValueType as Kind

    numbers = {"UINT": "u", "INT": "i", "FLOAT": "f"}
    found: dict[int, Any] = {}
    for kind in Kind:
        word = kind.name.rstrip("0123456789")
        bits = kind.name.removeprefix(word)
        found[kind.value] = np.dtype(f"<{numbers[word]}{int(bits) // 8}") if bits else kind.name
    found[Kind.BOOL.value] = np.dtype(np.bool_)
    return found


def _kind_of_tensor(where: str, code: int) -> tuple[str, int, int]:
    """Name of a tensor's type, numbers in a block of it, and bytes of a block.

    Raises:
        UserError: there is no such type, or it cannot be dequantised.
    """
    from gguf import GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(code)
        block, size = block_of(kind.name)
    except (ValueError, KeyError):
        raise UserError(
            f"{where} is of an unknown type ({code}). Update the package that knows them (pip install -U gguf), or "
            "take a file of another quantisation"
        ) from None
    if kind.name not in PLAIN and not can_dequantise(kind.name):
        raise UserError(f"{where} is quantised as {kind.name}, which cannot be read. Take a file of another one")
    return kind.name, block, size
