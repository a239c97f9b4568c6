"""How the inner loop is differentiated: which derivative of a step, and what is kept for it.

An inner step reads ``theta' = U(g, theta, s)`` with ``g = G(theta, eta)`` the
gradient of the inner objective L, ``s`` the optimizer's state and ``eta``
everything else that L depends on: shared parameters, the batch, a key. Two
choices stand beside the algorithm and do not change what it computes.

The rule for the derivative of ``G`` (`inner_gradient`):

* ``"reverse"``: reverse mode over reverse mode. Stores the activations of the
  forward and of the backward pass of every step.
* ``"mixed"``: forward mode over reverse mode. For a cotangent v of ``g`` the
  outer gradient needs v' d2L/dtheta2 and v' d2L/(dtheta deta). Second
  derivatives commute, so both are one forward derivative, along v, of the map
  from theta to (dL/dtheta, dL/deta). Nothing but theta and eta is stored.
  Exact as well; but the result has no forward mode of its own (``jax.jvp``).
* ``"first_order"``: ``g`` is held constant, so the second derivatives vanish.
* ``"auto"``: ``"mixed"``, or ``"reverse"`` where L contains a custom derivative rule.

Mixed mode needs the true derivative of L. A user's ``jax.custom_vjp`` or ``jax.custom_jvp`` may be another
function (gradient reversal, a straight-through estimator): then ``g`` is no gradient of anything and its Jacobian
is not symmetric. L is searched for such rules (`custom_rules`) each time it is traced; an explicit ``"mixed"`` refuses
them. Straight-through by ``jax.lax.stop_gradient`` needs no rule and is exact in every mode.

What is kept of a step until its backward pass (`scan_steps`), the rest being
computed again; ``None`` picks what suits the rule:

* ``"all"``: every intermediate result (default of reverse and first_order).
* ``"gradients"``: what the step starts from and, where the optimizer's own
  derivative asks for it, ``g`` (default of mixed).
* ``"carry"``: what the step starts from, parameters and optimizer state.
* ``"sqrt"``: the same for about 2 sqrt(K) of K steps.

What is kept of a transformer block while a single pass runs is `block_policy`'s
choice: ``"matmul"`` for mixed, ``"all"`` for the others.

Everything that may need a meta-gradient is an *argument* of the objective,
never closed over, so that the mixed rule sees it.

References:
    Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks. ICML 2017 (second order: equation 1; first order: section 5.2).
    Kemaev, Calian, Zintgraf, Farquhar, van Hasselt. Scalable Meta-Learning via
    Mixed-Mode Differentiation. ICML 2025, arXiv:2505.00793 (mixed mode, saved
    inner gradients).
    Griewank, Walther. Algorithm 799: revolve. ACM TOMS 26(1), 2000 (schedules
    that recompute).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from fewshot_jax.algorithms.custom_rules import custom_rules, refuse_custom_rules
from fewshot_jax.algorithms.partition import merge
from fewshot_jax.block_policy import BlockPolicy
from fewshot_jax.types import Aux, Params, PyTree

Gradient = Literal["auto", "mixed", "reverse", "first_order"]
Keep = Literal["all", "gradients", "carry", "sqrt"]
InnerObjective = Callable[[Params, PyTree], tuple[jax.Array, Aux]]
ObjectiveGradient = Callable[[Params, PyTree], tuple[tuple[jax.Array, Aux], Params]]
Carry = TypeVar("Carry")

_INNER_GRADIENT = "inner_gradient"


def _reverse(objective: InnerObjective) -> ObjectiveGradient:
    return jax.value_and_grad(objective, has_aux=True)


def _first_order(objective: InnerObjective) -> ObjectiveGradient:
    def value_and_grad(params: Params, operands: PyTree) -> tuple[tuple[jax.Array, Aux], Params]:
        value, grads = jax.value_and_grad(objective, has_aux=True)(params, operands)
        return value, jax.lax.stop_gradient(grads)

    return value_and_grad


def _is_zero(cotangents: PyTree) -> bool:
    return all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(cotangents))


def _as_arrays(cotangents: PyTree) -> PyTree:
    make = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf  # noqa: E731
    return jax.tree.map(make, cotangents)


def one_for_each_task(outputs: PyTree, inputs: PyTree) -> PyTree:
    """Add a no-op dependency on the inputs, so that ``vmap`` gives every output a task axis.

    Under a ``vmap`` over tasks, an output that no task's data enters (the gradient of a penalty, say) is
    one array for all tasks. Its cotangent is then the sum over the tasks, and a backward rule whose
    results are mapped would count it once for each task: a wrong number in jax 0.10, an error in 0.12.
    Every input may be the one that is mapped, so all of them count. XLA removes the selection between equals.
    """
    leaves = [jnp.asarray(jax.lax.stop_gradient(leaf)) for leaf in jax.tree.leaves(inputs)]
    bits = [_first(leaf) != 0 for leaf in leaves if leaf.size]
    if not bits:
        return outputs
    either = functools.reduce(jnp.logical_or, bits)
    return jax.tree.map(lambda leaf: jnp.where(either, leaf, leaf), outputs)


def _first(leaf: jax.Array) -> jax.Array:
    """One number of an array: no reshape, which would gather an array that is divided over devices."""
    one = leaf[(0,) * leaf.ndim]
    return jax.random.key_data(one).ravel()[0] if jnp.issubdtype(one.dtype, jax.dtypes.prng_key) else one


def _mixed(objective: InnerObjective) -> ObjectiveGradient:
    reverse = _reverse(objective)

    def plain(params: Params, operands: PyTree) -> tuple[tuple[jax.Array, Aux], Params]:
        return one_for_each_task(reverse(params, operands), (params, operands))

    value_and_grad = jax.custom_vjp(plain)

    def forward(params: PyTree, operands: PyTree) -> tuple[Any, tuple[PyTree, PyTree, PyTree]]:
        # Leaves that the outer gradient depends on, and those it does not: the cotangent of a frozen
        # base model, one for each task, would be computed and thrown away.
        params, active, constant = (
            jax.tree.map(lambda leaf: leaf.value, params),
            jax.tree.map(lambda leaf: leaf.value if _differentiated(leaf) else None, operands),
            jax.tree.map(lambda leaf: None if _differentiated(leaf) else leaf.value, operands),
        )
        return plain(params, merge(active, constant)), (params, active, constant)

    def backward(residuals: tuple[PyTree, PyTree, PyTree], cotangents: Any) -> tuple[PyTree, PyTree]:
        params, active, constant = residuals
        (loss_bar, aux_bar), grads_bar = cotangents

        def loss_and_aux(params: Params, active: PyTree) -> tuple[jax.Array, Aux]:
            return objective(params, merge(active, constant))

        def both_gradients(params: Params) -> tuple[Params, PyTree]:
            return jax.grad(loss_and_aux, argnums=(0, 1), has_aux=True)(params, active)[0]

        first, total = jax.jvp(both_gradients, (params,), (_as_arrays(grads_bar),))
        if not _is_zero(loss_bar):
            total = jax.tree.map(lambda a, b: a + (loss_bar * b).astype(a.dtype), total, first)
        if not _is_zero(aux_bar):
            pull = jax.vjp(lambda *args: loss_and_aux(*args)[1], params, active)[1]
            total = jax.tree.map(jnp.add, total, pull(_as_arrays(aux_bar)))
        return total

    value_and_grad.defvjp(forward, backward, symbolic_zeros=True)
    return value_and_grad


def _only_true_derivatives(objective: InnerObjective) -> ObjectiveGradient:
    """`_mixed`, which refuses an objective with a custom derivative rule."""
    mixed = _mixed(objective)

    def value_and_grad(params: Params, operands: PyTree) -> tuple[tuple[jax.Array, Aux], Params]:
        reason = "gradient='mixed' is exact only where every rule is the true derivative"
        remedy = "Use gradient='reverse', or 'auto', which takes 'reverse' for such a loss"
        refuse_custom_rules(reason, remedy, objective, params, operands)
        return mixed(params, operands)

    return value_and_grad


def _auto(objective: InnerObjective) -> ObjectiveGradient:
    mixed, reverse = _mixed(objective), _reverse(objective)

    def value_and_grad(params: Params, operands: PyTree) -> tuple[tuple[jax.Array, Aux], Params]:
        rule = reverse if custom_rules(objective, params, operands) else mixed
        return rule(params, operands)

    return value_and_grad


def _differentiated(leaf: Any) -> bool:
    return leaf.perturbed and jnp.issubdtype(leaf.value.dtype, jnp.inexact)


# The rule, and what is kept of steps and of blocks where nobody says.
_RULES: dict[str, tuple[Callable[[InnerObjective], ObjectiveGradient], Keep, BlockPolicy]] = {
    "auto": (_auto, "gradients", "matmul"),
    "mixed": (_only_true_derivatives, "gradients", "matmul"),
    "reverse": (_reverse, "all", "all"),
    "first_order": (_first_order, "all", "all"),
}


def _rule(gradient: Gradient) -> tuple[Callable[[InnerObjective], ObjectiveGradient], Keep, BlockPolicy]:
    if gradient not in _RULES:
        raise ValueError(f"gradient={gradient!r} is not one of {', '.join(map(repr, get_args(Gradient)))}")
    return _RULES[gradient]


def inner_gradient(objective: InnerObjective, gradient: Gradient) -> ObjectiveGradient:
    """Build ``G(params, operands) -> ((loss, aux), grads)`` for an inner objective.

    Args:
        objective: ``(params, operands) -> (loss, aux)``, a scalar in nats and a dict of
            arrays; ``params`` is what the inner loop adapts, ``operands`` a pytree of
            everything else, integers and keys included.
        gradient: how ``grads`` is differentiated by the outer gradient.

    Returns:
        A function with the value of the objective and its gradient in ``params``. With "mixed" it raises a
        `CustomRuleError` if the objective contains a custom derivative rule.

    Raises:
        ValueError: the rule does not exist.
    """
    named = _rule(gradient)[0](objective)

    def value_and_grad(params: Params, operands: PyTree) -> tuple[tuple[jax.Array, Aux], Params]:
        value, grads = named(params, operands)
        return value, jax.tree.map(lambda leaf: checkpoint_name(leaf, _INNER_GRADIENT), grads)

    return value_and_grad


def resolve_keep(gradient: Gradient, keep: Keep | None, keep_blocks: BlockPolicy | None) -> tuple[Keep, BlockPolicy]:
    """What is kept of steps and of blocks: as asked for, or what suits the gradient's rule.

    Raises:
        ValueError: there is no such gradient or choice for steps; `block_policy` judges the other.
    """
    if keep is not None and keep not in get_args(Keep):
        raise ValueError(f"keep={keep!r} is not one of {', '.join(map(repr, get_args(Keep)))}, or None")
    _, steps, blocks = _rule(gradient)
    return keep or steps, keep_blocks or blocks


def scan_steps(
    step: Callable[[Carry, jax.Array], tuple[Carry, PyTree]],
    carry: Carry,
    length: int,
    *,
    keep: Keep,
    share_first: bool = False,
) -> tuple[Carry, PyTree]:
    """``jax.lax.scan(step, carry, arange(length))`` that keeps what ``keep`` says for its backward pass.

    Args:
        step: the body of the scan.
        carry: what the first step starts from.
        length: number of steps.
        keep: see the module.
        share_first: take the first step outside the scan, whose carry is one type for
            all steps: under a ``vmap`` that does not map the starting point, the first
            step then reads it as one shared array and not as a copy for each task.
    """
    steps = jnp.arange(length)
    policy = jax.checkpoint_policies.save_only_these_names(_INNER_GRADIENT) if keep == "gradients" else None
    outputs = []
    if share_first and length:
        # Outside a loop XLA would recognise the recomputation and keep the results instead: prevent_cse.
        first = step if keep == "all" else jax.checkpoint(step, policy=policy)
        carry, output = first(carry, steps[0])
        outputs, steps = [jax.tree.map(lambda leaf: leaf[None], output)], steps[1:]
    if keep != "all":
        step = jax.checkpoint(step, policy=policy, prevent_cse=False)

    def run(carry: Carry, steps: jax.Array) -> tuple[Carry, PyTree]:
        return jax.lax.scan(step, carry, steps)

    segment = math.isqrt(steps.size) if keep == "sqrt" else 1
    if segment > 1:
        whole = steps.size // segment * segment
        segments = steps[:whole].reshape(-1, segment)
        carry, output = jax.lax.scan(jax.checkpoint(run, prevent_cse=False), carry, segments)
        outputs.append(jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), output))
        steps = steps[whole:]
    if steps.size or not outputs:
        carry, output = run(carry, steps)
        outputs.append(output)
    return carry, outputs[0] if len(outputs) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)
