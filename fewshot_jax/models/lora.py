"""Low-rank adaptation of any Linen dense layer, without editing the model."""

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.config import ModelConfig
from fewshot_jax.models.adapters import NO_ADAPTER, Adapter, Addition, checked_pattern
from fewshot_jax.models.dense import Param
from fewshot_jax.types import Params

A, B = "lora_a", "lora_b"


@dataclass(frozen=True, kw_only=True)
class LoRA(Addition):
    """What `lora` adds; its arguments, ``alpha`` a number."""

    rank: int
    alpha: float
    targets: str
    order: ClassVar[int] = 0
    leaves: ClassVar[str] = f"{A}|{B}"

    @property
    def scale(self) -> float:
        """What the products are multiplied by."""
        return self.alpha / self.rank

    def misfit(self, layer: str, leaf: str, shape: tuple[int, ...]) -> str | None:
        rank = shape[-1 if leaf == A else -2] if len(shape) > 1 else None
        if rank != self.rank:
            return f"shape {shape}, expected rank {self.rank}"
        return None if re.search(self.targets, layer) else "not one of its targets"

    def change(self, path: str, x: jax.Array, y: jax.Array, param: Param) -> jax.Array:
        if not re.search(self.targets, path):
            return y
        a = param(A, nn.initializers.lecun_normal(), (x.shape[-1], self.rank))
        b = param(B, nn.initializers.zeros, (self.rank, y.shape[-1]))
        return y + self.scale * ((x @ a) @ b)


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
    if alpha is not None and not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha={alpha}: expected a positive number")
    counted = "" if alpha is None else f", alpha={alpha}"
    added = LoRA(rank=rank, alpha=rank if alpha is None else alpha, targets=checked_pattern(targets, "targets"))
    return Adapter(f"lora(rank={rank}{counted}, targets={targets!r})", (added,))


def lora_of_config(config: ModelConfig) -> Adapter:
    """Return the LoRA of a config; of rank 0 an adapter that adds nothing."""
    if not config.lora_rank:
        return NO_ADAPTER
    return lora(rank=config.lora_rank, targets=f"(^|/)({'|'.join(config.lora_targets)})$")


def lora_of(adapter: Adapter) -> LoRA:
    """The LoRA of an adapter.

    Raises:
        ValueError: it has none.
    """
    for addition in adapter.added:
        if isinstance(addition, LoRA):
            return addition
    raise ValueError(f"{adapter.name} has no LoRA")


def merge_lora(params: Params, adapter: Adapter) -> Params:
    """Fold the low-rank change into the kernels: a tree without LoRA leaves that computes the same.

    Args:
        params: a nested dict with LoRA leaves.
        adapter: what they were trained with.

    Raises:
        ValueError: the adapter has no LoRA, there are no LoRA leaves, they are not its own, or lack a kernel.
    """
    flat: dict[Any, Any] = flatten_dict(params, sep="/")
    own, pairs = lora_of(adapter), {path: leaf for path, leaf in flat.items() if path.rpartition("/")[2] in (A, B)}
    Adapter(adapter.name, (own,)).check(unflatten_dict(pairs, sep="/"))
    layers = sorted({path.rpartition("/")[0] for path in pairs})
    if not layers:
        raise ValueError(f"{adapter.name}: params has no LoRA leaves to merge")
    for layer in layers:
        if missing := [name for name in (A, B, "kernel") if f"{layer}/{name}" not in flat]:
            raise ValueError(f"params has no {', '.join(f'{layer}/{name}' for name in missing)}; join it with its base")
        a, b, kernel = flat.pop(f"{layer}/{A}"), flat.pop(f"{layer}/{B}"), flat[f"{layer}/kernel"]
        precise = jnp.promote_types(kernel.dtype, jnp.float32)
        product = jnp.matmul(a.astype(precise), b.astype(precise), precision=jax.lax.Precision.HIGHEST)
        merged = kernel.astype(precise) + own.scale * product.reshape(kernel.shape)
        flat[f"{layer}/kernel"] = merged.astype(kernel.dtype)
    return unflatten_dict(flat, sep="/")
