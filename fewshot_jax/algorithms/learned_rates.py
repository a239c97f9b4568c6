"""Inner learning rates as meta-parameters: for each layer or parameter, for each step or all.

Where an inner optimizer is asked for, `learned_rates` can stand instead: the
rates become an extra of the learner, ``meta_params["inner_rates"]``, and get
their exact meta-gradient with the initialisation.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.partition import leaf_path

Shape = tuple[int, ...]
RateShape = Literal["leaf", "parameter"] | Callable[[str, jax.Array], Shape]
Rates = dict[str, jax.Array]

ADDED = "added"  # the rate of the leaves that a task's start adds, such as a fresh head


def positive(rate: jax.Array) -> jax.Array:
    """``max(rate, 0)``, whose derivative is one everywhere.

    At and below zero the derivative of the maximum is zero and the rate would
    stay there for ever. A gate on the cotangent's sign would see the part of one
    step or one chunk of tasks, and the sum of gated parts is not the gated sum.
    """
    return jnp.where(rate > 0, rate, rate - jax.lax.stop_gradient(rate))


class LearnedRates(NamedTuple):
    """An inner optimizer whose rates are meta-parameters; from `learned_rates`.

    Attributes:
        init: ``(leaves by path, added=) -> rates``: what the learner adds to its
            meta-parameters; ``added`` says whether a task's start adds leaves.
        build: ``(rates or None, rate override) -> optax transformation``.
    """

    init: Callable[..., Rates]
    build: Callable[[Rates | None, Any], optax.GradientTransformation]


def learned_rates(
    rate: float,
    *,
    shape: RateShape = "leaf",
    steps: int | None = None,
    base: optax.GradientTransformation | None = None,
) -> LearnedRates:
    """Inner rates that the outer loop learns, all starting at ``rate``.

    The update of a leaf is ``base``'s, times its rate. A rate below zero acts as
    zero, and its gradient is the one there. Rates are float32 or better. Leaves that
    a task's start adds (a fresh head, whose size depends on the episode) share one
    rate. At a call ``inner_rate=`` replaces all of them.

    Args:
        rate: where they start.
        shape: ``"leaf"``, one for each array; ``"parameter"``, one for each number
            in it; or ``(path, leaf) -> shape``, broadcast against the leaf: ``(layers, 1, 1)``
            for the stacked kernels of scanned layers.
        steps: how many inner steps have rates of their own; later steps use the
            last. None for the same rates at every step.
        base: gives the direction, with rate one; by default ``optax.sgd(1.0)``.

    Raises:
        ValueError: the rate or the number of steps is not positive, or there is no such shape.

    References:
        Li, Zhou, Chen, Li. Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning. arXiv:1707.09835, 2017 (equation 2).
        Antoniou, Edwards, Storkey. How to Train Your MAML. ICLR 2019, section 4
        (per-layer per-step rates, "LSLR").
    """
    if not rate > 0:
        raise ValueError(f"rate={rate}: expected a positive number")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: expected a positive number of steps, or None")
    if not callable(shape) and shape not in ("leaf", "parameter"):
        raise ValueError(f"shape={shape!r} is not 'leaf', 'parameter' or a function (path, leaf) -> shape")
    direction = optax.sgd(1.0) if base is None else base
    per_step = () if steps is None else (steps,)

    def shape_of(path: str, leaf: jax.Array) -> Shape:
        if callable(shape):
            return tuple(shape(path, leaf))
        return jnp.shape(leaf) if shape == "parameter" else ()

    def init(leaves: Mapping[str, jax.Array], *, added: bool) -> Rates:
        # A dtype always: a weakly typed leaf becomes another type in the outer step, which compiles again.
        dtypes = {path: jnp.promote_types(leaf.dtype, jnp.float32) for path, leaf in leaves.items()}
        rates = {path: jnp.full((*per_step, *shape_of(path, leaves[path])), rate, dtypes[path]) for path in leaves}
        common = jnp.result_type(*(dtypes.values() or (float,)))
        return {**rates, **({ADDED: jnp.full(per_step, rate, common)} if added else {})}

    def build(rates: Rates | None, override: Any) -> optax.GradientTransformation:
        def of(path: str, count: jax.Array) -> Any:
            if rates is None:
                return override
            every = rates[path] if path in rates else rates[ADDED]
            return positive(every if steps is None else every[jnp.minimum(count, steps - 1)])

        def start(params: optax.Params) -> Any:
            return jnp.int32(0), direction.init(params)

        def update(grads: optax.Updates, state: Any, params: optax.Params | None = None) -> Any:
            count, inner = state
            updates, inner = direction.update(grads, inner, params)
            scaled = jax.tree_util.tree_map_with_path(
                lambda path, leaf: jnp.asarray(of(leaf_path(path), count) * leaf, leaf.dtype), updates
            )
            return scaled, (count + 1, inner)

        return optax.GradientTransformation(start, update)

    return LearnedRates(init, build)
