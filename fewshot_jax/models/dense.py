"""What a dense layer has beside its kernel: parameters added from outside, without editing the model."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax

# (module, x [..., inputs], y [..., outputs], param) -> y; ``param(name, init, shape)`` makes a leaf beside the kernel.
Change = Callable[[nn.Module, jax.Array, jax.Array, Callable[..., jax.Array]], jax.Array]


def _inputs_last(module: nn.Module, x: jax.Array) -> tuple[jax.Array, int]:
    """The input with the axes that the layer contracts flattened last, and the number of outputs."""
    if isinstance(module, nn.Dense):
        return x, module.features
    assert isinstance(module, nn.DenseGeneral)
    if module.batch_dims:
        raise ValueError(f"'{'/'.join(module.path)}' has batch_dims={module.batch_dims}, which adapters do not support")
    axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
    axes = tuple(sorted(axis % x.ndim for axis in axes))  # the kernel's order, as Flax has it
    features = module.features if isinstance(module.features, tuple) else (module.features,)
    x = jax.numpy.moveaxis(x, axes, range(-len(axes), 0))
    return x.reshape(*x.shape[: x.ndim - len(axes)], -1), math.prod(features)


@contextmanager
def changed(targets: re.Pattern[str], change: Change) -> Iterator[None]:
    """Inside, the output of each `flax.linen.Dense` or `DenseGeneral` whose path matches is what ``change`` says.

    The parameters of ``change`` lie beside the layer's kernel, with a leading ``layers`` axis where the
    layer is scanned.
    """

    def intercept(
        next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        dense = isinstance(module, nn.Dense | nn.DenseGeneral) and context.method_name == "__call__"
        if not dense or not targets.search("/".join(module.path)):
            return next_fun(*args, **kwargs)
        y = next_fun(*args, **kwargs)
        x, outputs = _inputs_last(module, args[0] if args else kwargs["inputs"])
        scope = module.scope
        assert scope is not None

        def param(name: str, init: Callable[..., jax.Array], shape: tuple[int, ...]) -> jax.Array:
            return scope.param(name, init, shape, module.param_dtype).astype(y.dtype)

        flat = y.reshape(*x.shape[:-1], outputs)
        return change(module, x.astype(y.dtype), flat, param).reshape(y.shape)

    with nn.intercept_methods(intercept):
        yield
