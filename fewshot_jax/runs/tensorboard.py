"""Event files for TensorBoard: what ``metrics.jsonl`` says, in ``RUN/tensorboard``.

A record is a length, the length's checksum, a serialised event and its checksum (the TFRecord format). It goes to the
file in one unbuffered write, so that a run that is killed has lost none before its last checkpoint.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_jax.atomic_write import append, naming

VERSION = "brain.Event:2"  # of the format; readers heed what a session's start says from this one on


class EventFile:
    """Appends rows of metrics to an event file of its own; a resumed run has one more.

    TensorBoard reads the files in the order of their names and forgets what the earlier ones say of the steps from
    the start of a later one on.

    Args:
        directory: made where it is missing.
        after: the step that the run goes on from.
    """

    def __init__(self, directory: Path, *, after: int = 0):
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c

        self._crc, self._event, self._summary = masked_crc32c, Event, Summary
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._path, self._file = directory / name, (directory / name).open("xb", buffering=0)
        self._append(Event(wall_time=time.time(), file_version=VERSION))
        start = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), step=after + 1, session_log=start))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the numbers of a row with a ``step``."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars(row).items()]
        if values:
            summary = self._summary(value=values)
            self._append(self._event(wall_time=time.time(), step=row["step"], summary=summary))

    def close(self) -> None:
        self._file.close()

    def _append(self, event: Any) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", self._crc(part)) for part in (length, data))
        with naming(self._path):
            append(self._file, length + next(sums) + data + next(sums))


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of ``metrics.jsonl``, but for its step."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, int | float)}
