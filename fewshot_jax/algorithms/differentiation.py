"""How the gradient of an inner step is itself differentiated.

An inner step reads ``theta' = U(g, theta, ...)`` with ``g = G(theta, x)`` the
gradient of the inner objective. Which derivative of ``G`` the outer gradient
sees is the choice made here, beside the algorithm and independent of it:

* ``"reverse"``: exact second order, reverse mode over reverse mode.
* ``"first_order"``: ``g`` is held constant, so the Hessian terms vanish.
* ``"auto"``: the strategy the package recommends; at present ``"reverse"``.

Everything that may need a meta-gradient is an *argument* of the objective,
never closed over, so that a strategy with a rule of its own sees it.

References:
    Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks. ICML 2017 (second order: equation 1; first order: section 5.2).
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax

from fewshot_jax.types import Params, PyTree

Gradient = Literal["auto", "reverse", "first_order"]
Objective = Callable[[Params, PyTree], jax.Array]
ObjectiveGradient = Callable[[Params, PyTree], tuple[jax.Array, Params]]


def _first_order(objective: Objective) -> ObjectiveGradient:
    def value_and_grad(params: Params, operands: PyTree) -> tuple[jax.Array, Params]:
        loss, grads = jax.value_and_grad(objective)(params, operands)
        return loss, jax.lax.stop_gradient(grads)

    return value_and_grad


_STRATEGIES: dict[str, Callable[[Objective], ObjectiveGradient]] = {
    "auto": jax.value_and_grad,
    "reverse": jax.value_and_grad,
    "first_order": _first_order,
}


def inner_gradient(objective: Objective, gradient: Gradient) -> ObjectiveGradient:
    """Build ``G(params, operands) -> (loss, grads)`` for an inner objective.

    Args:
        objective: ``(params, operands) -> loss``, a scalar in nats; ``params``
            is what the inner loop adapts, ``operands`` a pytree of everything else.
        gradient: how ``grads`` is differentiated by the outer gradient.

    Returns:
        A function with the value and the gradient in ``params`` of the objective.

    Raises:
        ValueError: the strategy does not exist.
    """
    if gradient not in _STRATEGIES:
        raise ValueError(f"gradient={gradient!r} is not one of {', '.join(map(repr, get_args(Gradient)))}")
    return _STRATEGIES[gradient](objective)
