"""Kill a run again and again: does it end with the same bits, what does saving cost, and how soon does it go on?

    python benchmarks/kill_and_resume.py

A small run is trained undisturbed. Then it is trained again, in a process that is killed (SIGKILL) at a random moment
and started anew by the same command, until it has been killed so often; its last checkpoint must be the same bits. The
kills come within a second and a half of the first progress after a start.
A checkpoint's files are then changed, one random change at a time (a flipped bit, a cut file, a file gone), and none
may pass its checksums. The share of the time that saving holds training up is measured in the loop itself.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, EVERY = 400, 20
VALUES: dict[str, Any] = {
    "data": {"groups": 16, "texts_per_class": 20, "split_by": "group", "fractions": [0.5, 0.25, 0.25]},
    "episodes": {"ways": 5, "shots": 1, "queries": 2, "within_group": True},
    "tokenizer": {"kind": "word", "max_length": 12, "buckets": [12]},
    "model": {"width": 64, "layers": 2, "heads": 4, "mlp_width": 128},
    "learner": {"name": "maml", "gradient": "reverse", "task_chunk": 1},
    "inner": {"steps": 1, "rate": 0.4},
    "outer": {"tasks": 4, "rate": 0.001},
    "evaluation": {"validation_episodes": 2, "episodes": 4, "shots": [1], "queries": 2, "tasks": 2, "at_end": False},
    "baselines": {"fine_tuning": False, "multi_task": False},
}


def start(config: Path, run: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "fewshot_jax", "train", str(config), "--run-dir", str(run), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def last_checkpoint(run: Path) -> int:
    return max((int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def lines(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def final_bytes(run: Path, steps: int) -> bytes:
    """All arrays of the last checkpoint."""
    import jax
    import numpy as np

    from fewshot_jax.applications.table import build_application
    from fewshot_jax.training.checkpoints import Checkpoints
    from fewshot_jax.training.run_directory import RunDirectory
    from fewshot_jax.training.state import initial_state

    directory = RunDirectory(run)
    application = build_application(directory.config(), run)
    like = initial_state(directory.config(), application.functions(training=True))
    checkpoints = Checkpoints(directory.checkpoints, application.score, read_only=True)
    try:
        return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(checkpoints.restore(steps, like)))
    finally:
        checkpoints.close()


def kills(config: Path, run: Path, count: int, rng: Any) -> list[dict[str, Any]]:
    """Start, let it make some progress, kill; for each kill when it came and when training went on after."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        before, began = lines(run), time.monotonic()
        process = start(config, run)
        while process.poll() is None and lines(run) <= before:
            time.sleep(0.02)
        first = time.monotonic() - began
        time.sleep(float(rng.uniform(0, 1.5)))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        found.append({"seconds_to_first_metrics": first, "checkpoint": last_checkpoint(run), "lines": lines(run)})
        print(f"kill {len(found)}: after step {last_checkpoint(run)}", file=sys.stderr, flush=True)
    process = start(config, run)
    _, told = process.communicate()
    if process.returncode:
        raise SystemExit(told)
    return found


def changes(run: Path, step: int, count: int, rng: Any) -> int:
    """How many of so many random changes of a checkpoint's files would be read as if nothing were wrong."""
    from fewshot_jax.training.checksums import Checksums

    unnoticed, sums = 0, Checksums(run / "checkpoints")
    files = sorted(file for file in (run / "checkpoints" / str(step)).rglob("*") if file.is_file())
    for _ in range(count):
        file = files[rng.integers(len(files))]
        before = file.read_bytes()
        kind = rng.integers(3) if before else 2
        if kind == 0:
            changed = bytearray(before)
            changed[rng.integers(len(before))] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
        elif kind == 1:
            file.write_bytes(before[: rng.integers(len(before))])
        else:
            file.unlink()
        unnoticed += sums.damage(step) is None
        file.write_bytes(before)
    if sums.damage(step) is not None:
        raise SystemExit("a checkpoint that nobody changed counts as damaged")
    return unnoticed


def saving(config: Any, run: Path) -> dict[str, float]:
    """Seconds that a save holds training up, and the share of the time at one save a minute."""
    from fewshot_jax.training import loop
    from fewshot_jax.training.checkpoints import Checkpoints

    seconds: list[float] = []
    save = Checkpoints.save

    def timed(self: Checkpoints, *arguments: Any) -> None:
        began = time.monotonic()
        save(self, *arguments)
        seconds.append(time.monotonic() - began)

    Checkpoints.save = timed  # type: ignore[method-assign]
    try:
        loop.train(config, run, quiet=True)
    finally:
        Checkpoints.save = save  # type: ignore[method-assign]
    median = sorted(seconds)[len(seconds) // 2]
    return {"saves": len(seconds), "median_seconds": median, "share_at_one_a_minute": median / 60}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "kill_and_resume.json")
    options = parser.parse_args(argv)
    import numpy as np

    from fewshot_jax.config_file import from_dict, write_config
    from fewshot_jax.versions import versions

    rng = np.random.default_rng(0)
    outer = {**VALUES["outer"], "steps": options.steps}
    config = from_dict({**VALUES, "outer": outer, "evaluation": {**VALUES["evaluation"], "every": EVERY}})
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    try:
        path = folder / "config.yaml"
        write_config(config, path)
        cost = saving(config, folder / "undisturbed")
        found = kills(path, folder / "killed", options.kills, rng)
        same = final_bytes(folder / "undisturbed", options.steps) == final_bytes(folder / "killed", options.steps)
        unnoticed = changes(folder / "killed", options.steps, options.changes, rng)
    finally:
        shutil.rmtree(folder)
    resumed = sorted(one["seconds_to_first_metrics"] for one in found[1:]) or [float("nan")]
    result = {
        "kills": len(found),
        "same_bits": same,
        "changes": options.changes,
        "changes_unnoticed": unnoticed,
        "seconds_from_start_to_first_metrics": {"median": resumed[len(resumed) // 2], "largest": resumed[-1]},
        "saving": cost,
        "steps": options.steps,
        "cores": os.cpu_count(),
        **versions(),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if not same or unnoticed or len(found) < options.kills:
        raise SystemExit("the run did not survive as it should")
    return result


if __name__ == "__main__":
    main()
