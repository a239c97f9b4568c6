"""A labelled text."""

from typing import NamedTuple


class Record(NamedTuple):
    """A labelled text.

    Attributes:
        text: the text, stripped and not empty.
        label: the name of its class; from Python an integer, a float or a boolean will do, see `tidy_records`.
        group: the name of a set of classes, such as a domain, from which the classes
            of one episode may be drawn together; empty where there is none.
    """

    text: str
    label: str
    group: str = ""
