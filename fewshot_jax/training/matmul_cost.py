"""Floating-point operations of a compiled program's matrix products, loops counted as often as they run.

XLA's own ``cost_analysis`` counts the body of a loop once; here the call graph of
the optimised HLO is walked and each ``while`` weighted by its known trip count.
"""

import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\(?\w+\[([\d,]*)\]")
_PRODUCT = re.compile(r' dot\(|custom_call_target="__cublas\$\w*(?:gemm|matmul)')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_TRIPS = re.compile(r'known_trip_count[^}]*?"n":"(\d+)"')


def _dims(text: str) -> list[int]:
    found = _SHAPE.match(text)
    return [int(size) for size in found.group(1).split(",") if size] if found else []


def _dot(body: str, shapes: dict[str, list[int]]) -> float:
    """Operations of one ``dot``, or of the library call that a GPU compiler makes of it."""
    operands = re.search(r" (?:dot|custom-call)\((?:\w+\[[\d,]*\](?:\{[^}]*\})? )?%?([\w.\-]+)", body)
    contracting = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]*)[}\]]', body)
    if operands is None or contracting is None:
        raise ValueError(f"a matrix product that cannot be read: {body[:200]}")
    axes = [int(axis) for axis in contracting.group(1).replace('"', "").split(",") if axis]
    return 2.0 * math.prod(_dims(body)) * math.prod(shapes[operands.group(1)][axis] for axis in axes)


def _computations(hlo: str) -> Iterator[tuple[bool, str, list[str]]]:
    name: str | None = None
    entry, lines = False, list[str]()
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            name, entry, lines = header.group(2), bool(header.group(1)), []
        elif line.startswith("}") and name is not None:
            yield entry, name, lines
            name = None
        elif name is not None:
            lines.append(line)


def matmul_flops(hlo: str) -> float:
    """Operations of all ``dot`` instructions of an optimised HLO module, as ``compiled.as_text()`` gives it.

    A product-sum counts as two.

    Raises:
        ValueError: a loop has no known length, there is a convolution, or the text is no HLO module.
    """
    if " convolution(" in hlo:
        raise ValueError("convolutions are not counted")
    own: dict[str, float] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    root = None
    for entry, name, lines in _computations(hlo):
        root = name if entry else root
        shapes: dict[str, list[int]] = {}
        own[name], calls[name] = 0.0, []
        for line in lines:
            instruction = _INSTRUCTION.match(line)
            if instruction is None:
                continue
            shapes[instruction.group(1)] = _dims(instruction.group(2))
            if _PRODUCT.search(line):
                own[name] += _dot(instruction.group(2), shapes)
            trips = 1
            if " while(" in line:
                known = _TRIPS.search(line)
                if known is None:
                    raise ValueError(f"a loop of unknown length: {line.strip()[:200]}")
                trips = int(known.group(1))
            for one, several in _CALLED.findall(line):
                names = [one] if one else [part.strip().lstrip("%") for part in several.split(",")]
                calls[name] += [(called, trips) for called in names]
    totals: dict[str, float] = {}

    def total(name: str) -> float:
        if name not in totals:
            totals[name] = own[name] + sum(trips * total(called) for called, trips in calls[name] if called in own)
        return totals[name]

    if root is None:
        raise ValueError("no ENTRY computation: expected the text of an optimised HLO module")
    return total(root)
