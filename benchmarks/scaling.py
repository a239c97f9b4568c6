"""How the cost of a meta-gradient grows with inner steps, tasks, width and (simulated) devices.

    python benchmarks/scaling.py

One quantity varies at a time around a base size. On a CPU the devices are simulated
and share the same cores: what that row shows is that splitting the tasks over them
adds no work, not a speed-up. Each number of devices runs in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BASE = {"steps": 4, "tasks": 4, "width": 64, "devices": 1}
VALUES = {"steps": [1, 2, 4, 8, 16], "tasks": [1, 4, 16], "width": [32, 64, 128], "devices": [1, 2, 4]}
QUICK = {"steps": [1], "devices": [2]}


def measure(size: dict[str, int], *, layers: int, length: int, sequences: int, repeats: int) -> dict[str, Any]:
    """Seconds and temporary memory of mixed mode and of first order at one size, in this process."""
    import jax
    from common import decoder, inner_optimizer, interleaved

    import fewshot_jax as fsj
    from fewshot_jax.parallel.mesh import replicate, shard_tasks, task_mesh

    problem = decoder(layers=layers, width=size["width"], length=length, tasks=size["tasks"], sequences=sequences)
    mesh = task_mesh(jax.devices()[: size["devices"]])
    place = (
        replicate({"params": problem.params}, mesh),
        shard_tasks(problem.episodes, mesh),
        replicate(jax.random.key(0), mesh),
    )
    compiled, runs = {}, {}
    for gradient in ("first_order", "mixed"):
        learner = fsj.maml(
            problem.loss_fn,
            inner_optimizer=inner_optimizer("sgd"),
            inner_steps=size["steps"],
            gradient=gradient,
            task_chunk=size["devices"],  # one task at a time on each device
        )
        compiled[gradient] = jax.jit(learner.grad).lower(*place).compile()
        runs[gradient] = lambda program=compiled[gradient]: jax.block_until_ready(program(*place))
    seconds = interleaved(runs, repeats)
    return {
        **size,
        "seconds": seconds["mixed"],
        "tasks_per_second": size["tasks"] / seconds["mixed"],
        "over_first_order": seconds["mixed"] / seconds["first_order"],
        "temporary_bytes": compiled["mixed"].memory_analysis().temp_size_in_bytes,
        "first_order_temporary_bytes": compiled["first_order"].memory_analysis().temp_size_in_bytes,
    }


def in_process(size: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process that has the right number of devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={size['devices']}"
    command = [sys.executable, __file__, "--measure", json.dumps(size), "--repeats", str(options.repeats)]
    for name in ("layers", "length", "sequences"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags.strip()}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each, taking turns")
    parser.add_argument("--output", type=Path, default=Path("scaling.json"), help="where the JSON goes")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=32, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=4, help="support sequences of a task, as many query ones")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    shape = {name: getattr(options, name) for name in ("layers", "length", "sequences", "repeats")}
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure), **shape)))
        return []
    if options.quick:
        options.layers, options.length, options.sequences, options.repeats = 1, 8, 2, 1
    from common import MIB, table, write

    results = []
    base = {**BASE, "width": 16, "tasks": 2} if options.quick else BASE
    for varied, values in (QUICK if options.quick else VALUES).items():
        rows = [{"varied": varied, **in_process({**base, varied: value}, options)} for value in values]
        cells = [
            (
                row[varied],
                1e3 * row["seconds"],
                row["tasks_per_second"],
                row["over_first_order"],
                row["temporary_bytes"] / MIB,
                row["first_order_temporary_bytes"] / MIB,
            )
            for row in rows
        ]
        print("\n" + table((varied, "ms", "tasks/s", "over first order", "MiB", "first-order MiB"), cells), flush=True)
        results += rows
    write(options.output, options, results)
    return results


if __name__ == "__main__":
    main()
