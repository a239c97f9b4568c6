"""How a run is spread over devices, and how it survives."""

import math
import re
from dataclasses import dataclass

from fewshot_jax.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The mesh of devices: its axes are task, fsdp and tensor; none of them changes what is computed.

    Attributes:
        fsdp: devices over which parameters and optimizer state are divided; a meta-batch is divided over them too.
        tensor: devices that share the matrix products of a task; the rest of the devices divide the meta-batch.
        rules: pairs of a regular expression on a leaf's path and the mesh axes of its dimensions from the left, such
            as ["mlp/down/kernel$", "-,tensor,fsdp"] ("-" leaves a dimension whole); the first that matches counts,
            before the rules of `parallel.rules`.
    """

    fsdp: int = 1
    tensor: int = 1
    rules: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("fsdp", "tensor"):
            require(getattr(self, name) >= 1, f"parallel.{name}={getattr(self, name)}: expected at least 1")
        for pattern, axes in self.rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"parallel.rules: {pattern!r} is not a regular expression ({error})") from None
            named = [axis for axis in axes.split(",") if axis != "-"]
            require(
                set(named) <= {"task", "fsdp", "tensor"} and len(set(named)) == len(named),
                f"parallel.rules: {axes!r}: expected for each dimension fsdp, tensor or -, none twice",
            )
            require("task" not in named, f"parallel.rules: {axes!r}: the task axis divides meta-batches, not weights")


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """Checkpoints, and what happens when a step goes wrong.

    Attributes:
        checkpoint_every: steps between checkpoints, beside those of the validations; None for those alone.
        keep: how many of the last checkpoints are kept, beside the best one.
        skip_limit: so many skipped updates in a row stop the run. A step whose loss or gradient is not finite is
            skipped: it changes nothing but the step count.
        spike_factor: skip a step as well whose loss exceeds so many times the running mean of the losses of the
            steps before (after the first 20); None not to.
    """

    checkpoint_every: int | None = None
    keep: int = 2
    skip_limit: int = 5
    spike_factor: float | None = None

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep", "skip_limit"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"recovery.{name}={value}: expected at least 1")
        require(self.keep >= 2, "recovery.keep=1: expected at least 2: one is not enough if it is damaged")
        require(
            self.spike_factor is None or 1 < self.spike_factor < math.inf,
            f"recovery.spike_factor={self.spike_factor}: expected a factor greater than 1",
        )
