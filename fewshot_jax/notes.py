"""What a user should know and need not mend: a warning to a program, one plain line on the command line."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any


class Note(UserWarning):
    """What the library did that a user may not expect, as reading tensors under other names."""


class Caution(Note):
    """What makes the result doubtful, such as a text with two labels."""


def warn(message: str, category: type[Note] = Note) -> None:
    """Issue a `Note` at the line outside this package that called it, however deep the call.

    Python 3.12 can do so by itself (``skip_file_prefixes``), Python 3.11 cannot.
    """
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextlib.contextmanager
def plain_notes() -> Iterator[None]:
    """Show each `Note` as one line on stderr, without its place in the code; other warnings as Python does."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", Note)  # a command prints its notes whatever PYTHONWARNINGS says
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Note):
                print(f"{'warning' if issubclass(category, Caution) else 'note'}: {message}", file=sys.stderr)
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield
