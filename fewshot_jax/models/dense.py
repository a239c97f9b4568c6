"""What a dense layer has beside its kernel: parameters added from outside, without editing the model."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Param = Callable[[str, Callable[..., jax.Array], tuple[int, ...]], jax.Array]  # (name, init, shape) -> leaf
# (path, x [..., inputs], y [..., outputs], param) -> y; ``param`` makes a leaf beside the layer's kernel.
Change = Callable[[str, jax.Array, jax.Array, Param], jax.Array]


def _inputs_last(module: nn.Module, x: jax.Array) -> tuple[jax.Array, int]:
    """The input with the axes that the layer contracts flattened last, and the number of outputs."""
    if isinstance(module, nn.Dense):
        return x, module.features
    assert isinstance(module, nn.DenseGeneral)
    axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
    axes = tuple(sorted(axis % x.ndim for axis in axes))  # the kernel's order, as Flax has it
    features = module.features if isinstance(module.features, tuple) else (module.features,)
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return x.reshape(*x.shape[: x.ndim - len(axes)], -1), math.prod(features)


@contextmanager
def changed_dense(changes: Sequence[Change]) -> Iterator[None]:
    """Inside, the outputs of each `flax.linen.Dense` and `DenseGeneral` go through the changes, one after the other.

    Their parameters lie beside the layer's kernel, with a leading ``layers`` axis where the layer is scanned.
    """

    def intercept(
        next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        y = next_fun(*args, **kwargs)
        if not changes or not isinstance(module, nn.Dense | nn.DenseGeneral) or context.method_name != "__call__":
            return y
        x, outputs = _inputs_last(module, args[0] if args else kwargs["inputs"])
        path, scope, out, kind = "/".join(module.path), module.scope, y, module.param_dtype
        assert scope is not None

        def param(name: str, init: Callable[..., jax.Array], shape: tuple[int, ...]) -> jax.Array:
            if getattr(module, "batch_dims", ()):
                raise ValueError(f"'{path}' has batch_dims={module.batch_dims}, which adapters do not support")
            return scope.param(name, init, shape, kind).astype(out.dtype)

        flat = y.reshape(*x.shape[:-1], outputs)
        for change in changes:
            flat = change(path, x.astype(y.dtype), flat, param)
        return flat.reshape(y.shape)

    with nn.intercept_methods(intercept):
        yield
