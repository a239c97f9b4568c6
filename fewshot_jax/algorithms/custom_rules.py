"""Find the functions in a loss that bring a derivative rule of their own, which need not be the derivative."""

import functools
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.extend
import optax

_PRIMITIVES = ("custom_jvp_call", "custom_vjp_call")

# Whose rules are true derivatives, written for numerical stability: relu, logsumexp, xlogy, simplex projections.
# The rest of these libraries is not listed: `jax.custom_gradient`, `flax.linen.custom_vjp`, `optax.scale_gradient` and
# flax's 8-bit products carry rules that are a user's, or no derivatives.
_TRUE = tuple(
    Path(str(library.__file__)).parent / folder
    for library, folders in (
        (jax, ("_src/nn", "_src/numpy", "_src/scipy", "_src/third_party/scipy", "_src/lax")),
        (optax, ("losses", "projections")),
    )
    for folder in folders
)

_JAX = Path(str(jax.__file__)).parent


class CustomRuleError(ValueError):
    """A loss has a derivative rule of its own, where forward mode would give a wrong second derivative."""


def custom_rules(function: Callable[..., Any], *args: Any) -> list[str]:
    """Return where the functions with a user's ``jax.custom_jvp`` or ``jax.custom_vjp`` stand in a function.

    The function is traced for the shapes of its arguments; what it calls is searched too: loops, branches,
    jitted and checkpointed functions.

    Args:
        function: any function that jax can trace.
        args: its arguments, pytrees of arrays, tracers included.

    Returns:
        One ``"name at file:line"`` for each such function, sorted; empty where there is none. Rules of jax's and
        optax's own functions that are true derivatives (`jax.nn.relu`, `jax.scipy.special.logsumexp`) do not count.
    """
    return sorted(set(_of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)))


def refuse_custom_rules(reason: str, remedy: str, function: Callable[..., Any], *args: Any) -> None:
    """Raise a `CustomRuleError` that gives reason and remedy if `custom_rules` finds one."""
    if found := custom_rules(function, *args):
        raise CustomRuleError(f"the loss calls {found[0]}, which has a custom derivative rule: {reason}. {remedy}")


def _of_jaxpr(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith(_PRIMITIVES):
            source = str(equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info)
            if not _is_true(source, equation.params):
                yield source
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _of_jaxpr(inner)


def _is_true(source: str, parameters: dict[str, Any]) -> bool:
    """Whether a function, ``"name at file:line"``, and its rule both stand in a folder of true derivatives.

    The rule alone may be a user's: ``jax.custom_jvp(jax.nn.relu)`` with a surrogate gradient.
    """
    file = Path(source.partition(" at ")[2].rpartition(":")[0])
    rule = {Path(found.__code__.co_filename) for found in _functions_in(list(parameters.values()), set())}
    stands_in = lambda file, folders: any(file.is_relative_to(folder) for folder in folders)  # noqa: E731
    return (
        stands_in(file, _TRUE)
        and any(stands_in(one, _TRUE) for one in rule)
        and all(stands_in(one, (_JAX, *_TRUE)) for one in rule)
    )


def _functions_in(value: Any, seen: set[int]) -> Iterator[types.FunctionType]:
    """The Python functions that a parameter of an equation holds, in closures and wrappers."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, types.FunctionType):
        yield value
        filled = (cell for cell in value.__closure__ or () if cell != types.CellType())
        inner = [cell.cell_contents for cell in filled]
    elif isinstance(value, list | tuple):
        inner = list(value)
    elif isinstance(value, functools.partial):
        inner = [value.func, value.args]
    elif isinstance(value, types.MethodType):
        inner = [value.__func__]
    elif hasattr(value, "f") and hasattr(value, "transforms"):  # a function that jax has wrapped
        inner = [value.f, value.transforms]
    elif callable(value) and not isinstance(value, type):
        inner = [getattr(value, "__wrapped__", type(value).__call__)]
    for one in inner:
        yield from _functions_in(one, seen)
