"""One library in one process: computes a meta-gradient when told to. Started by peers.py.

    python benchmarks/peers_worker.py LIBRARY DIRECTORY

``DIRECTORY/problem.json`` describes the problem, ``arrays.npz`` holds it for PyTorch.
Each line on standard input is answered by a line on standard output: ``grad FILE``
writes the meta-gradient, ``run`` gives the seconds of one, ``memory`` the bytes that
the process has taken since everything was loaded, at the peak, and what XLA or the
torch allocator counts, where they count.
"""

import ctypes
import gc
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Gradients = Callable[[], dict[str, np.ndarray]]


def jax_worker(
    problem: dict[str, Any], strategy: dict[str, Any]
) -> tuple[Callable[[], Any], Gradients, dict[str, Any]]:
    """Our own: the problem is made anew from its sizes, the same numbers."""
    import jax
    import optax
    from common import MODELS, compile_gradient, named, with_lora

    import fewshot_jax as fsj

    made = MODELS[problem["model"]](**problem["sizes"])
    made = with_lora(made) if problem["lora"] else made
    learner = fsj.maml(
        made.loss_fn, inner_optimizer=optax.sgd(problem["rate"]), inner_steps=problem["steps"], **strategy
    )
    compiled, run = compile_gradient(made, learner)
    return (
        run,
        lambda: named(jax.device_get(run()[0]["params"])),
        {"xla_temporary_bytes": compiled.memory_analysis().temp_size_in_bytes},
    )


def torch_worker(
    library: str, problem: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[Callable[[], Any], Gradients, dict[str, Any]]:
    """PyTorch: tasks one after another, each task's graph freed before the next."""
    import torch
    from torch_models import Model, classifier_loss, sinusoid_loss, tensors

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def pick(prefix: str) -> dict[str, torch.Tensor]:
        chosen = {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}
        return tensors(chosen, device)

    inner, frozen, support, query = map(pick, ("inner/", "frozen/", "support/", "query/"))
    sizes, rate, steps = problem["sizes"], problem["rate"], problem["steps"]
    if problem["model"] == "classifier":
        heads = max(1, sizes["width"] // 64)
        loss_of = lambda params, batch: classifier_loss(params, batch, sizes["layers"], heads)  # noqa: E731
    else:
        loss_of = sinusoid_loss
    tasks = sizes["tasks"]
    one = lambda side, task: {name: value[task] for name, value in side.items()}  # noqa: E731

    def plain(task: int, total: dict[str, torch.Tensor]) -> None:
        leaves = {name: value.detach().requires_grad_() for name, value in inner.items()}
        params = leaves
        for _ in range(steps):
            loss = loss_of({**frozen, **params}, one(support, task))
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {name: value - rate * g for (name, value), g in zip(params.items(), grads, strict=True)}
        outer = loss_of({**frozen, **params}, one(query, task)) / tasks
        for name, g in zip(leaves, torch.autograd.grad(outer, list(leaves.values())), strict=True):
            total[name] += g

    def with_higher(task: int, total: dict[str, torch.Tensor]) -> None:
        higher = importlib.import_module("higher")
        model = Model(inner, loss_of)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (functional, differentiable):
            for _ in range(steps):
                differentiable.step(functional(one(support, task), frozen))
            (functional(one(query, task), frozen) / tasks).backward()
        collect(model, total)

    def with_torchopt(task: int, total: dict[str, torch.Tensor]) -> None:
        torchopt = importlib.import_module("torchopt")
        model = Model(inner, loss_of)
        leaves = list(model.parameters())
        optimizer = torchopt.MetaSGD(model, lr=rate)
        for _ in range(steps):
            optimizer.step(model(one(support, task), frozen))
        outer = model(one(query, task), frozen) / tasks
        for name, g in zip(model.names, torch.autograd.grad(outer, leaves), strict=True):
            total[name] += g

    def collect(model: Model, total: dict[str, torch.Tensor]) -> None:
        for name, value in zip(model.names, model.parameters(), strict=True):
            total[name] += value.grad

    per_task = {"torch": plain, "higher": with_higher, "torchopt": with_torchopt}[library]

    def run() -> dict[str, torch.Tensor]:
        total = {name: torch.zeros_like(value) for name, value in inner.items()}
        for task in range(tasks):
            per_task(task, total)
        if device == "cuda":
            torch.cuda.synchronize()
        return total

    return run, lambda: {name: value.cpu().numpy() for name, value in run().items()}, {}


def resident(field: str) -> int:
    """Resident bytes of this process: ``VmRSS`` now, ``VmHWM`` at the peak since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


def start_counting() -> int:
    """Give freed memory back, reset the peak, and say what is resident."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def main() -> None:
    """Serve the parent process."""
    library, directory = sys.argv[1], Path(sys.argv[2])
    problem = json.loads((directory / "problem.json").read_text())
    if library in problem["strategies"]:
        run, gradients, extra = jax_worker(problem, problem["strategies"][library])
    else:
        with np.load(directory / "arrays.npz") as arrays:
            run, gradients, extra = torch_worker(library, problem, dict(arrays))
    before = start_counting()
    print("ready", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "grad":
            np.savez(rest[0], **gradients())
            print("done", flush=True)
        elif command == "run":
            began = time.perf_counter()
            run()
            print(time.perf_counter() - began, flush=True)
        else:
            print(json.dumps({"resident_growth_bytes": resident("VmHWM") - before, **extra}), flush=True)


if __name__ == "__main__":
    main()
