"""Locks on files, by filelock: a lock is free again when its process ends, however it does."""

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from fewshot_jax.atomic_write import cannot_write

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none
_POLL = 0.01  # seconds between two attempts at a lock that another process holds


def acquire(path: Path, *, flag: str) -> BaseFileLock:
    """Wait for a lock and return it; on a file system without locks every process gets it.

    The file stays after ``release()``, and keeps what its holder wrote into it.

    Args:
        path: of the file, which is made where it is missing.
        flag: of the command line, that names another place.

    Raises:
        UserError: the file cannot be written.
    """
    return _acquire(path, path, flag, wait=True)


def try_acquire(path: Path, *, flag: str, named: Path | None = None) -> BaseFileLock | None:
    """Return a lock, as `acquire` does, or None at once where another process holds it.

    Args:
        path, flag: as of `acquire`.
        named: what a message names; by default the path.
    """
    try:
        return _acquire(path, named or path, flag, wait=False)
    except Timeout:
        return None


def _acquire(path: Path, named: Path, flag: str, *, wait: bool) -> BaseFileLock:
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        path.open("a").close()
    except OSError as error:
        raise cannot_write(named, error, flag) from None
    try:
        lock.acquire(blocking=wait, poll_interval=_POLL)
    except Timeout:  # an OSError
        raise
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise cannot_write(named, error, flag) from None
    return lock
