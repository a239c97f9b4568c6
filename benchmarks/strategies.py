"""Time and memory of every way to differentiate the inner loop, beside first order and the arithmetic floor.

    python benchmarks/strategies.py                      # minutes on 2 CPU cores
    python benchmarks/strategies.py --optimizer sgd --steps 4 8 16
    python benchmarks/strategies.py --layers 12 --width 768 --length 128 --tasks 16   # on a GPU

For each strategy: the relative difference (in norm) from reverse over reverse; XLA's
temporary memory; the operations of the compiled matrix products, in forward passes
F; the median time. Ratios are to first order. The models compute elementwise operations
and attention weights again in every strategy (`models.layers`). The bound on memory that the mixed
mode aims at is first order plus, for each step, what is carried: the adapted
parameters, the optimizer's state and the inner gradient.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from common import MIB, arguments, compile_gradient, decoder, inner_optimizer, interleaved, relative_error, table, write

import fewshot_jax as fsj
from fewshot_jax.planning.matmul_cost import matmul_flops

STRATEGIES: dict[str, dict[str, Any]] = {
    "first order": {"gradient": "first_order"},
    "reverse": {"gradient": "reverse"},
    "reverse, keep carry": {"gradient": "reverse", "keep": "carry"},
    "reverse, keep carry, boundary": {"gradient": "reverse", "keep": "carry", "keep_blocks": "boundary"},
    "mixed, keep all": {"gradient": "mixed", "keep": "all", "keep_blocks": "all"},
    "mixed, blocks all": {"gradient": "mixed", "keep_blocks": "all"},
    "mixed (default)": {"gradient": "mixed"},
    "mixed, boundary": {"gradient": "mixed", "keep_blocks": "boundary"},
    "mixed, keep carry": {"gradient": "mixed", "keep": "carry"},
    "mixed, keep sqrt": {"gradient": "mixed", "keep": "sqrt"},
    "mixed, keep sqrt, boundary": {"gradient": "mixed", "keep": "sqrt", "keep_blocks": "boundary"},
}
QUICK = ("first order", "reverse", "mixed (default)")


def measure(options: Any, *, steps: int, layers: int, tasks: int, chunk: int, optimizer: str) -> list[dict[str, Any]]:
    """A row for each strategy at one size."""
    problem = decoder(
        layers=layers, width=options.width, length=options.length, tasks=tasks, sequences=options.sequences
    )
    names = QUICK if options.quick else tuple(options.strategies or STRATEGIES)
    names = tuple(dict.fromkeys(("first order", "reverse", *names)))  # what the others are held against
    compiled, runs, grads = {}, {}, {}
    for name in names:
        learner = fsj.maml(
            problem.loss_fn,
            inner_optimizer=inner_optimizer(optimizer),
            inner_steps=steps,
            task_chunk=chunk,
            **STRATEGIES[name],
        )
        compiled[name], runs[name] = compile_gradient(problem, learner)
        grads[name] = jax.device_get(runs[name]()[0])
    seconds = interleaved(runs, options.repeats)
    first, exact = "first order", grads["reverse"]
    temporary = {name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()}
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.params))
    state = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(jax.eval_shape(inner_optimizer(optimizer).init, problem.params))
    )
    carried = chunk * (size + state + (size if optimizer == "adam" else 0))
    rows = []
    for name in names:
        rows.append(
            {
                "optimizer": optimizer,
                "layers": layers,
                "steps": steps,
                "tasks": tasks,
                "task_chunk": chunk,
                "strategy": name,
                "relative_error": None if name == first else relative_error(grads[name], exact),
                "temporary_bytes": temporary[name],
                "memory_bound_bytes": temporary[first] + steps * carried,
                "forward_passes": matmul_flops(compiled[name].as_text()) / problem.forward_flops,
                "seconds": seconds[name],
                "time_ratio": seconds[name] / seconds[first],
            }
        )
    for row in rows:
        row["flop_ratio"] = row["forward_passes"] / rows[0]["forward_passes"]
    return rows


def show(rows: list[dict[str, Any]]) -> str:
    """The table of one size."""
    one = rows[0]
    title = (
        f"\n{one['optimizer']}, {one['layers']} layers, {one['steps']} steps, {one['tasks']} tasks, "
        f"{one['task_chunk']} at once; memory bound {one['memory_bound_bytes'] / MIB:,.0f} MiB"
    )
    cells = [
        (
            row["strategy"],
            "-" if row["relative_error"] is None else f"{row['relative_error']:.0e}",
            row["temporary_bytes"] / MIB,
            round(row["forward_passes"], 1),
            row["flop_ratio"],
            1e3 * row["seconds"],
            row["time_ratio"],
        )
        for row in rows
    ]
    return title + "\n" + table(("strategy", "error", "MiB", "F", "F ratio", "ms", "time ratio"), cells)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """The front of memory against time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for row in rows:
        x, y = row["temporary_bytes"] / MIB, row["time_ratio"]
        exact = row["strategy"] != "first order"
        axes.plot(x, y, "o" if exact else "s", color="C0" if exact else "0.5")
        axes.annotate(row["strategy"], (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel("XLA temporary memory (MiB)")
    axes.set_ylabel("time / first order")
    one = rows[0]
    axes.set_title(f"inner {one['optimizer']}, {one['layers']} layers, {one['steps']} steps, {one['tasks']} tasks")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0], "strategies")
    parser.add_argument("--optimizer", nargs="+", default=["adam", "sgd"], choices=["adam", "sgd"])
    parser.add_argument("--layers", nargs="+", type=int, default=[4])
    parser.add_argument("--steps", nargs="+", type=int, default=[8])
    parser.add_argument("--tasks", nargs="+", type=int, default=[2])
    parser.add_argument("--task-chunk", type=int, default=1, help="tasks vmapped at once")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=4, help="support sequences of a task, as many query ones")
    parser.add_argument("--strategies", nargs="+", choices=tuple(STRATEGIES), help="default: all")
    parser.add_argument("--picture", type=Path, help="draw memory against time of the first size here")
    options = parser.parse_args(argv)
    if options.quick:
        options.optimizer, options.layers, options.steps, options.tasks = ["adam"], [1], [2], [2]
        options.width, options.length, options.sequences, options.repeats = 32, 8, 2, 1
    everything = []
    for optimizer in options.optimizer:
        for layers in options.layers:
            for steps in options.steps:
                for tasks in options.tasks:
                    rows = measure(
                        options,
                        steps=steps,
                        layers=layers,
                        tasks=tasks,
                        chunk=min(tasks, options.task_chunk),
                        optimizer=optimizer,
                    )
                    print(show(rows), flush=True)
                    everything += rows
    if options.picture:
        one = everything[0]
        same = ("optimizer", "layers", "steps", "tasks")
        picture([row for row in everything if all(row[key] == one[key] for key in same)], options.picture)
    write(options.output, options, everything)
    return everything


if __name__ == "__main__":
    sys.exit(not main())
