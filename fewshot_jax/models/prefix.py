"""Prefix tuning: learned keys and values that every position sees."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from fewshot_jax.models.adapters import Adapter

_length = jax.make_user_context(0)  # a part of jit's cache key


def current() -> int:
    """Length of the prefix of an attention that is traced now, 0 for none."""
    return _length.value


def prefix(*, length: int) -> Adapter:
    """Give each attention of a model learned keys and values before those of its tokens.

    They lie beside its projections as ``prefix_key`` and ``prefix_value [length, kv_heads, K]``, with a leading
    ``layers`` axis. They have no position, and every position sees them. A new one is small and random, and
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

    @contextmanager
    def active() -> Iterator[None]:
        with _length(length):
            yield

    return Adapter(f"prefix(length={length})", "prefix_(key|value)$", active)
