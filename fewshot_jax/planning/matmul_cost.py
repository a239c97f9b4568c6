"""Floating-point operations of a compiled program's matrix products, loops counted as often as they run.

XLA's own ``cost_analysis`` counts the body of a loop once; here the call graph of
the optimised HLO is walked and each ``while`` weighted by its known trip count.
"""

import math
import re

from fewshot_jax.planning.compiled_program import computations

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\(?\w+\[([\d,]*)\]")
_PRODUCT = re.compile(r' dot\(|custom_call_target="__cublas\$\w*(?:gemm|matmul)')


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


def matmul_flops(hlo: str) -> float:
    """Operations of all ``dot`` instructions of an optimised HLO module, as ``compiled.as_text()`` gives it.

    A product-sum counts as two.

    Raises:
        ValueError: a product stands in a loop of unknown length, there is a convolution, or the text is no HLO module.
    """
    if " convolution(" in hlo:
        raise ValueError("convolutions are not counted")
    total = 0.0
    for lines, times in computations(hlo):
        shapes: dict[str, list[int]] = {}
        for line in lines:
            instruction = _INSTRUCTION.match(line)
            if instruction is None:
                continue
            shapes[instruction.group(1)] = _dims(instruction.group(2))
            if _PRODUCT.search(line):
                if times is None:
                    raise ValueError(f"a product in a loop of unknown length: {line.strip()[:200]}")
                total += times * _dot(instruction.group(2), shapes)
    return total
