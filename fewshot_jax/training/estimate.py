"""Behind 'fewshot-jax plan': what a run would need on devices that are not here, from its compiled step.

The step is compiled ahead of time, without data or weights, for as many simulated CPU devices as are asked for, and
read: XLA's account of the memory of a device, the operations of its matrix products, and the collectives. From these
a roofline gives a lower bound of the time. All of it is an estimate: a GPU's compiler fuses otherwise.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from fewshot_jax.applications.table import build_application
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError, require
from fewshot_jax.parallel.mesh import batch_sharding, batch_shards, make_mesh, shapes_on
from fewshot_jax.parallel.rules import shardings
from fewshot_jax.planning.collectives import Collective, collectives
from fewshot_jax.planning.matmul_cost import matmul_flops
from fewshot_jax.runs.step import step_on_mesh
from fewshot_jax.training.experiment import Experiment, meta_gradient
from fewshot_jax.training.frozen import trained_leaves
from fewshot_jax.training.optimizer import outer_optimizer
from fewshot_jax.types import MetaParams

MACHINE = 8  # devices that the fast links join


class Chip(NamedTuple):
    """A device by its maker's data sheet: peak rates of dense products, of memory, and of its links one way.

    Attributes:
        float32: FLOPs a second of float32 products as jax computes them by default (TF32 on NVIDIA).
        bfloat16: FLOPs a second.
        memory: bytes a second.
        link: bytes a second to the devices of the same machine.
        size: bytes of memory.
    """

    float32: float
    bfloat16: float
    memory: float
    link: float
    size: float


CHIPS = {
    "a100": Chip(156e12, 312e12, 2.039e12, 300e9, 80e9),
    "h100": Chip(494.7e12, 989.4e12, 3.35e12, 450e9, 80e9),
    "h200": Chip(494.7e12, 989.4e12, 4.8e12, 450e9, 141e9),
}


class Limits(NamedTuple):
    """What the devices have.

    Attributes:
        chip: their kind.
        size: bytes of a device's memory.
        network: bytes a second that a device sends to other machines.
    """

    chip: Chip
    size: float
    network: float


class StepEstimate(NamedTuple):
    """What one outer step needs.

    Attributes:
        devices, mesh: how many, and the sizes of the axes.
        tasks: in a meta-batch.
        at_once: tasks that a device has in memory at a time; the rest follow in chunks.
        parameters: numbers that are meta-learned.
        state_bytes: of the parameters and the optimizer's state, on a device.
        device_bytes: of all that a step holds on a device.
        flops: of a device's matrix products.
        sent_bytes: by a device, over the links of ring algorithms; a collective inside a loop (over chunks of tasks, or
            over layers with a tensor axis) counts once.
        collectives: operation, how often, bytes.
        seconds: a lower bound; of it the parts are ``compute``, ``memory`` and ``traffic``.
        fits: whether the memory suffices.
    """

    devices: int
    mesh: dict[str, int]
    tasks: int
    at_once: int
    parameters: int
    state_bytes: int
    device_bytes: int
    flops: float | None
    sent_bytes: float
    collectives: dict[str, list[int]]
    seconds: float
    compute: float
    memory: float
    traffic: float
    fits: bool


def estimates(config: Config, *, chip: str, memory: float | None, network: float) -> list[StepEstimate]:
    """Compile the step of a config for all simulated devices, with more and more tasks at once, until they do not fit.

    Args:
        config: of the run.
        chip: a key of `CHIPS`.
        memory: bytes of a device; None for the chip's.
        network: bytes a second that a device sends to other machines.

    Returns:
        The estimates; of the last of them, ``fits`` may be false.

    Raises:
        UserError: the devices do not divide the meta-batch or the weights as asked.
    """
    require(chip in CHIPS, f"--device {chip}: known are {', '.join(CHIPS)}")
    limits = Limits(CHIPS[chip], CHIPS[chip].size if memory is None else memory, network)
    parallel = config.parallel
    mesh = make_mesh(fsdp=parallel.fsdp, tensor=parallel.tensor)
    shards, tasks = batch_shards(mesh), config.outer.tasks
    if tasks % shards:
        raise UserError(
            f"outer.tasks={tasks}: expected a multiple of the {shards} parts into which the devices divide a batch; "
            f"try --outer.tasks {-(-tasks // shards) * shards}"
        )
    experiment = Experiment(build_application(config))
    state = experiment.shapes
    state_shardings = shardings(state, mesh, parallel.rules)
    first = experiment.application.training_stream()(0, tasks)
    over = batch_sharding(mesh)
    batch, placed = shapes_on(first, over), shapes_on(state, state_shardings)
    here = tasks // shards
    asked = config.learner.task_chunk
    chunks = "learner.task_chunk" not in config.learner.record.refuses  # a function of the user's own has none
    choices = [2**power for power in range(here.bit_length()) if chunks and 2**power < here] + [here]
    found: list[StepEstimate] = []
    for at_once in [min(asked, here)] if asked else choices:
        fields = dataclasses.replace(config.learner, task_chunk=at_once) if chunks else config.learner
        learner = experiment.with_config(dataclasses.replace(config, learner=fields)).training.learner
        step = step_on_mesh(
            meta_gradient(learner, shards),
            outer_optimizer(config.outer),
            state_shardings,
            steps=config.outer.steps,
            spike_factor=config.recovery.spike_factor,
        )
        compiled = step.lower(placed, batch).compile()
        found.append(_read(compiled, config, state_shardings, state, at_once, limits))
        if not found[-1].fits:
            break
    return found


def _trained(meta_params: MetaParams, pattern: str | None) -> int:
    """How many numbers the outer loop trains."""
    pairs = zip(*map(jax.tree.leaves, (meta_params, trained_leaves(meta_params, pattern))), strict=True)
    return sum(leaf.size for leaf, used in pairs if used)


def _read(
    compiled: Any, config: Config, state_shardings: Any, state: Any, at_once: int, limits: Limits
) -> StepEstimate:
    """Read what a compiled step needs.

    Args:
        compiled: the step of `step_on_mesh`.
        config: of the run.
        state_shardings: a `NamedSharding` for each leaf of the state.
        state: shapes and dtypes.
        at_once: tasks that a device has in memory at a time.
        limits: of the devices.
    """
    mesh = state_shardings.step.mesh
    memory, program = compiled.memory_analysis(), compiled.as_text()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    held -= memory.alias_size_in_bytes  # the state, which is donated
    flops = _flops(program)
    sends = collectives(program, mesh.size)
    sent = sum(one.times * one.sent for one in sends)
    chip = limits.chip
    peak = chip.bfloat16 if config.model.compute_dtype == "bfloat16" else chip.float32
    compute = (flops or 0.0) / peak
    moved = (memory.argument_size_in_bytes + memory.output_size_in_bytes + 2 * memory.temp_size_in_bytes) / chip.memory
    traffic = sent / (chip.link if mesh.size <= MACHINE else min(chip.link, limits.network))
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(state_shardings), strict=True)
    here = sum(int(np.prod(where.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf, where in pairs)
    return StepEstimate(
        devices=mesh.size,
        mesh=dict(mesh.shape),
        tasks=config.outer.tasks,
        at_once=at_once,
        parameters=_trained(state.meta_params, config.outer.params),
        state_bytes=here,
        device_bytes=held,
        flops=flops,
        sent_bytes=sent,
        collectives=_by_kind(sends),
        seconds=max(compute, moved) + traffic,
        compute=compute,
        memory=moved,
        traffic=traffic,
        fits=held <= limits.size,
    )


def _flops(program: str) -> float | None:
    """Count the operations of a program's matrix products; None where they cannot be counted."""
    try:
        return matmul_flops(program)
    except ValueError:
        return None


def _by_kind(sends: Iterable[Collective]) -> dict[str, list[int]]:
    """Sum how often each kind of collective runs, and its bytes."""
    kinds: dict[str, list[int]] = {}
    for one in sends:
        count, total = kinds.get(one.operation, [0, 0])
        kinds[one.operation] = [count + one.times, total + one.times * one.bytes]
    return kinds
