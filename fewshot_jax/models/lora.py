"""Low-rank adaptation of any Linen dense layer, without editing the model.

Inside ``with lora(rank=8):`` every `flax.linen.Dense` or `DenseGeneral` whose path
matches computes ``x W + (alpha / rank) (x A) B``. ``A`` and ``B`` lie beside the
layer's kernel as ``lora_a [in, rank]`` and ``lora_b [rank, out]``, with a leading
``layers`` axis where the layer is scanned. So ``inner_params="lora_"`` adapts them,
and the rest can be meta-learned or passed as ``frozen=``. ``W`` is never copied: under
a ``vmap`` over tasks it stays one shared matrix.

    with lora(rank=8, targets="query|value"):
        params = module.init(key, ids, mask)["params"]      # with lora_a, lora_b
        hidden = module.apply({"params": params}, ids, mask)

References:
    Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022
    (section 4.1; B starts at zero).
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.types import Params

_A, _B = "lora_a", "lora_b"
_active = jax.make_user_context(None)  # a part of jit's cache key: no trace from outside is met inside


def _flat_input(module: nn.Module, x: jax.Array) -> tuple[jax.Array, int]:
    """The input with the axes that the layer contracts flattened last, and the number of outputs."""
    if isinstance(module, nn.Dense):
        return x, module.features
    assert isinstance(module, nn.DenseGeneral)
    if module.batch_dims:
        raise ValueError(f"lora: '{'/'.join(module.path)}' has batch_dims={module.batch_dims}, which is not supported")
    axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
    axes = tuple(sorted(axis % x.ndim for axis in axes))  # the kernel's order, as Flax has it
    features = module.features if isinstance(module.features, tuple) else (module.features,)
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return x.reshape(*x.shape[: x.ndim - len(axes)], -1), math.prod(features)


@contextmanager
def lora(*, rank: int, alpha: float | None = None, targets: str = "query|value") -> Iterator[None]:
    """Give the dense layers of modules initialised or applied inside it a low-rank path.

    Args:
        rank: of the change; at most the layer's inputs and outputs to be of use.
        alpha: the change counts ``alpha / rank`` times; None for ``rank``.
        targets: regular expression searched in the layer's path (``"blocks/attention/query"``).

    Raises:
        ValueError: a hyperparameter is out of range.
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: expected at least 1")
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ValueError(f"targets={targets!r}: not a regular expression ({error})") from None
    scale = 1.0 if alpha is None else alpha / rank

    def intercept(
        next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        dense = isinstance(module, nn.Dense | nn.DenseGeneral) and context.method_name == "__call__"
        if not dense or not pattern.search("/".join(module.path)):
            return next_fun(*args, **kwargs)
        y = next_fun(*args, **kwargs)
        x, outputs = _flat_input(module, args[0] if args else kwargs["inputs"])
        scope = module.scope
        assert scope is not None
        a = scope.param(_A, nn.initializers.lecun_normal(), (x.shape[-1], rank), module.param_dtype)
        b = scope.param(_B, nn.initializers.zeros, (rank, outputs), module.param_dtype)
        x, a, b = (leaf.astype(y.dtype) for leaf in (x, a, b))
        return y + scale * ((x @ a) @ b).reshape(y.shape)

    with _active((rank, alpha, targets)), nn.intercept_methods(intercept):
        yield


def add_lora(params: Params, initialised: Params) -> Params:
    """The leaves of ``params``, and the LoRA leaves of a fresh initialisation inside ``lora``.

    Args:
        params: of the base model, trained; a nested dict.
        initialised: of the same model or a part of it, from ``module.init`` inside ``with lora(...)``.

    Raises:
        ValueError: no layer was initialised with LoRA, or it is not in ``params``.
    """
    flat, fresh = flatten_dict(params), flatten_dict(initialised)
    found = {path: leaf for path, leaf in fresh.items() if path[-1] in (_A, _B)}
    if not found:
        layers = sorted("/".join(path[:-1]) for path in fresh if path[-1] == "kernel")
        raise ValueError(f"no layer has LoRA: its targets= match none of {', '.join(layers)}")
    for path in found:
        if (*path[:-1], "kernel") not in flat:
            raise ValueError(f"'{'/'.join(path[:-1])}' has LoRA, but params has no such layer")
    return unflatten_dict({**flat, **found})


def merge_lora(params: Params, *, alpha: float | None = None) -> Params:
    """Fold the low-rank change into the kernels: a tree without LoRA leaves that computes the same.

    Args:
        params: a nested dict with LoRA leaves.
        alpha: as given to ``lora``.
    """
    flat = flatten_dict(params)
    for path in [path for path in flat if path[-1] == _A]:
        a, b = flat.pop(path), flat.pop((*path[:-1], _B))
        kernel = (*path[:-1], "kernel")
        scale = 1.0 if alpha is None else alpha / a.shape[-1]
        flat[kernel] = flat[kernel] + scale * (a @ b).reshape(flat[kernel].shape)
    return unflatten_dict(flat)
