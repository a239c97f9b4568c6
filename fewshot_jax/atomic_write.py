"""Atomic writes: a reader finds the old file or directory or the new one, whole, also after a loss of power.

Everything is written under a temporary name beside its target, forced to disk (fsync), and renamed; then the
directory that holds the name is forced to disk too. What a killed process left under a temporary name goes, an hour
later, with the next write of the same target.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fewshot_jax.errors import UserError, WriteError

LEFT = 3600  # seconds after which what a process that ended has left may go
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says of a full disk, a quota, a limit


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """``with atomic_file(path) as partial:`` what the block writes to ``partial`` replaces ``path`` after the block.

    Where the block fails, nothing is left of it and ``path`` is as it was. ``partial`` has the suffix of ``path``.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    partial = _beside(target)
    try:
        with naming(path):
            yield partial
            _sync(partial)
            os.replace(partial, target)
            sync_directory(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file by `atomic_file`."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """``with atomic_directory(path) as partial:`` the directory ``partial`` is renamed to ``path`` after the block.

    Where the block fails, nothing is left of it and ``path`` is as it was.

    Args:
        path: absent or an empty directory; its parents are made.
        replace: ``path`` may hold files, which go. The two directories are exchanged in one step where the system can
            (Linux); elsewhere the old one has the ending ``.replaced`` for a moment.

    Raises:
        OSError: it cannot be written, or is not empty; names ``path``.
    """
    target = Path(os.path.realpath(path))
    partial = _beside(target)
    try:
        with naming(path):
            _make(target.parent)
            partial.mkdir()
            yield partial
            sync_tree(partial)
            if not (replace and target.exists()):
                os.replace(partial, target)
            elif not _exchange(partial, target):
                _replace(partial, target)
            sync_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Order(NamedTuple):
    """How the files of a directory give way to new ones; all are names relative to it."""

    away: Sequence[str]  # old files that go first, one by one; they come back where a later step fails
    new: Sequence[str]  # new files, in order; one that replaces an old file is not taken back
    stale: Sequence[str] = ()  # old files that go when all new ones have their names


@contextlib.contextmanager
def atomic_files(
    directory: Path, *, last: str | None = None, order: Callable[[Path, Path], Order] | None = None
) -> Iterator[Path]:
    """``with atomic_files(directory) as partial:`` the files in ``partial`` replace those of their names afterwards.

    None is replaced before all are on disk; then each is, in one step. Others in ``directory`` stay. A directory that
    does not exist appears whole.

    Args:
        directory: made if need be.
        last: the name of the file that is replaced last.
        order: says of ``partial`` and ``directory`` in which order the files are replaced, instead of ``last``.

    Raises:
        OSError: one cannot be written; names ``directory``.
    """
    if not directory.exists():
        with atomic_directory(directory) as partial:
            yield partial
        return
    both = _temporary(directory)
    partial, aside = both / "new", both / "old"
    try:
        with naming(directory):
            for folder in (both, partial, aside):
                folder.mkdir()
            yield partial
            sync_tree(partial)
            _switch(directory, partial, aside, _by_name(partial, last) if order is None else order(partial, directory))
            _sweep(directory, every=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in (aside, both):
            with contextlib.suppress(OSError):
                folder.rmdir()  # an old file that could not come back stays


def files_below(directory: Path) -> list[str]:
    """The names of all files below a directory, relative to it, in order."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise what cannot be written as an OSError that names ``path``, where it names a temporary path or none.

    A copy that fails names its source first, and the temporary path second. A full disk is the one of ``path``,
    whatever the error names. Libraries in Rust (tokenizers, safetensors) report an error of the system as an
    exception of their own.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        named = _named(error)
        away = error.errno in FULL and not any(Path(name).is_relative_to(path) for name in named)
        if named and ".partial" not in named[-1] and not away:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except Exception as error:
        if number := _number(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def of_the_system(error: BaseException | None) -> bool:
    """Whether an exception, or what it comes from, is an error of the system: a full disk, a missing right."""
    while error is not None:
        if isinstance(error, OSError) or _number(error):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@contextlib.contextmanager
def full_disk(place: Path, flag: str) -> Iterator[None]:
    """Raise a WriteError where the disk is full, whatever the block was writing.

    Args:
        place: where the block writes.
        flag: of the command line, that names another place.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise cannot_write(Path([str(place), *_named(error)][-1]), error, flag) from error


def cannot_write(path: Path, error: OSError, flag: str | None = None) -> WriteError:
    """The message of a path that cannot be written.

    Args:
        path: as the user named it.
        error: why.
        flag: of the command line, that names another path.
    """
    remedy = "free disk space" if error.errno in FULL else "make the place writable"
    other = "write elsewhere" if flag is None else f"give another {flag}"
    return WriteError(f"{path}: cannot write here ({error.strerror or error}); {remedy}, or {other}")


def append(file: BinaryIO, data: bytes) -> None:
    """Append to an unbuffered file; a disk that fills up takes a part and then refuses the rest."""
    while data:
        data = data[file.write(data) :]


def sync_directory(directory: Path) -> None:
    """Force a directory's names to disk, where the system can: some network disks and Windows cannot."""
    with contextlib.suppress(OSError):
        _sync(directory)


def sync_tree(directory: Path) -> None:
    """Force all files below a directory to disk, and all names."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            _sync(Path(folder, name))
        sync_directory(Path(folder))


def _named(error: OSError) -> list[str]:
    """The paths that an error names; the last one is where it was writing."""
    return [str(name) for name in (error.filename, error.filename2) if name is not None]


def _number(error: BaseException) -> int:
    """The number of the system's error that a library in Rust, or tensorstore, tells in words; 0 for none."""
    found = re.search(r"\(os error (\d+)\)|\[os_error_code='(\d+)'\]", str(error))
    return int(found[1] or found[2]) if found else 0


def _by_name(partial: Path, last: str | None) -> Order:
    return Order([], sorted(files_below(partial), key=lambda name: (name == last, name)))


def _switch(directory: Path, partial: Path, aside: Path, order: Order) -> None:
    """Replace files of a directory by those in ``partial``; where a step fails, take the steps before it back."""
    moves = [(directory / name, aside / name) for name in order.away]
    moves += [(partial / name, directory / name) for name in order.new]
    done: list[tuple[Path, Path]] = []
    try:
        for number, (source, target) in enumerate(moves):
            if order.away and number == len(order.away):
                sync_directory(directory)
            _make(target.parent)
            replaces = target.exists()
            os.replace(source, target)
            done += [] if replaces else [(source, target)]
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise
    for folder in {(directory / name).parent for name in order.new}:
        sync_directory(folder)
    for name in order.stale:
        os.unlink(directory / name)
    if order.stale:
        sync_directory(directory)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(target: Path) -> Path:
    """A temporary name in the same directory, with the same suffix, by which libraries tell formats."""
    return _temporary(target.parent, f".{target.name[:40]}", target.suffix, every=target.exists())


def _temporary(directory: Path, start: str = "", suffix: str = "", *, every: bool = False) -> Path:
    """A new temporary name, with the number of this process; removes what others left, as `_sweep` says."""
    _sweep(directory, start, suffix, every=every)
    return directory / f"{start}.{os.getpid()}-{secrets.token_hex(4)}.partial{suffix}"


def _sweep(directory: Path, start: str = "", suffix: str = "", *, every: bool) -> None:
    """Remove what processes that were killed left under the names of `_temporary`.

    A process of another host is told by the age of its files alone.

    Args:
        directory: of the names.
        start: of the names.
        suffix: of the names.
        every: also those that hold old files, which made room and may be the only ones.
    """
    left = re.compile(rf"{re.escape(start)}\.(\d+)-[0-9a-f]{{8}}\.partial{re.escape(suffix)}(\.replaced)?")
    with contextlib.suppress(OSError):
        for path in list(directory.iterdir()):
            if (found := left.fullmatch(path.name)) is None:
                continue
            kept = not every and (found[2] or any(path.glob("old/*")))
            if not kept and not _alive(int(found[1])) and time.time() - _touched(path) > LEFT:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def _alive(process: int) -> bool:
    """Whether a process of this host has that number."""
    if os.name == "nt":
        return False  # os.kill would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _touched(path: Path) -> float:
    """When a file, or anything below a directory, was written last."""
    return max(one.lstat().st_mtime for one in (path, *path.rglob("*")))


def _make(directory: Path) -> None:
    """Make a directory and its parents, and force their names to disk."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two directories in one step; False where the system cannot."""
    if sys.platform != "linux" or not hasattr(system := ctypes.CDLL(None), "renameat2"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(system.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _replace(new: Path, target: Path) -> None:
    """Rename a directory over another one, which has an ending ``.replaced`` meanwhile."""
    aside = new.with_name(f"{new.name}.replaced")
    os.replace(target, aside)
    try:
        os.replace(new, target)
    except BaseException:
        if not target.exists():
            os.replace(aside, target)
        raise
    sync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)
