"""Someone at a terminal sees steps, rate, loss, score and time left; a pipe gets plain lines."""

import io
import re
import sys

import pytest

from fewshot_jax.runs.metrics import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, *, quiet=False):
    """What a run of 100 steps shows that went on after step 20 and takes 4 tasks in 2 seconds."""
    clock = [0.0]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("fewshot_jax.runs.metrics.time.monotonic", lambda: clock[0])
    progress = Progress(100, start=20, items=4, quiet=quiet)
    clock[0] = 80.0
    progress.line(60, {"loss": 0.5, "validation_accuracy": 0.75})
    progress.update(61, {"loss": 0.25})
    progress.close()
    return stream.getvalue()


def test_a_pipe_gets_a_plain_line_for_each_validation(monkeypatch):
    text = shown(monkeypatch, io.StringIO())
    assert text == "step 60/100  2.0 tasks/s  loss 0.500  validation accuracy 0.750  0:01:20 left\n"


def test_a_terminal_shows_a_bar_with_the_last_score_and_the_time_left(monkeypatch):
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown(monkeypatch, Terminal()))
    last = text.rstrip().splitlines()[-1]
    for words in ("meta-training", "61/100", "tasks/s", "loss 0.250", "validation accuracy 0.750"):
        assert words in last
    assert re.search(r"\d:\d\d:\d\d|-:--:--", last), "the time left"
    assert "step 60/100" in text


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_shows_nothing(monkeypatch, stream):
    assert shown(monkeypatch, stream(), quiet=True) == ""
