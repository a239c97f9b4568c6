"""Functions of the user's own, which a config names as ``package.module:function``.

This is the one import by string: the package's own modules are imported where they are used.
"""

import copy
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from fewshot_jax.errors import UserError, first_line


def load_function(field: str, name: str) -> Callable[..., Any]:
    """Import the function that a field of a config names.

    The current directory is searched last, since a command that was installed does not search it by itself.

    Args:
        field: of the config, for messages.
        name: ``package.module:function``.

    Raises:
        UserError: there is no such module, it cannot be imported, or it has no such function.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{field}={name}: {module} needs a module '{error.name}'; install it") from error
        raise UserError(
            f"{field}={name}: there is no module '{error.name}' on Python's path or in {os.getcwd()}; run from the "
            "folder that holds it, or add that folder to PYTHONPATH"
        ) from None
    except Exception as error:  # whatever the code of a stranger raises
        raise UserError(f"{field}={name}: {module} cannot be imported ({_what_failed(error)}); correct it") from error
    if not callable(found):
        known = [one for one, value in vars(sys.modules[module]).items() if inspect.isfunction(value)]
        raise UserError(
            f"{field}={name}: {module} has no function '{function}'; expected one of "
            f"{', '.join(known) or 'its functions, of which it has none'}"
        )
    return found


def call_function(field: str, name: str, **arguments: Any) -> Any:
    """Call the function that a field of a config names, with arguments in this order.

    Args:
        field: of the config, for messages.
        name: ``package.module:function``.
        arguments: by the names that messages give them; ``options`` is copied.

    Raises:
        UserError: as of `load_function`; the function takes other arguments, or it raises a ValueError.
    """
    function, given = load_function(field, name), copy.deepcopy({"options": arguments["options"]})
    given = {**arguments, **given}
    try:
        inspect.signature(function).bind(*given.values())
    except TypeError:
        raise UserError(
            f"{field}={name}: the function takes {inspect.signature(function)}; expected ({', '.join(given)})"
        ) from None
    try:
        return function(*given.values())
    except UserError:
        raise
    except ValueError as error:
        section = field.partition(".")[0]
        raise UserError(f"{field}={name}: {first_line(error)} (see {section}.options)") from error
    except Exception as error:  # whatever the code of a stranger raises
        raise UserError(f"{field}={name}: the function fails ({_what_failed(error)}); correct it") from error


def _what_failed(error: Exception) -> str:
    """Name the kind of an error, its message, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f", {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
