"""What the devices of a mesh send each other in a compiled program, as its HLO says."""

import math
import re
from typing import NamedTuple

from fewshot_jax.planning.compiled_program import computations

_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(", re.ASCII
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
# How a program names the devices that take part: {{0,1},{2,3}}, [groups,devices], or some axes of a mesh.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? ?\{([^}]*)\}")


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
        operation: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
        bytes: of its result on one device.
        devices: that take part together.
        times: how often the program runs it; 1 inside a loop whose length is not known.
    """

    operation: str
    bytes: int
    devices: int
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time, by the ring algorithms: of a result of ``b`` bytes over ``n`` devices,
        an all-reduce ``2 b (n - 1) / n``, an all-gather ``b (n - 1) / n``, a reduce-scatter ``b (n - 1)``."""
        n = self.devices
        factor = {"all-reduce": 2 * (n - 1) / n, "all-gather": (n - 1) / n, "reduce-scatter": n - 1}
        return factor.get(self.operation, 1) * self.bytes


def collectives(program: str, devices: int) -> list[Collective]:
    """The collectives of a program.

    Args:
        program: the text of ``compiled.as_text()``.
        devices: that run it, all of which take part where the program does not say otherwise.
    """
    found = []
    for lines, times in computations(program):
        for line in lines:
            if match := _COLLECTIVE.search(line):
                shape, operation, started = match.groups()
                result = _result(shape, operation) if started else shape
                size = sum(_bytes(*one) for one in _ARRAY.findall(result))
                found.append(Collective(operation, size, _together(line) or devices, times or 1))
    return found


def _result(shape: str, operation: str) -> str:
    """The part of the result in the shape of what starts an operation: ``(operand, result, ...)``, each of them a tuple
    where there are several, or each operand is one; of an all-reduce the results alone."""
    parts = _parts(shape)
    alone = operation == "all-reduce" and not (parts and parts[0].startswith("("))
    return shape if alone or len(parts) < 2 else parts[1]


def _parts(shape: str) -> list[str]:
    """The elements of a tuple; none of an array."""
    parts, depth = list[str](), 0
    if shape.startswith("("):
        for character in shape[1:-1]:
            depth += (character in "([{") - (character in ")]}")
            if not parts or (character == "," and depth == 0):
                parts.append("")
            if character != "," or depth:
                parts[-1] += character
    return [re.sub(r"/\*.*?\*/", "", part).strip() for part in parts]


def _together(line: str) -> int | None:
    """How many devices take part in a collective, if the line says so."""
    if listed := _LISTED.search(line):
        return len(listed.group(1).split(","))
    if counted := _COUNTED.search(line):
        return int(counted.group(1))
    if named := _NAMED.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named.group(1))}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named.group(2))  # of an axis perhaps a part alone
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    return None


def _bytes(kind: str, dims: str) -> int:
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return math.prod(int(size) for size in dims.split(",") if size) * bits // 8
