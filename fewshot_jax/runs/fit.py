"""The crash-safe loop around any pure step: what meta-training and pretraining share."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fewshot_jax.config import ParallelConfig, RecoveryConfig
from fewshot_jax.errors import Terminated, UserError
from fewshot_jax.parallel.mesh import host_values, local_copy, make_mesh, shard_tasks
from fewshot_jax.parallel.processes import is_first
from fewshot_jax.parallel.rules import made_on_mesh, shardings
from fewshot_jax.runs.checkpoints import Checkpoints, Criterion
from fewshot_jax.runs.directory import RunFiles
from fewshot_jax.runs.interruption import termination
from fewshot_jax.runs.metrics import MetricsFile, Progress, Speed, StopWatch
from fewshot_jax.runs.state import TrainState
from fewshot_jax.runs.step import Metrics, StepGradient, step_on_mesh
from fewshot_jax.runs.weights_and_biases import Tracker
from fewshot_jax.types import MetaParams, PyTree
from fewshot_jax.versions import versions

GUARD = ("finite", "spike", "skipped", "in_a_row")  # metrics of the guard, which are no means
LOG_EVERY = 10  # steps averaged into one line of metrics.jsonl; a checkpoint ends a line too


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the loop needs to know.

    Attributes:
        state: makes the state before the first step.
        grad: of a batch, not yet compiled.
        optimizer: of the state.
        batches: of some steps, counted from 0; a batch is a function of its step alone. The leading axis of its
            leaves is divided over the mesh.
        mesh: of the devices.
        parallel: how weights are divided over them.
        recovery: checkpoints, and what is done when a step goes wrong.
        steps: of the whole run.
        every: steps between validations, each of which saves a checkpoint.
        rates: ``[steps]`` learning rates, for the log.
        validate: ``meta_params -> numbers``, the criterion's metric among them; of parameters as the mesh holds them.
        criterion: by which number of a validation a checkpoint is the best.
        record: goes into every checkpoint.
        cause: ``metrics -> words`` that say which loss or gradient is not finite.
        remedy: what helps then, as a sentence.
        items: tasks or tokens of a step.
        unit: their name.
        title: of the progress bar.
        timing: ``(speed of the last steps or None, items per second since the start) -> columns of the log``.
        report: ``(step, numbers)``, told of each validation; what it raises ends the run. None for nobody.
    """

    state: Callable[[], TrainState]
    grad: StepGradient
    optimizer: optax.GradientTransformation
    batches: Callable[[range], Generator[PyTree, None, None]]
    mesh: Mesh
    parallel: ParallelConfig
    recovery: RecoveryConfig
    steps: int
    every: int
    rates: np.ndarray
    validate: Callable[[MetaParams], Mapping[str, float]]
    criterion: Criterion
    record: Mapping[str, Any]
    cause: Callable[[dict[str, Any]], str]
    remedy: str
    items: float
    unit: str
    title: str
    timing: Callable[[Speed | None, float], Mapping[str, float | None]]
    report: Callable[[int, Mapping[str, float]], None] | None = None


