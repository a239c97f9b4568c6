"""Names in a config: those of a table, or a function of the user's own, as ``package.module:function``."""

import difflib
import re
from collections.abc import Iterable

from fewshot_jax.errors import require

_FUNCTION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


def nearest(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` or the list of known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def is_function(name: str) -> bool:
    """Return whether a name is that of a function of the user's own, as ``package.module:function``."""
    return _FUNCTION.fullmatch(name) is not None


def check_name(field: str, name: str, known: Iterable[str]) -> None:
    """Raise a UserError unless a name is a known one or a function of the user's own.

    Args:
        field: of the config, for the message.
        name: that it has.
        known: the names of its table.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean '{close[0]}'? Otherwise give" if close else "give one of them, or"
    require(
        name in known or is_function(name),
        f"{field}: {name!r} is not one of {', '.join(map(repr, known))}; {guess} a function of your own as "
        "package.module:function",
    )
