"""How the cost of a meta-gradient grows with inner steps, tasks, width and (simulated) devices.

    python benchmarks/scaling.py

One quantity varies at a time around a base size. On a CPU the devices are simulated
and share the same cores: what that row shows is that splitting the tasks over them
adds no work, not a speed-up. Each number of devices runs in a process of its own.

Two tables more say what a whole training step holds and sends on 1 to 8 simulated devices, as `fewshot-jax plan` reads
it from the compiled program: with the tasks divided, two for each device, and with the weights divided (FSDP).
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BASE = {"steps": 4, "tasks": 4, "width": 64, "devices": 1}
VALUES = {"steps": [1, 2, 4, 8, 16], "tasks": [1, 4, 16], "width": [32, 64, 128], "devices": [1, 2, 4]}
CONFIG = Path(__file__).parents[1] / "configs" / "dialogue.yaml"
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
            task_chunk=1,  # on each device
        )
        grad = functools.partial(learner.grad, task_shards=size["devices"])
        compiled[gradient] = jax.jit(grad).lower(*place).compile()
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


def planned(devices: int, fsdp: int, quick: bool) -> dict[str, Any]:
    """The estimate of a step on so many simulated devices, two tasks for each."""
    sizes = {"width": 32, "layers": 1, "mlp-width": 32} if quick else {"width": 256, "layers": 4, "mlp-width": 512}
    command = [sys.executable, "-m", "fewshot_jax", "plan", str(CONFIG), "--devices", str(devices), "--json"]
    command += ["--outer.tasks", str(2 * devices), "--parallel.fsdp", str(fsdp)]
    command += [part for name, size in sizes.items() for part in (f"--model.{name}", str(size))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"varied": "mesh", "fsdp": fsdp, **json.loads(done.stdout)[-1]}


def mesh_rows(quick: bool) -> list[dict[str, Any]]:
    """The rows of both tables, which are printed."""
    from common import MIB, table

    counts = [1, 2] if quick else [1, 2, 4, 8]
    rows = [planned(n, 1, quick) for n in counts] + [planned(n, n, quick) for n in counts[1:]]
    one = rows[0]["state_bytes"]
    cells = []
    for row in rows:
        sums = [total for _, total in row["collectives"].values()]
        share = row["state_bytes"] / (one / row["fsdp"]) - 1
        cells.append(
            (
                row["devices"],
                row["fsdp"],
                row["tasks"],
                sum(sums) / MIB,
                row["state_bytes"] / MIB,
                f"{100 * share:+.1f}%",
            )
        )
    head = ("devices", "fsdp", "tasks", "MiB of collectives", "MiB of state", "over 1/fsdp of it")
    print("\n" + table(head, cells), flush=True)
    return rows


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
    parser.add_argument("--mesh", action="store_true", help="only what a step holds and sends")
    options = parser.parse_args(argv)
    shape = {name: getattr(options, name) for name in ("layers", "length", "sequences", "repeats")}
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure), **shape)))
        return []
    if options.mesh:
        rows = mesh_rows(options.quick)
        from common import write

        write(options.output, options, rows)
        return rows
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
    results += mesh_rows(options.quick)
    write(options.output, options, results)
    return results


if __name__ == "__main__":
    main()
