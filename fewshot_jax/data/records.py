"""A labelled text, and the two indices that episode sampling needs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Record(NamedTuple):
    """A labelled text.

    Attributes:
      text: the text, stripped and not empty.
      label: the name of its class.
      group: the name of a set of classes, such as a domain, from which the classes
        of one episode may be drawn together; empty where there is none.
    """

    text: str
    label: str
    group: str = ""


def by_class(records: Sequence[Record]) -> dict[str, list[int]]:
    """Returns the positions of each class's records.

    Labels are sorted, so that an episode drawn by class number does not depend on
    the order of the records' labels; positions ascend.
    """
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        positions[record.label].append(position)
    return dict(sorted(positions.items()))


def classes_by_group(records: Sequence[Record]) -> dict[str, list[str]]:
    """Returns the labels of each group, both sorted."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        labels[record.group].add(record.label)
    return {group: sorted(labels[group]) for group in sorted(labels)}