def even_mesh(items: int, name: str, parallel: ParallelConfig, *, quiet: bool) -> Mesh:
    """As many devices as divide a batch evenly; says so where that is not all.

    Args:
        items: in a batch.
        name: the config's field of their number.
        parallel: sizes of the axes that divide weights.
        quiet: say nothing.

    Raises:
        UserError: the devices, or the batch, cannot be divided as asked.
    """
    every, tensor, fsdp = jax.device_count(), parallel.tensor, parallel.fsdp
    if jax.process_count() > 1 and every % (fsdp * tensor):
        raise UserError(
            f"parallel.fsdp={fsdp}, parallel.tensor={tensor}: with several processes expected a divisor of their "
            f"{every} devices together"
        )
    if jax.process_count() > 1 and items % (every // tensor):
        raise UserError(
            f"{name}={items}: with several processes expected a multiple of the {every // tensor} parts into which "
            f"{every} devices divide a batch"
        )
    if items % fsdp:
        raise UserError(f"{name}={items}: expected a multiple of parallel.fsdp={fsdp}, which divides batches too")
    shards = next((n for n in range(every // tensor, 0, -1) if items % n == 0 and n % fsdp == 0), None)
    if shards is None:
        raise UserError(f"parallel.fsdp={fsdp}, parallel.tensor={tensor}: expected no more than the {every} devices")
    mesh = make_mesh(jax.devices()[: shards * tensor], fsdp=fsdp, tensor=tensor)
    if mesh.size < jax.device_count() and not quiet:
        print(
            f"using {mesh.size} of {jax.device_count()} devices: more do not divide {name}={items} and the mesh",
            file=sys.stderr,
        )
    return mesh


def fit(job: Fit, run: RunFiles, *, quiet: bool = False, wandb: str | None = None) -> dict[str, Any]:
    """Train from the last checkpoint of a run, or from the start, to the last step.

    Args:
        job: what to do.
        run: where its files go.
        quiet: no progress.
        wandb: project on Weights & Biases that gets the metrics too; None for none.

    Returns:
        The run's result: ``steps, best_step``, the criterion's metric there, ``seconds, resumed_at`` and versions.

    Raises:
        UserError: the loss or the gradient stopped being finite, or a checkpoint cannot be written.
        Terminated: the process was told to end, and a checkpoint is saved.
    """
    quiet = quiet or not is_first()
    checkpoints = Checkpoints(run.checkpoints, job.criterion, keep=job.recovery.keep)
    saved = checkpoints.steps()
    start = saved[-1] if saved else 0
    if start and not quiet:
        print(f"{run.path}: goes on after step {start} of {job.steps}", file=sys.stderr)
    log = _Log(job, run, after=start, quiet=quiet, wandb=wandb)
    try:
        _train(job, run, checkpoints, log)
    finally:
        log.close()
        checkpoints.wait()
    result = {
        "steps": job.steps,
        "best_step": checkpoints.best_step(),
        job.criterion.metric: checkpoints.best_metric(),
        "seconds": log.seconds(),
        "resumed_at": start,
        **versions(),
    }
    checkpoints.close()
    return result


def _latest_state(job: Fit, checkpoints: Checkpoints) -> tuple[TrainState, Any]:
    """Return the state of the last checkpoint, or the initial one, on the mesh, and its shardings."""
    state = made_on_mesh(job.state, job.mesh, job.parallel.rules)
    state_shardings = shardings(state, job.mesh, job.parallel.rules)
    if saved := checkpoints.steps():
        state = checkpoints.restore(saved[-1], state)
    return state, state_shardings


def _train(job: Fit, run: RunFiles, checkpoints: Checkpoints, log: "_Log") -> None:
    """Take the steps that are left, with a validation and a checkpoint where they are due."""
    state, state_shardings = _latest_state(job, checkpoints)  # here alone: each step donates the state before it
    start, recovery = int(host_values(state.step)), job.recovery
    step_fn = step_on_mesh(
        job.grad, job.optimizer, state_shardings, steps=job.steps, spike_factor=recovery.spike_factor
    )
    pending: tuple[int, Metrics] | None = None
    batches = _on_mesh(job.batches(range(start, job.steps)), job.mesh)
    with contextlib.closing(batches), termination() as asked_to_end:
        for step in range(start + 1, job.steps + 1):
            batch = log.waiting(batches)
            state, metrics = step_fn(state, batch)
            if pending is not None:
                log.read(*pending)
            pending = (step, metrics)
            checkpoints.refresh()
            last = asked_to_end()
            validates = step % job.every == 0 or step == job.steps
            if validates or last or (recovery.checkpoint_every and step % recovery.checkpoint_every == 0):
                log.read(*pending, ends=True)
                pending, scores = None, None
                if validates:
                    scores = dict(job.validate(state.meta_params))
                    log.validated(step, metrics, scores)
                checkpoints.save(state, job.record, scores)
                log.resume()
                if scores is not None and job.report is not None:
                    job.report(step, scores)
            if last:
                raise Terminated(f"{run.path}: told to end, saved at step {step} of {job.steps}")


class _Log:
    """The metrics of a run, averaged over a few steps: to its files, its trackers and its progress bar.

    Args:
        job: of the run.
        run: where its files go.
        after: the step that the run goes on from.
        quiet: no progress.
        wandb: as of `fit`.
    """

    def __init__(self, job: Fit, run: RunFiles, *, after: int, quiet: bool, wandb: str | None):
        tracked = wandb is not None and is_first()
        sinks = [Tracker(str(wandb), run.path, after=after, config=job.record["config"])] if tracked else []
        self._job, self._run, self._quiet = job, run, quiet
        self._file = MetricsFile(run.metrics, after=after, read_only=not is_first(), sinks=sinks)
        self._progress = Progress(job.steps, start=after, items=job.items, unit=job.unit, title=job.title, quiet=quiet)
        self._watch = StopWatch()
        self._recent: list[dict[str, float]] = []
        self._began = time.monotonic() - self._file.seconds

    def seconds(self) -> float:
        """Return the time of training and validation, compilation included; a resumed run counts on."""
        return time.monotonic() - self._began

    def waiting(self, batches: Iterator[PyTree]) -> PyTree:
        """Return the next batch, and count the time until it is there."""
        asked = time.monotonic()
        batch = next(batches)
        self._watch.waited(time.monotonic() - asked)
        return batch

    def resume(self) -> None:
        """Leave the time of a validation and of a checkpoint out of the time of a step."""
        self._watch.resume()

    def read(self, step: int, metrics: Metrics, *, ends: bool = False) -> None:
        """Bring the metrics of a step to the host, one step late so that the device never waits.

        Raises:
            UserError: too many updates in a row were skipped.
        """
        values = host_values(metrics)
        self._watch.step()
        if values["in_a_row"]:
            # Divided over processes, none of which can name the tasks of another.
            self._skipped(step, host_values(local_copy(metrics)))
        scalars = {name: float(value) for name, value in values.items() if np.ndim(value) == 0 and name not in GUARD}
        self._recent.append(scalars if not values["in_a_row"] else {})
        self._progress.update(step, {"loss": scalars["loss"]})
        if step % LOG_EVERY == 0 or ends:
            self._write(step, scalars, int(values["skipped"]))

    def _write(self, step: int, scalars: Mapping[str, float], skipped: int) -> None:
        """Write the means of the steps since the last line."""
        job, taken = self._job, [row for row in self._recent if row]
        means = {name: float(np.mean([row[name] for row in taken])) for name in scalars if taken}
        if skipped:
            means["skipped"] = skipped
        if (speed := self._watch.read()) is not None:
            self._progress.measured = job.items / speed.seconds
        timing = {**job.timing(speed, self._progress.rate(step)), "seconds": self.seconds()}
        rate = float(job.rates[max(step - 1 - skipped, 0)])  # a skipped update does not advance the schedule
        self._file.write({"step": step, **means, "rate": rate, **timing})
        self._recent.clear()

    def _skipped(self, step: int, values: dict[str, Any]) -> None:
        """Report that an update was skipped, and why; end the run if it was one too many."""
        job, run, in_a_row = self._job, self._run, values["in_a_row"]
        why = f"the loss, {float(values['loss']):.3g}, is a spike" if values["spike"] else job.cause(values)
        if in_a_row >= job.recovery.skip_limit:
            many = f"{in_a_row} updates in a row were skipped, " if in_a_row > 1 else ""
            raise UserError(f"{run.path}: {many}at step {step} {why}; the last checkpoint is untouched. {job.remedy}")
        self._file.write({"step": step, "skipped_because": why})
        if not self._quiet:
            print(f"step {step}: {why}; the update is skipped", file=sys.stderr, flush=True)

    def validated(self, step: int, metrics: Metrics, scores: Mapping[str, float]) -> None:
        """Write the numbers of a validation."""
        self._file.write({"step": step, **scores})
        self._progress.line(step, {"loss": float(host_values(metrics["loss"])), **scores})

    def close(self) -> None:
        """Close the files and the progress bar."""
        self._progress.close()
        self._file.close()


def _on_mesh(batches: Generator[PyTree, None, None], mesh: Mesh) -> Generator[PyTree, None, None]:
    """Batches on the mesh; the transfer of one overlaps with the step that runs meanwhile."""
    try:
        for batch in batches:
            yield shard_tasks(batch, mesh)
    finally:
        batches.close()
