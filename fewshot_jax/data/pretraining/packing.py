"""Documents of any length in windows of one length, with hardly a slot of padding.

Documents follow each other, an end-of-text token after each, and are cut where a window ends. A window's
``segment`` numbers its documents, so that a model can keep them apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.atomic_write import atomic_files, cannot_write
from fewshot_jax.errors import UserError

TOKENS, STARTS = "tokens.bin", "starts.bin"


class Packing(NamedTuple):
    """How documents are packed.

    Attributes:
        length: tokens of a window, ``L``.
        end: the token after each document.
        start: the token before each document, and before the rest of one that a window has cut; None for none.
        pad: fills the end of the last window.
        vocab_size: ids are below it; up to 65,536 takes two bytes a token.
    """

    length: int
    end: int
    start: int | None = None
    pad: int = 0
    vocab_size: int = 2**16

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.int32)


class Windows(NamedTuple):
    """Packed documents.

    Attributes:
        tokens: ``[n, L]`` ids; padding at the end of the last window alone.
        starts: ``[n, L]`` bools, True at the first token of a document, or of its part in this window.
        real: number of slots that are no padding.
    """

    tokens: np.ndarray
    starts: np.ndarray
    real: int

    def __reduce__(self) -> tuple[Any, ...]:
        """To a worker go the names of mapped files, not what is in them."""
        file = getattr(self.tokens, "filename", None)
        if file is None:
            return Windows, tuple(self)
        return _mapped, (Path(file).parent, self.tokens.shape[1], self.tokens.dtype, self.real)

    @property
    def efficiency(self) -> float:
        """Share of the slots that hold a token."""
        return self.real / max(self.tokens.size, 1)

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Some windows: ``input_ids, segment, position``, int32 ``[B, L]``.

        ``segment`` counts the documents of a window from 1 and is 0 at padding; ``position`` counts the tokens of
        a document's part from 0.
        """
        slots = np.arange(self.tokens.shape[1], dtype=np.int32)
        starts = self.starts[index]
        padding = np.asarray(index, np.int64)[:, None] * len(slots) + slots >= self.real
        begun = np.maximum.accumulate(np.where(starts, slots, 0), axis=1)
        return {
            "input_ids": self.tokens[index].astype(np.int32),
            "segment": np.where(padding, 0, np.cumsum(starts, axis=1)).astype(np.int32),
            "position": (slots - begun).astype(np.int32),
        }


# A window's tokens and starts, and how many of its slots are filled.
_Row = tuple[np.ndarray, np.ndarray, int]


def _rows(documents: Iterable[Sequence[int] | np.ndarray], packing: Packing) -> Iterator[_Row]:
    length, dtype = packing.length, packing.dtype

    def empty() -> tuple[np.ndarray, np.ndarray]:
        return np.full(length, packing.pad, dtype), np.zeros(length, bool)

    (window, starts), filled = empty(), 0
    for document in documents:
        ids, taken = np.append(np.asarray(document, dtype), dtype.type(packing.end)), 0
        while taken < len(ids):
            starts[filled] = True
            if packing.start is not None:
                window[filled] = packing.start
                filled += 1
            part = ids[taken : taken + length - filled]
            window[filled : filled + len(part)] = part
            taken += len(part)
            filled += len(part)
            if filled == length:
                yield window, starts, filled
                (window, starts), filled = empty(), 0
    if filled:
        yield window, starts, filled


def _full(rows: Iterable[_Row]) -> Iterator[_Row]:
    """Fill the last window with the beginning of the first one, if there are two."""
    first: _Row | None = None
    for tokens, starts, filled in rows:
        if first is not None and filled < len(tokens):
            tokens[filled:], starts[filled:] = (array[: len(tokens) - filled] for array in first[:2])
            filled = len(tokens)
        first = first or (tokens, starts, filled)
        yield tokens, starts, filled


def pack(
    documents: Iterable[Sequence[int] | np.ndarray],
    packing: Packing,
    *,
    full: bool = False,
    directory: Path | None = None,
) -> Windows:
    """Pack documents into windows.

    Args:
        documents: token ids of each, without special tokens.
        packing: lengths and special tokens.
        full: fill the last window with what the first one begins with, not with padding: for training, where
            nothing is counted.
        directory: where to write the windows, which are then mapped into memory; None to hold them.

    Raises:
        UserError: the directory cannot be written.
    """
    rows = _rows(documents, packing)
    rows = _full(rows) if full else rows
    if directory is None:
        tokens, starts, filled = zip(*rows, strict=True)
        return Windows(np.stack(tokens), np.stack(starts), sum(filled))
    real = 0
    try:
        with (
            atomic_files(directory) as partial,
            (partial / TOKENS).open("wb") as tokens_file,
            (partial / STARTS).open("wb") as starts_file,
        ):
            for window, begin, count in rows:
                tokens_file.write(window.tobytes())
                starts_file.write(begin.tobytes())
                real += count
    except OSError as error:
        raise cannot_write(directory, error, "--run-dir") from None
    return read_windows(directory, packing, real)


def read_windows(directory: Path, packing: Packing, real: int) -> Windows:
    """Map what `pack` has written.

    Raises:
        UserError: the files are missing or torn.
    """
    try:
        windows = _mapped(directory, packing.length, packing.dtype, real)
        if not 0 <= windows.tokens.size - real < packing.length or windows.tokens.shape != windows.starts.shape:
            raise ValueError(f"{windows.tokens.size} and {windows.starts.size} slots for {real} tokens")
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: the packed corpus cannot be read ({error}); start a new run") from None
    return windows


def _mapped(directory: Path, length: int, dtype: np.dtype, real: int) -> Windows:
    tokens, starts = (
        np.memmap(directory / name, kind, mode="r").reshape(-1, length)
        for name, kind in ((TOKENS, dtype), (STARTS, np.dtype(bool)))
    )
    return Windows(tokens, starts, real)
