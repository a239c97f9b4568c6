"""The loop around a pure step: what meta-training and pretraining share."""

import math
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fewshot_jax.errors import UserError
from fewshot_jax.parallel.mesh import replicate, shard_tasks, task_mesh
from fewshot_jax.training.checkpoints import Checkpoints, Judge
from fewshot_jax.training.metrics import MetricsFile, Progress, Speed, StopWatch
from fewshot_jax.training.run_directory import RunFiles
from fewshot_jax.training.state import TrainState
from fewshot_jax.training.step import Metrics, StepFn
from fewshot_jax.types import MetaParams, PyTree
from fewshot_jax.versions import versions

LOG_EVERY = 10  # steps averaged into one line of metrics.jsonl; a checkpoint ends a line too


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the loop needs to know.

    Attributes:
        state: makes the state before the first step.
        step: pure, not yet compiled.
        batches: of some steps, counted from 0; a batch is a function of its step alone. The leading axis of its
            leaves is divided over the mesh.
        mesh: of the devices.
        steps: of the whole run.
        every: steps between validations, each of which saves a checkpoint.
        rates: ``[steps]`` learning rates, for the log.
        validate: ``meta_params -> numbers``, the judge's metric among them.
        judge: which checkpoint is the best.
        record: goes into every checkpoint.
        not_finite: ``(step, metrics) -> message`` for a loss or gradient that is not finite.
        items, unit, title: what a step takes, and words for the progress.
        timing: ``(speed of the last steps or None, items per second since the start) -> columns of the log``.
    """

    state: Callable[[], TrainState]
    step: StepFn
    batches: Callable[[range], Generator[PyTree, None, None]]
    mesh: Mesh
    steps: int
    every: int
    rates: np.ndarray
    validate: Callable[[MetaParams], Mapping[str, float]]
    judge: Judge
    record: Mapping[str, Any]
    not_finite: Callable[[int, dict[str, Any]], str]
    items: float
    unit: str
    title: str
    timing: Callable[[Speed | None, float], Mapping[str, float | None]]


def even_mesh(items: int, name: str, *, quiet: bool) -> Mesh:
    """As many devices as divide a batch evenly; says so where that is not all.

    Args:
        items: in a batch.
        name: the config's field of their number.
        quiet: say nothing.
    """
    mesh = task_mesh(jax.devices()[: math.gcd(items, jax.device_count())])
    if mesh.size < jax.device_count() and not quiet:
        print(
            f"using {mesh.size} of {jax.device_count()} devices: {name}={items} is no multiple of more",
            file=sys.stderr,
        )
    return mesh


def fit(job: Fit, run: RunFiles, *, quiet: bool = False) -> dict[str, Any]:
    """Train from the last checkpoint of a run, or from the start, to the last step.

    Returns:
        The run's result: ``steps, best_step``, the judge's metric there, ``seconds, resumed_at`` and versions.

    Raises:
        UserError: the loss or the gradient stopped being finite.
    """
    checkpoints = Checkpoints(run.checkpoints, job.judge)
    state = job.state()
    if saved := checkpoints.steps():
        state = checkpoints.restore(saved[-1], state)
    state = replicate(state, job.mesh)
    start = int(state.step)
    if start and not quiet:
        print(f"{run.path}: goes on after step {start} of {job.steps}", file=sys.stderr)

    step_fn = jax.jit(job.step, donate_argnums=0)
    metrics_file = MetricsFile(run.metrics, after=start)
    progress = Progress(job.steps, start=start, items=job.items, unit=job.unit, title=job.title, quiet=quiet)
    watch = StopWatch()
    recent: list[dict[str, float]] = []
    began = time.monotonic() - metrics_file.seconds

    def seconds() -> float:
        """Of training and validation, compilation included; a resumed run counts on."""
        return time.monotonic() - began

    def read(step: int, metrics: Metrics) -> None:
        """Bring the metrics of a step to the host, one step late so that the device never waits."""
        values = jax.device_get(metrics)
        if not values["finite"]:
            raise UserError(job.not_finite(step, values))
        watch.step()
        scalars = {name: float(value) for name, value in values.items() if np.ndim(value) == 0 and name != "finite"}
        recent.append(scalars)
        progress.update(step, {"loss": scalars["loss"]})
        if step % LOG_EVERY == 0 or step % job.every == 0 or step == job.steps:
            means = {name: float(np.mean([row[name] for row in recent])) for name in scalars}
            if (speed := watch.read()) is not None:
                progress.measured = job.items / speed.seconds
            timing = {**job.timing(speed, progress.rate(step)), "seconds": seconds()}
            metrics_file.write({"step": step, **means, "rate": float(job.rates[step - 1]), **timing})
            recent.clear()

    pending: tuple[int, Metrics] | None = None
    batches = job.batches(range(start, job.steps))
    try:
        for step in range(start + 1, job.steps + 1):
            asked = time.monotonic()
            batch = next(batches)
            watch.waited(time.monotonic() - asked)
            state, metrics = step_fn(state, shard_tasks(batch, job.mesh))
            if pending is not None:
                read(*pending)
            pending = (step, metrics)
            if step % job.every == 0 or step == job.steps:
                read(*pending)
                pending = None
                judged = dict(job.validate(state.meta_params))
                metrics_file.write({"step": step, **judged})
                progress.line(step, {"loss": float(metrics["loss"]), **judged})
                # A copy: the next step donates these buffers while they are still being written.
                checkpoints.save(jax.tree.map(lambda leaf: leaf.copy(), state), job.record, judged)
                watch.resume()
    finally:
        batches.close()
        progress.close()
        metrics_file.close()
        checkpoints.wait()
    result = {
        "steps": job.steps,
        "best_step": checkpoints.best_step(),
        job.judge.metric: checkpoints.best_metric(),
        "seconds": seconds(),
        "resumed_at": start,
        **versions(),
    }
    checkpoints.close()
    return result
