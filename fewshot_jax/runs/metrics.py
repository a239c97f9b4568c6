"""Metrics of a run: one JSON object a line, the same for TensorBoard, and a progress bar where someone looks."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import append, naming, write_text
from fewshot_jax.runs.tensorboard import EventFile

TENSORBOARD = "tensorboard"  # its folder in a run directory


class Sink(Protocol):
    """Where rows of metrics go beside ``metrics.jsonl``."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take a row with a ``step``; its numbers are finite, or None."""

    def close(self) -> None:
        """Take no more."""


class MetricsFile:
    """Appends to ``metrics.jsonl``; a resumed run first drops what came after its step.

    The numbers go to an event file for TensorBoard too, in the folder beside it.

    Args:
        path: the file.
        after: keep only the lines up to this step.
        read_only: write nothing: another process does.
        sinks: where the rows go as well.

    Attributes:
        seconds: the time of the last line that was kept.
    """

    def __init__(self, path: Path, *, after: int = 0, read_only: bool = False, sinks: Sequence[Sink] = ()):
        kept = [row for row in read_metrics(path) if row["step"] <= after]
        self.seconds = max((row.get("seconds") or 0.0 for row in kept), default=0.0)
        self._sinks = list(sinks)
        if read_only:
            path = Path(os.devnull)
        else:
            write_text(path, "".join(_line(row) for row in kept))
            self._sinks.append(EventFile(path.parent / TENSORBOARD, after=after))
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        plain = {name: _plain(value) for name, value in row.items()}
        with naming(self._path):
            append(self._file, _line(plain).encode())
        for sink in self._sinks:
            sink.write(plain)

    def close(self) -> None:
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _line(row: Mapping[str, Any]) -> str:
    return strict_json.dumps(row) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating) or hasattr(value, "dtype"):
        value = float(value)
        return value if np.isfinite(value) else None
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics file; none where there is no file.

    A line that is torn (a killed run) or none of ours is skipped. A row has a ``step`` (int); its other values are
    finite numbers or None, but for the words of ``skipped_because``.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if all(_fits(name, value) for name, value in row.items()) else None


def _fits(name: str, value: Any) -> bool:
    """Whether a value of a row is of its kind."""
    if name == "skipped_because":
        return isinstance(value, str)
    return value is None or (type(value) in (int, float) and math.isfinite(value))


class Speed(NamedTuple):
    """How fast some steps were.

    Attributes:
        seconds: of a step.
        input_share: share of that in which the host waited for a batch.
    """

    seconds: float
    input_share: float


class StopWatch:
    """Times steps: not the first one, which is compiled, and nothing that `resume` leaves out."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def waited(self, seconds: float) -> None:
        """The host waited so long for a batch."""
        if self._since is not None:
            self._waited += seconds

    def step(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        if self._since is not None:
            self._seconds += now - self._since
            self._steps += 1
        self._since = now

    def resume(self) -> None:
        """Leave out the time since the last step ended."""
        self._since = time.monotonic()

    def read(self) -> Speed | None:
        """The speed since the last call; None before a second step has ended."""
        steps, seconds, waited = self._steps, self._seconds, self._waited
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return Speed(seconds / steps, waited / seconds) if steps and seconds else None


class Progress:
    """A bar with steps, rate, loss, last score and time left on a terminal; a line for each validation elsewhere.

    Args:
        total: steps of the run.
        start: steps already taken.
        items: what a step takes, for the rate.
        unit: name of the items.
        title: of the bar.
        quiet: print nothing.

    Attributes:
        measured: items per second to show; None for the mean since the start.
    """

    measured: float | None = None

    def __init__(
        self,
        total: int,
        *,
        start: int,
        items: float,
        unit: str = "tasks",
        title: str = "meta-training",
        quiet: bool = False,
    ):
        self._total, self._start, self._items, self._unit, self._quiet = total, start, items, unit, quiet
        self._began, self._judged = time.monotonic(), dict[str, float]()
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn(title),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, completed=start, status="compiling")
            self._bar.start()

    def rate(self, step: int) -> float:
        """Items per second since the start."""
        return (step - self._start) * self._items / max(time.monotonic() - self._began, 1e-9)

    def _shown(self, step: int) -> str:
        rate = self.rate(step) if self.measured is None else self.measured
        return f"{rate:,.{1 if rate < 1000 else 0}f} {self._unit}/s"

    def _left(self, step: int) -> str:
        """The time left, at the mean rate since the start."""
        seconds = round((self._total - step) * self._items / max(self.rate(step), 1e-9))
        return f"{timedelta(seconds=seconds)} left" if step < self._total else "done"

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the state after a step."""
        if self._bar is not None:
            status = f"{self._shown(step)}  {_words({**metrics, **self._judged})}"
            self._bar.update(self._task, completed=step, status=status)

    def line(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a validation, whose scores the bar shows from now on."""
        self._judged = {name: value for name, value in metrics.items() if name != "loss"}
        if self._quiet:
            return
        text = f"step {step}/{self._total}  {self._shown(step)}  {_words(metrics)}  {self._left(step)}"
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop drawing."""
        if self._bar is not None:
            self._bar.stop()


def _words(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics.items())
