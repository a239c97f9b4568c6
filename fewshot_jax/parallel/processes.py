"""Several processes that train together: start-up, agreement, waiting for each other.

Processes are found by ``jax.distributed``, which knows Slurm, Kubernetes, MPI and cloud machines, or are named by the
user. Everything here is harmless with one process.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.errors import UserError, first_line

TIMEOUT = 120  # seconds to wait for the other processes at the start


def start(coordinator: str | None, processes: int | None, process: int | None, *, timeout: int = TIMEOUT) -> None:
    """Join the other processes; call it before jax touches a device.

    Args:
        coordinator: ``HOST:PORT`` of process 0; None with the two others for what the cluster says.
        processes: how many there are.
        process: the number of this one, from 0.
        timeout: seconds to wait for the others.

    Raises:
        UserError: the three are incomplete, no cluster is known, or the coordinator cannot be reached.
    """
    named = [coordinator, processes, process]
    if any(one is None for one in named) and any(one is not None for one in named):
        raise UserError("give --coordinator, --processes and --process together, or --distributed alone")
    if coordinator is not None and processes is not None and process is not None:
        host, _, port = coordinator.rpartition(":")
        if not port.isdigit() or not host:
            raise UserError(f"--coordinator {coordinator}: expected HOST:PORT, such as node0:1234")
        if not 0 <= process < processes:
            raise UserError(f"--process {process}: expected a number from 0 to {processes - 1} (--processes)")
        if process:
            _reach(host, int(port), timeout)
        else:
            print(f"waiting for {processes - 1} more at {coordinator}, up to {timeout} s", file=sys.stderr, flush=True)
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Gloo tells standard output that it is connected, which is for results: it goes to standard error instead.
        sys.stdout.flush()
        sys.stdout = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout)
    except Exception as error:
        where = coordinator or "the coordinator that the cluster names"
        raise _unreachable(where, first_line(error), timeout) from None


def _reach(host: str, port: int, timeout: int) -> None:
    """Wait for the coordinator to listen: of one that never does, jax makes an abort without a word of advice."""
    until, why = time.monotonic() + timeout, "no answer"
    while time.monotonic() < until:
        try:
            socket.create_connection((host, port), timeout=2).close()
            return
        except OSError as error:
            why = str(error)
            time.sleep(0.2)
    raise _unreachable(f"{host}:{port}", why, timeout)


def _unreachable(where: str, why: str, timeout: int) -> UserError:
    return UserError(
        f"cannot join the other processes through {where} ({why}); start all processes within {timeout} seconds, with "
        "a host and port that each of them can reach, and the same --processes"
    )


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def gather_json(value: Any) -> list[Any]:
    """The values of all processes, in their order: plain lists, dicts and scalars."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(strict_json.dumps(value).encode(), np.uint8)
    sizes = np.atleast_1d(multihost_utils.process_allgather(np.int32(text.size))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def check_agreement(values: Mapping[str, Any], what: str) -> None:
    """Check that all processes hold the same values.

    Args:
        values: by name; plain.
        what: they are, for the message.

    Raises:
        UserError: one differs, in every process alike.
    """
    first, *others = gather_json(dict(values))
    for number, other in enumerate(others, start=1):
        if changed := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
            reported = "; ".join(f"{name}: {first.get(name)} and {other.get(name)}" for name in changed)
            raise UserError(f"processes 0 and {number} have different {what} ({reported}); start all from the same")


@contextlib.contextmanager
def first_alone() -> Iterator[bool]:
    """``with first_alone() as here:`` the first process does something while the others wait for it.

    Raises:
        UserError: the first one's, in all processes; of what else goes wrong there, the others learn that it did.
    """
    wrong: Exception | None = None
    try:
        yield is_first()
    except Exception as error:
        wrong = error
    reported = gather_json(None if wrong is None else str(wrong) or type(wrong).__name__)
    if wrong is not None:
        raise wrong
    if message := next((one for one in reported if one is not None), None):
        raise UserError(message)
