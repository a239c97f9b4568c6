"""What a user should know and need not mend: a warning to a program, one plain line on the command line."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any


class Note(UserWarning):
    """What the library did that a user may not expect, as reading tensors under other names."""


@contextlib.contextmanager
def plain_notes() -> Iterator[None]:
    """Show each `Note` as one line on stderr, without its place in the code; other warnings as Python does."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Note):
                print(f"note: {message}", file=sys.stderr)
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield
