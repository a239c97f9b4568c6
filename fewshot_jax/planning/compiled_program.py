"""The text of a compiled program, an optimised HLO module: its computations, and how often each of them runs."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_TRIPS = re.compile(r'known_trip_count[^}]*?"n":"(\d+)"')


class Computation(NamedTuple):
    """One computation of a module.

    Attributes:
        lines: its instructions.
        times: how often the program runs it, loops included; None inside a loop whose length is not known.
    """

    lines: list[str]
    times: int | None


def computations(hlo: str) -> list[Computation]:
    """The computations that an HLO module runs, as ``compiled.as_text()`` gives it.

    Raises:
        ValueError: the text is no HLO module.
    """
    found = list(_computations(hlo))
    times: dict[str, int | None] = {name: int(entry) for entry, name, _ in found}
    if 1 not in times.values():
        raise ValueError("no ENTRY computation: expected the text of an optimised HLO module")
    for _, name, lines in reversed(found):  # a computation stands before those that call it
        for called, trips in _calls(lines):
            before, own = times.get(called), times[name]
            if called in times and before is not None:
                times[called] = None if own is None or (trips is None and own) else before + own * (trips or 0)
    return [Computation(lines, times[name]) for _, name, lines in found if times[name] != 0]


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


def _calls(lines: list[str]) -> Iterator[tuple[str, int | None]]:
    """What some instructions call, and how often; None for a loop of unknown length."""
    for line in lines:
        trips: int | None = 1
        if " while(" in line:
            known = _TRIPS.search(line)
            trips = int(known.group(1)) if known else None
        for one, several in _CALLED.findall(line):
            for called in [one] if one else [part.strip().lstrip("%") for part in several.split(",")]:
                yield called, trips
