"""One process at a time in a run directory, and what happens when it is told to end."""

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import jax

from fewshot_jax.atomic_write import cannot_write, full_disk
from fewshot_jax.config_file import flat
from fewshot_jax.errors import Terminated, UserError
from fewshot_jax.file_lock import try_acquire
from fewshot_jax.parallel.processes import barrier, check_agreement, is_first
from fewshot_jax.runs.directory import LOCK
from fewshot_jax.versions import versions

_ASKED = itertools.count(1)  # how often the processes have asked each other


class Startable(Protocol):
    """The directory of a run of some kind."""

    @property
    def path(self) -> Path: ...

    def check_startable(self, config: Any) -> None:
        """Raise a UserError unless a run of this config can start, or go on, here."""


@contextlib.contextmanager
def held(run: Startable, config: Any) -> Iterator[None]:
    """Hold the directory of a run for a config, where all processes agree on it and it can start, or go on, there.

    Raises:
        UserError: it cannot; or as of `locked`; or the disk is full.
    """
    check_agreement({**flat(config), **versions()}, "configs or versions")
    run.check_startable(config)
    barrier("started")
    with locked(run.path), full_disk(run.path, "--run-dir"):
        yield


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run directory, which is made where it is missing; it is free again when the process ends, however it does.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    if not is_first():  # the first process holds it for all
        yield
        return
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(directory, error, "--run-dir") from None
    path = directory / LOCK
    lock = try_acquire(path, flag="--run-dir", named=directory)
    if lock is None:
        holder = path.read_text(encoding="utf-8").strip() or "another process"
        raise UserError(f"{directory}: a run is going on here ({holder}); wait for it, or give another --run-dir")
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        # The file stays: another process may hold it open, and would lock what nobody else sees.
        if made and [one.name for one in directory.iterdir()] == [LOCK]:  # refused before it began
            path.unlink()
            directory.rmdir()
        lock.release()


@contextlib.contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Give a function that returns True, in all processes at the same step, after the run was asked to stop.

    ``with termination() as asked:`` calls ``asked()`` once a step. SIGTERM asks a run to stop, and with one process so
    does Ctrl-C (SIGINT); a second Ctrl-C stops at once. A signal that arrives after the last call is raised again on
    exit.

    Raises:
        KeyboardInterrupt: for `Terminated`, where Ctrl-C asked for it.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        # The count never starts again, as steps do: the processes agree on one number at which they stop.
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_ASKED))
        return
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield lambda: False
        return
    told: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if number in told:
                raise KeyboardInterrupt
            os.write(2, b"\nends after this step, which is saved; Ctrl-C once more ends at once\n")
        told.append(number)

    # A shell starts what runs in the background with SIGINT ignored, and so it stays.
    both = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, handle) for number in both if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield lambda: bool(told)
    except Terminated as error:
        if signal.SIGTERM in told:
            raise
        raise KeyboardInterrupt(str(error)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        signal.raise_signal(signal.SIGTERM if signal.SIGTERM in told else signal.SIGINT)
