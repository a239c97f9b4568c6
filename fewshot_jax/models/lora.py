"""Low-rank adaptation of any Linen dense layer, without editing the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.models.adapters import Adapter, checked_pattern
from fewshot_jax.models.dense import changed
from fewshot_jax.types import Params

A, B = "lora_a", "lora_b"
_active = jax.make_user_context(None)  # a part of jit's cache key: no trace from outside is met inside


def lora(*, rank: int, alpha: float | None = None, targets: str = "query|value") -> Adapter:
    """Give the dense layers of a model a low-rank path.

    Each `flax.linen.Dense` or `DenseGeneral` whose path matches computes ``x W + (alpha / rank) (x A) B``.
    ``A`` and ``B`` lie beside the layer's kernel as ``lora_a [in, rank]`` and ``lora_b [rank, out]``, with a
    leading ``layers`` axis where the layer is scanned. ``B`` starts at zero. ``W`` is never copied: under
    a ``vmap`` over tasks it stays one shared matrix.

    Args:
        rank: of the change; at most the layer's inputs and outputs to be of use.
        alpha: the change counts ``alpha / rank`` times; None for ``rank``.
        targets: regular expression searched in the layer's path (``"blocks/attention/query"``).

    Raises:
        ValueError: a hyperparameter is out of range.

    References:
        Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022
        (section 4.1; B starts at zero).
    """
    if rank < 1:
        raise ValueError(f"rank={rank}: expected at least 1")
    pattern = checked_pattern(targets, "targets")
    scale = 1.0 if alpha is None else alpha / rank

    def change(module: nn.Module, x: jax.Array, y: jax.Array, param: Callable[..., jax.Array]) -> jax.Array:
        a = param(A, nn.initializers.lecun_normal(), (x.shape[-1], rank))
        b = param(B, nn.initializers.zeros, (rank, y.shape[-1]))
        return y + scale * ((x @ a) @ b)

    @contextmanager
    def active() -> Iterator[None]:
        with _active((rank, alpha, targets)), changed(pattern, change):
            yield

    return Adapter(f"lora(rank={rank}, targets={targets!r})", f"{A}$|{B}$", active, scale)


def merge_lora(params: Params, adapter: Adapter) -> Params:
    """Fold the low-rank change into the kernels: a tree without LoRA leaves that computes the same.

    Args:
        params: a nested dict with LoRA leaves.
        adapter: what they were trained with.

    Raises:
        ValueError: the adapter has no LoRA.
    """
    if adapter.scale is None:
        raise ValueError(f"{adapter.name} has no LoRA to merge")
    flat: dict[Any, Any] = flatten_dict(params)
    for path in [path for path in flat if path[-1] == A]:
        a, b = flat.pop(path), flat.pop((*path[:-1], B))
        kernel = (*path[:-1], "kernel")
        flat[kernel] = flat[kernel] + adapter.scale * (a @ b).reshape(flat[kernel].shape)
    return unflatten_dict(flat)
