"""Kill a run again and again: does it end with the same bits, what does saving cost, and how soon does it go on?

    python benchmarks/kill_and_resume.py

A small run is trained undisturbed. Then it is trained again, in a process that is killed (SIGKILL) at a random moment
and started anew by the same command, until it has been killed so often; its last checkpoint must be the same bits. The
kills come within a second and a half of the first progress after a start.
The last checkpoint's files are then changed, one random change at a time (a flipped bit, a cut file, a file gone), and
a start must set it aside and load the bits of the one before. The share of the time that saving holds training up is
measured in the loop itself.
"""

import argparse
import contextlib
import io
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

STEPS, EVERY = 800, 20
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


def opened(run: Path, *, read_only: bool) -> Any:
    """The checkpoints of a run, and the shape of what they hold."""
    from fewshot_jax.applications.table import build_application
    from fewshot_jax.runs.checkpoints import Checkpoints
    from fewshot_jax.training.experiment import Experiment
    from fewshot_jax.training.run_directory import RunDirectory

    directory = RunDirectory(run)
    application = build_application(directory.config(), run)
    like = Experiment(application).initial_state()
    return Checkpoints(directory.checkpoints, application.score, read_only=read_only), like


def bytes_of(state: Any) -> bytes:
    """All arrays of a state."""
    import jax
    import numpy as np

    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))


def saved_bytes(run: Path) -> dict[int, bytes]:
    """All arrays of each checkpoint."""
    checkpoints, like = opened(run, read_only=True)
    try:
        return {step: bytes_of(checkpoints.restore(step, like)) for step in checkpoints.steps()}
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


def changes(run: Path, count: int, rng: Any) -> dict[str, int]:
    """What a start loads after each of so many random changes of the last checkpoint's files.

    Returns:
        How often it was the checkpoint before, the changed one set aside; and how often anything else.
    """
    kept = saved_bytes(run)
    last = max(kept)
    files = sorted(file.relative_to(run) for file in (run / "checkpoints" / str(last)).rglob("*") if file.is_file())
    found = {"set_aside": 0, "loaded_wrongly": 0}
    for _ in range(count):
        with tempfile.TemporaryDirectory(dir=run.parent) as folder:
            copy = Path(folder) / "run"
            shutil.copytree(run, copy)
            file = copy / files[rng.integers(len(files))]
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
            with contextlib.redirect_stderr(io.StringIO()):
                checkpoints, like = opened(copy, read_only=False)
            step = checkpoints.steps()[-1]
            right = step < last and bytes_of(checkpoints.restore(step, like)) == kept[step]
            checkpoints.close()
            found["set_aside" if right else "loaded_wrongly"] += 1
    checkpoints, _ = opened(run, read_only=False)
    whole = checkpoints.steps() == sorted(kept)
    checkpoints.close()
    if not whole:
        raise SystemExit("a checkpoint that nobody changed counts as damaged")
    return found


def saving(config: Any, run: Path) -> dict[str, float]:
    """Seconds that a save holds training up, and the share of the time at one save a minute."""
    from fewshot_jax.runs.checkpoints import Checkpoints
    from fewshot_jax.training import loop

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
        undisturbed, killed = (saved_bytes(folder / name) for name in ("undisturbed", "killed"))
        same = undisturbed[options.steps] == killed[options.steps]
        loaded = changes(folder / "killed", options.changes, rng)
    finally:
        shutil.rmtree(folder)
    resumed = sorted(one["seconds_to_first_metrics"] for one in found[1:]) or [float("nan")]
    result = {
        "kills": len(found),
        "same_bits": same,
        "changes": loaded,
        "seconds_from_start_to_first_metrics": {"median": resumed[len(resumed) // 2], "largest": resumed[-1]},
        "saving": cost,
        "steps": options.steps,
        "cores": os.cpu_count(),
        **versions(),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if not same or loaded["loaded_wrongly"] or len(found) < options.kills:
        raise SystemExit("the run did not survive as it should")
    return result


if __name__ == "__main__":
    main()
