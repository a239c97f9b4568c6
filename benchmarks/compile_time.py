"""Seconds until the first meta-gradient: 2 layers against 12, with nothing compiled before and from the cache.

    python benchmarks/compile_time.py

Each measurement is a process of its own with a compilation cache of its own: first
empty, then as the first process left it. "first step" counts from the start of the
process, imports included; "compile" is tracing and compilation (or the reading of the cache).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(layers: int, width: int, began: float) -> dict[str, float]:
    """Compile and run one meta-gradient in this process."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from common import compile_gradient, decoder, inner_optimizer

    import fewshot_jax as fsj

    problem = decoder(layers=layers, width=width, length=32, tasks=2, sequences=2)
    learner = fsj.maml(problem.loss_fn, inner_optimizer=inner_optimizer("adam"), inner_steps=5, task_chunk=1)
    before = time.time()
    _, run = compile_gradient(problem, learner)
    compiled = time.time()
    run()
    return {"compile": compiled - before, "first_step": time.time() - began}


def in_process(layers: int, width: int, cache: str) -> dict[str, float]:
    """`measure` in a fresh process with this compilation cache."""
    command = [sys.executable, __file__, "--measure", str(layers), str(width), str(time.time())]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each")
    parser.add_argument("--output", type=Path, default=Path("compile_time.json"), help="where the JSON goes")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        layers, width, began = options.measure
        print(json.dumps(measure(int(layers), int(width), float(began))))
        return []
    if options.quick:
        options.width, options.layers, options.repeats = 32, [1], 1
    from common import table, write
    from numpy import median

    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(options.repeats):
        for layers in options.layers:
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "cached"):
                    found.setdefault((layers, state), []).append(in_process(layers, options.width, cache))
    results = [
        {
            "layers": layers,
            "cache": state,
            **{f"{name}_seconds": float(median([one[name] for one in runs])) for name in runs[0]},
        }
        for (layers, state), runs in found.items()
    ]
    cells = [(row["layers"], row["cache"], row["compile_seconds"], row["first_step_seconds"]) for row in results]
    print("\n" + table(("layers", "cache", "compile s", "first step s"), cells))
    write(options.output, options, results)
    return results


if __name__ == "__main__":
    main()
