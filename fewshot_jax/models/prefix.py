"""Prefix tuning: learned keys and values that every position attends to."""

from dataclasses import dataclass
from typing import ClassVar

from fewshot_jax.models import adapters
from fewshot_jax.models.adapters import Adapter, Addition


@dataclass(frozen=True, kw_only=True)
class Prefix(Addition):
    """What `prefix` adds to each attention, which reads `current_prefix`."""

    length: int
    order: ClassVar[int] = 2
    leaves: ClassVar[str] = "prefix_(key|value)"

    def misfit(self, layer: str, leaf: str, shape: tuple[int, ...]) -> str | None:
        del layer, leaf
        return None if shape[-3:-2] == (self.length,) else f"shape {shape}, expected length {self.length}"


def current_prefix() -> int:
    """Length of the prefix of an attention that is traced now, 0 for none."""
    return next((one.length for one in adapters.current_adapter() if isinstance(one, Prefix)), 0)


def prefix(*, length: int) -> Adapter:
    """Give each attention of a model learned keys and values before those of its tokens.

    They lie beside its projections as ``prefix_key`` and ``prefix_value [length, kv_heads, K]``, with a leading
    ``layers`` axis. They have no position, and every position attends to them. A new one is small and random, and
    does change what the model computes.

    Args:
        length: number of keys.

    Raises:
        ValueError: it is less than 1.

    References:
        Li, Liang. Prefix-Tuning: Optimizing Continuous Prompts for Generation. ACL 2021 (section 4;
        the keys and values themselves are learned, without the network of section 4.3).
    """
    if length < 1:
        raise ValueError(f"length={length}: expected at least 1")
    return Adapter(f"prefix(length={length})", (Prefix(length=length),))
