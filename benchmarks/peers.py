"""The same meta-gradient in fewshot_jax, PyTorch (autograd, torch.func), higher and TorchOpt: agreement, time, memory.

    pip install -e '.[peers]'
    python benchmarks/peers.py

Same weights, tasks, inner SGD and steps everywhere; a library stays in only if its
meta-gradient agrees. Each runs in a process of its own; the processes take turns, one
meta-gradient at a time, and medians are compared. "torch.func vmap" takes all tasks at
once; the others take one after another and free its graph before the next. Memory is
what the process's peak grew by after everything was loaded (and compiled, in our case;
the seconds of that stand beside it) and, for ours, what XLA counts as temporary.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import MIB, MODELS, arguments, named, table, with_lora, write

AGREE = 1e-4  # relative, float32, the norm over all leaves
PEERS = ("torch", "torch.func vmap", "higher", "torchopt")
REVERSE, MIXED = {"gradient": "reverse"}, {"gradient": "mixed"}
ONE = {"task_chunk": 1}
CASES: dict[str, dict[str, Any]] = {
    "sinusoid MLP 1-40-40-1": {
        "model": "sinusoids",
        "sizes": {"tasks": 25, "items": 10},
        "strategies": {"fewshot_jax reverse": REVERSE, "fewshot_jax mixed": MIXED},
    },
    "BERT-mini, full inner loop": {
        "model": "classifier",
        "sizes": {"layers": 4, "width": 256, "length": 32, "tasks": 4, "items": 25},
        "strategies": {"fewshot_jax reverse": {**REVERSE, **ONE}, "fewshot_jax mixed": {**MIXED, **ONE}},
    },
    "BERT-mini, LoRA and head": {
        "model": "classifier",
        "sizes": {"layers": 4, "width": 256, "length": 32, "tasks": 4, "items": 25},
        "lora": True,
        "strategies": {"fewshot_jax reverse": {**REVERSE, **ONE}, "fewshot_jax mixed": {**MIXED, **ONE}},
    },
}


class Worker:
    """A library in its own process."""

    def __init__(self, name: str, directory: Path):
        command = [sys.executable, str(Path(__file__).with_name("peers_worker.py")), name, str(directory)]
        self.name, self.directory = name, directory
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def read(self) -> str:
        """The next answer."""
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended early; see its message above")
        return answer.strip()

    def ask(self, command: str) -> str:
        """Send a line, wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def gradient(self) -> dict[str, np.ndarray]:
        """The meta-gradient by the names of the parameters."""
        path = self.directory / f"{self.name}.npz"
        self.ask(f"grad {str(path).replace(' ', '_')}")
        with np.load(str(path).replace(" ", "_")) as arrays:
            return dict(arrays)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def distance(given: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Relative distance over all parameters."""
    assert given.keys() == expected.keys(), given.keys() ^ expected.keys()
    difference = sum(np.sum((given[name].astype(np.float64) - expected[name]) ** 2) for name in expected)
    return float(np.sqrt(difference / sum(np.sum(value.astype(np.float64) ** 2) for value in expected.values())))


def compare(case: dict[str, Any], *, steps: int, rate: float, repeats: int, peers: tuple[str, ...]) -> list[dict]:
    """A row for each library on one problem, the fastest peer's ratio among them."""
    case = {"lora": False, "steps": steps, "rate": rate, **case}
    problem = MODELS[case["model"]](**case["sizes"])
    problem = with_lora(problem) if case["lora"] else problem
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "problem.json").write_text(json.dumps(case))
        arrays = {f"inner/{name}": value for name, value in named(problem.params).items()}
        arrays |= {f"frozen/{name}": value for name, value in named(problem.frozen).items()}
        for side in ("support", "query"):
            batch = getattr(problem.episodes, side)
            arrays |= {f"{side}/{name}": np.asarray(value) for name, value in batch.items()}
        np.savez(directory / "arrays.npz", **arrays)
        workers = [Worker(name, directory) for name in (*peers, *case["strategies"])]
        grads = {worker.name: worker.gradient() for worker in workers}
        errors = {name: distance(grad, grads[peers[0]]) for name, grad in grads.items()}
        if wrong := {name: error for name, error in errors.items() if error > AGREE}:
            raise SystemExit(f"the meta-gradients do not agree with {peers[0]}: {wrong}")
        seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for _ in range(repeats):
            for worker in workers:
                seconds[worker.name].append(float(worker.ask("run")))
        memory = {worker.name: json.loads(worker.ask("memory")) for worker in workers}
        for worker in workers:
            worker.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(medians[name] for name in peers)
    return [
        {
            "library": name,
            "relative_error": errors[name],
            "seconds": medians[name],
            "tasks_per_second": case["sizes"]["tasks"] / medians[name],
            "speed_over_fastest_peer": fastest / medians[name],
            **memory[name],
        }
        for name in medians
    ]


def show(rows: list[dict[str, Any]]) -> str:
    """The table of one problem."""
    cells = [
        (
            row["library"],
            f"{row['relative_error']:.0e}",
            1e3 * row["seconds"],
            row["tasks_per_second"],
            row["speed_over_fastest_peer"],
            row["resident_growth_bytes"] / MIB,
            row["xla_temporary_bytes"] / MIB if "xla_temporary_bytes" in row else None,
            row.get("compile_seconds"),
        )
        for row in rows
    ]
    head = ("library", "error", "ms", "tasks/s", "speed", "process MiB", "XLA temporary MiB", "compile s")
    return table(head, cells)


def main(argv: list[str] | None = None) -> dict[str, list[dict]]:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0], "peers")
    parser.add_argument("--steps", type=int, default=5, help="inner steps")
    parser.add_argument("--rate", type=float, default=0.01, help="inner rate")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=tuple(CASES))
    options = parser.parse_args(argv)
    results = {}
    for name in options.cases:
        case = CASES[name]
        if options.quick:
            small = {"layers": 1, "width": 32, "length": 4, "tasks": 2, "items": 5}
            case = {**case, "sizes": {key: min(value, small[key]) for key, value in case["sizes"].items()}}
        results[name] = compare(
            case,
            steps=2 if options.quick else options.steps,
            rate=options.rate,
            repeats=1 if options.quick else options.repeats,
            peers=tuple(options.peers),
        )
        print(f"\n{name}\n{show(results[name])}", flush=True)
    write(options.output, options, results, peers={name: version(name) for name in ("torch", "higher", "torchopt")})
    return results


if __name__ == "__main__":
    sys.exit(not main())
