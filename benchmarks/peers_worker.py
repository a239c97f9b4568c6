"""One library in one process: computes a meta-gradient when told to. Started by peers.py.

    python benchmarks/peers_worker.py LIBRARY DIRECTORY

``DIRECTORY/problem.json`` describes the problem, ``arrays.npz`` holds it for PyTorch.
Each line on standard input is answered by a line on standard output: ``grad FILE``
writes the meta-gradient, ``run`` gives the seconds of one, ``memory`` the bytes that
the process has taken at its peak since everything was imported, loaded and, in our
case, compiled; beside it what XLA, or torch's allocator on a GPU, counts.
"""

import ctypes
import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Compute one meta-gradient; the same as arrays by name; what the library counts of memory.
Served = tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]], Callable[[], dict[str, Any]]]


def jax_worker(problem: dict[str, Any], strategy: dict[str, Any]) -> Served:
    """Our own: the problem is made anew from its sizes, the same numbers."""
    import jax
    import optax

    jax.config.update("jax_default_matmul_precision", "highest")  # as torch: no TF32 on either side
    from common import MODELS, compile_gradient, named, with_lora

    import fewshot_jax as fsj

    made = MODELS[problem["model"]](**problem["sizes"])
    made = with_lora(made) if problem["lora"] else made
    learner = fsj.maml(
        made.loss_fn, inner_optimizer=optax.sgd(problem["rate"]), inner_steps=problem["steps"], **strategy
    )
    began = time.perf_counter()
    compiled, run = compile_gradient(made, learner)
    seconds = time.perf_counter() - began
    extra = {"xla_temporary_bytes": compiled.memory_analysis().temp_size_in_bytes, "compile_seconds": seconds}
    return run, lambda: named(jax.device_get(run()[0]["params"])), lambda: extra


def torch_worker(library: str, problem: dict[str, Any], arrays: dict[str, np.ndarray]) -> Served:
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

    library_module = importlib.import_module(library) if library in ("higher", "torchopt") else None
    model = Model(inner, loss_of).to(device)
    leaves = list(model.parameters())

    def with_higher(task: int, total: dict[str, torch.Tensor]) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        context = library_module.innerloop_ctx(model, optimizer, copy_initial_weights=False)
        with context as (functional, differentiable):
            for _ in range(steps):
                differentiable.step(functional(one(support, task), frozen))
            outer = functional(one(query, task), frozen) / tasks
            collect(torch.autograd.grad(outer, leaves), total)

    def with_torchopt(task: int, total: dict[str, torch.Tensor]) -> None:
        optimizer = library_module.MetaSGD(model, lr=rate)
        start = library_module.extract_state_dict(model, by="reference")
        for _ in range(steps):
            optimizer.step(model(one(support, task), frozen))
        collect(torch.autograd.grad(model(one(query, task), frozen) / tasks, leaves), total)
        library_module.recover_state_dict(model, start)

    def collect(grads: Sequence[torch.Tensor], total: dict[str, torch.Tensor]) -> None:
        for name, value in zip(inner, grads, strict=True):
            total[name] += value

    def one_by_one() -> dict[str, torch.Tensor]:
        total = {name: torch.zeros_like(value) for name, value in inner.items()}
        for task in range(tasks):
            per_task(task, total)
        return total

    def batched() -> dict[str, torch.Tensor]:
        """torch.func: the tasks under one vmap, the gradient of their mean."""

        def task_loss(params: Any, support: Any, query: Any) -> torch.Tensor:
            for _ in range(steps):
                grads = torch.func.grad(lambda p: loss_of({**frozen, **p}, support))(params)
                params = {name: value - rate * grads[name] for name, value in params.items()}
            return loss_of({**frozen, **params}, query)

        mean = lambda params: torch.func.vmap(task_loss, (None, 0, 0))(params, support, query).mean()  # noqa: E731
        return torch.func.grad(mean)(inner)

    per_task = {"torch": plain, "higher": with_higher, "torchopt": with_torchopt}.get(library)
    compute = batched if per_task is None else one_by_one

    def run() -> dict[str, torch.Tensor]:
        total = compute()
        if device == "cuda":
            torch.cuda.synchronize()
        return total

    def memory() -> dict[str, int]:
        return {"device_peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}

    return run, lambda: {name: value.detach().cpu().numpy() for name, value in run().items()}, memory


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
            print(json.dumps({"resident_growth_bytes": resident("VmHWM") - before, **extra()}), flush=True)


if __name__ == "__main__":
    main()
