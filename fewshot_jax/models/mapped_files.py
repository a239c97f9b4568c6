"""Tensors of files that are mapped, not read: what a checkpoint of any format gives, and its memory given back."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from fewshot_jax.errors import UserError, require


class TensorDescription(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class Tensors(Protocol):
    """The tensors of a model by the names that transformers gives them, for as long as the ``with`` block lasts."""

    @property
    def tensors(self) -> Mapping[str, TensorDescription]:
        """Name -> description."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def view(self, name: str) -> np.ndarray:
        """A read-only array; called by several threads."""

    def release(self, name: str) -> None:
        """Drop a tensor's pages from resident memory."""


class MappedTensors:
    """What checkpoints of all formats share: files that are mapped for as long as the ``with`` block lasts."""

    def __init__(self) -> None:
        self._files = MappedFiles()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def first_bytes(file: Path, remedy: str) -> bytes:
    """Return the first eight bytes of a file, fewer of a shorter one.

    Args:
        file: of a model.
        remedy: what to do where it is missing, a sentence.

    Raises:
        UserError: it is missing or cannot be opened, or is a Git LFS pointer.
    """
    try:
        if not file.is_file():  # a pipe would block when opened
            what = "links to a file that is missing" if file.is_symlink() else "no such file"
            raise UserError(f"{file}: {'not a regular file' if file.exists() else what}. {remedy}")
        with file.open("rb") as stream:
            word = stream.read(8)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    require(word != b"version ", f"{file}: a Git LFS pointer, not the file itself. Fetch it with 'git lfs pull'.")
    return word


class MappedFiles:
    """Files, each mapped when a part of it is first asked for."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def close(self) -> None:
        """Forget the maps; a view that is still in use keeps its own alive."""
        self._maps.clear()

    def view(self, file: Path, dtype: np.dtype, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
        """A read-only array on the bytes ``start`` to ``stop`` of a file: it costs nothing until it is read.

        Raises:
            UserError: the file has gone or shrunk since its header was read.
        """
        if file not in self._maps:
            try:
                with file.open("rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: it is empty by now
                raise UserError(f"{file}: cannot be mapped ({error})") from None
        mapped = self._maps[file]
        shorter = f"{file}: has become shorter since its header was read. Download or save it again."
        require(len(mapped) >= stop, shorter)
        return np.ndarray(shape, dtype, buffer=mapped, offset=start)

    def release(self, file: Path, start: int, stop: int) -> None:
        """Drop the pages of a part from resident memory; its views stay valid and read them again when asked."""
        mapped = self._maps.get(file)
        if mapped is None or start == stop or not hasattr(mmap, "MADV_DONTNEED"):
            return
        # Whole pages: those shared with a neighbour cost it another read from the page cache.
        first = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first, stop - first)
