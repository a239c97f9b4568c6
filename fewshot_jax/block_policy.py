"""What a transformer block keeps for its backward pass: one named policy, set where a learner is built.

A model asks `current_policy` when it is traced; a learner sets the policy around the
loss function with `blocks_keep`. Neither knows the other, and ``jax.jit`` knows
the policy as a part of its cache key, so a cached trace is never of another one.

* ``"all"``: every intermediate result that the model does not itself compute again
  (`models.layers` does so for elementwise operations, norms and attention weights).
* ``"matmul"``: the results of matrix products; the cheap rest is computed again.
* ``"boundary"``: the block's input; the block is computed again.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast, get_args

import jax

BlockPolicy = Literal["all", "matmul", "boundary"]
Fn = TypeVar("Fn", bound=Callable[..., Any])

_POLICIES: dict[str, Callable[..., Any] | None] = {
    "matmul": jax.checkpoint_policies.dots_saveable,
    "boundary": jax.checkpoint_policies.nothing_saveable,
}
_current = jax.make_user_context("all")


def current_policy() -> Callable[..., Any] | None:
    """The `jax.checkpoint` policy for a block that is traced now; None for no checkpoint."""
    return _POLICIES.get(_current.value)


def blocks_keep(fn: Fn, policy: BlockPolicy) -> Fn:
    """Make blocks inside ``fn`` follow a policy, also where ``fn`` is differentiated.

    Raises:
        ValueError: there is no such policy.
    """
    if policy not in get_args(BlockPolicy):
        raise ValueError(f"keep_blocks={policy!r} is not one of {', '.join(map(repr, get_args(BlockPolicy)))}")

    @functools.wraps(fn)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        with _current(policy):
            return fn(*args, **keywords)

    return cast(Fn, wrapped)
