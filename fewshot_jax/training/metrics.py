"""Metrics of a run: one JSON object a line, and a progress bar where someone looks."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class MetricsFile:
    """Appends to ``metrics.jsonl``; a resumed run first drops what came after its step.

    Args:
        path: the file.
        after: keep only the lines up to this step.

    Attributes:
        seconds: the time of the last line that was kept.
    """

    def __init__(self, path: Path, *, after: int = 0):
        kept = [row for row in read_metrics(path) if row["step"] <= after] if path.exists() else []
        self.seconds = max((row.get("seconds", 0.0) for row in kept), default=0.0)
        self._file = path.open("w", encoding="utf-8", buffering=1)
        for row in kept:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        plain = {name: _plain(value) for name, value in row.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating) or hasattr(value, "dtype"):
        value = float(value)
        return value if np.isfinite(value) else None
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics file; a torn last line (a killed run) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Progress:
    """A bar with rate and time left on a terminal; a line now and then elsewhere.

    Args:
        total: steps of the run.
        start: steps already taken.
        tasks: tasks in a step, for the rate.
        quiet: print nothing.
    """

    def __init__(self, total: int, *, start: int, tasks: int, quiet: bool = False):
        self._total, self._start, self._tasks, self._quiet = total, start, tasks, quiet
        self._began = time.monotonic()
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("meta-training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, completed=start, status="compiling")
            self._bar.start()

    def rate(self, step: int) -> float:
        """Tasks per second since the start."""
        return (step - self._start) * self._tasks / max(time.monotonic() - self._began, 1e-9)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the state after a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=f"{self.rate(step):.1f} tasks/s {_words(metrics)}")

    def line(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a validation."""
        if self._quiet:
            return
        text = f"step {step}/{self._total}  {self.rate(step):.1f} tasks/s  {_words(metrics)}"
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
