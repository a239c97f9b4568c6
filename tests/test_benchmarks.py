"""Every benchmark runs in small, says what it ran on, and refuses results that do not agree."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name, path, *arguments):
    """Run a benchmark in a process of its own, as a user does; its printed output and its JSON."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--output", str(path), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    assert record["device"]
    assert record["jax"]
    assert record["options"]["quick"]
    return done.stdout, record["results"]


def test_strategies(tmp_path):
    printed, rows = run("strategies", tmp_path / "out.json", "--picture", str(tmp_path / "front.png"))
    assert [row["strategy"] for row in rows] == ["first order", "reverse", "mixed (default)"]
    assert rows[0]["time_ratio"] == 1
    assert rows[2]["relative_error"] < 2e-5
    # 3 passes a step and a query of 3, both over as many texts; second order and its recomputation on top.
    assert [round(row["forward_passes"]) for row in rows] == [9, 21, 25]
    assert rows[2]["temporary_bytes"] < rows[1]["temporary_bytes"]
    assert "time ratio" in printed
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_scaling(tmp_path):
    _, rows = run("scaling", tmp_path / "out.json")
    assert [(row["varied"], row[row["varied"]]) for row in rows] == [("steps", 1), ("devices", 2)]
    assert all(row["temporary_bytes"] > 0 for row in rows)


def test_compile_time(tmp_path):
    _, rows = run("compile_time", tmp_path / "out.json")
    assert [(row["layers"], row["cache"]) for row in rows] == [(1, "cold"), (1, "cached")]
    assert all(row["first_step_seconds"] > row["compile_seconds"] > 0 for row in rows)


@pytest.mark.parity
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "higher", "torchopt")),
    reason="needs the extra 'peers'",
)
def test_peers(tmp_path):
    _, results = run("peers", tmp_path / "out.json")
    for rows in results.values():
        assert {"torch", "torch.func vmap", "higher", "torchopt"} < {row["library"] for row in rows}
        assert all(row["relative_error"] < 1e-4 for row in rows)
