"""``fewshot-jax plan CONFIG --devices N``."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fewshot_jax.cli.arguments import parse_run, print_json
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Estimate what a run would need on devices that are not here: memory, traffic, time.

    The step is compiled for so many simulated devices and read; nothing runs. The devices' mesh is that of the
    config's parallel section, as in --parallel.fsdp 8.

    Attributes:
        config: YAML file; any of its fields can be overridden, as in --outer.tasks 512.
        devices: how many.
        device: of what kind, for the times.
        memory: of a device, such as 80GB or 80GiB; by default the kind's.
        network: bytes a second that a device sends to those beyond its machine of 8.
        json: print JSON.
        settings: the fields of the config.
    """

    config: tyro.conf.Positional[Path]
    devices: int = 8
    device: Literal["a100", "h100", "h200"] = "h100"
    memory: str | None = None
    network: str = "50GB"
    json: bool = False
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def size_of(text: str, flag: str) -> float:
    """Bytes, from a number with a unit."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match.group(2) not in _UNITS or not float(match.group(1)) > 0:
        raise UserError(f"{flag} {text}: expected a size, such as 80GB or 80GiB")
    return float(match.group(1)) * _UNITS[match.group(2)]


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse_run(Arguments, "plan", arguments)
    if parsed.devices < 1:
        raise UserError(f"--devices {parsed.devices}: expected at least 1")
    memory = None if parsed.memory is None else size_of(parsed.memory, "--memory")
    network = size_of(parsed.network, "--network")
    # Before jax touches a device: simulated ones, whatever this machine has.
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={parsed.devices}".strip()
    import jax

    jax.config.update("jax_platforms", "cpu")
    from fewshot_jax.training.estimate import estimates

    if jax.device_count() != parsed.devices:
        raise UserError(f"--devices {parsed.devices}: this process has {jax.device_count()} devices already")
    found = estimates(parsed.settings, chip=parsed.device, memory=memory, network=network)
    if parsed.json:
        print_json([one._asdict() for one in found])
        return
    _print(found, parsed.device)


def _print(found: Sequence, device: str) -> None:
    from rich.console import Console
    from rich.table import Table

    first, console = found[0], Console(width=120, soft_wrap=True)
    mesh = " x ".join(f"{size} {axis}" for axis, size in first.mesh.items())
    sent = ", ".join(f"{count} {kind} of {_size(total)}" for kind, (count, total) in sorted(first.collectives.items()))
    console.print(
        f"An estimate, from the step compiled for {first.devices} simulated devices ({mesh}):\n"
        f"{first.tasks} tasks in a meta-batch, {first.parameters:,} meta-learned numbers\n"
        f"parameters and optimizer state on a device: {_size(first.state_bytes)}\n"
        f"collectives of a step: {sent or 'none'}",
        highlight=False,
    )
    table = Table(show_edge=False, pad_edge=False)
    for name in ("tasks at once", "memory of a device", f"step on {device}, at least", "compute", "memory", "traffic"):
        table.add_column(name, justify="right")
    for one in found:
        cells = [f"{1e3 * value:,.3f} ms" for value in (one.seconds, one.compute, one.memory, one.traffic)]
        held = _size(one.device_bytes) + ("" if one.fits else ", too much")
        table.add_row(str(one.at_once), held, *cells)
    console.print(table)
    fitting = [one for one in found if one.fits]
    if not fitting:
        console.print("nothing fits: raise parallel.fsdp or parallel.tensor, or take a smaller model or shorter texts")
        return
    best = fitting[-1]
    whole = best.at_once * best.devices // best.mesh["tensor"]
    console.print(
        f"fits with {best.at_once} tasks at once on a device (--learner.task-chunk {best.at_once}): a meta-batch of "
        f"{whole} without chunks; a larger one takes more time and no more memory",
        highlight=False,
    )


def _size(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log2(count)) // 10, 3)
    return f"{count / 1024**power:,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
