"""iMAML: a meta-gradient that depends on where the inner loop ends, not on the path it took."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.custom_rules import refuse_custom_rules
from fewshot_jax.algorithms.differentiation import one_for_each_task
from fewshot_jax.algorithms.gradient_based import Adapted, adaptation, after_last_step
from fewshot_jax.algorithms.inner_loop import support_key
from fewshot_jax.algorithms.learned_rates import LearnedRates
from fewshot_jax.algorithms.meta_batch import mean_gradient
from fewshot_jax.algorithms.options import InnerLoopOptions, decide, learner_factory
from fewshot_jax.types import Aux, Batch, Episode, Key, LossFn, MetaLearner, MetaParams, Params, PyTree


def pull(grads: Params, params: Params, start: Params, strength: float) -> Params:
    """Add the gradient of ``strength / 2 |params - start|^2``."""
    return jax.tree.map(lambda g, p, s: g + strength * (p - s), grads, params, start)


def _pulled_to(start: Params, strength: float) -> optax.GradientTransformation:
    def update(grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None) -> Any:
        return pull(grads, params, start, strength), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _implicit(
    stationarity: Callable[[Params, PyTree], Params], cg_steps: int
) -> Callable[[Params, Params, PyTree], Params]:
    """``(minimum, stationarity(minimum, operands), operands) -> minimum``, with its implicit derivative.

    By the implicit function theorem ``d minimum = -A^-1 d stationarity``, A being the Hessian: a cotangent v of the
    minimum becomes ``-A^-1 v`` of the residual, whose own derivative in the operands is left to autodiff.
    """

    @jax.custom_vjp
    def attach(minimum: Params, residual: Params, operands: PyTree) -> Params:
        del residual
        return one_for_each_task(minimum, (minimum, operands))

    def forward(minimum: Params, residual: Params, operands: PyTree) -> tuple[Params, tuple[Params, PyTree]]:
        del residual
        return one_for_each_task(minimum, (minimum, operands)), (minimum, operands)

    def backward(saved: tuple[Params, PyTree], cotangent: Params) -> tuple[None, Params, None]:
        minimum, operands = saved
        # One dtype for all leaves, and not half precision, whose rounding conjugate gradients do not survive.
        common = jnp.promote_types(jnp.result_type(*jax.tree.leaves(minimum)), jnp.float32)

        def widened(tree: Params) -> Params:
            return jax.tree.map(lambda leaf: leaf.astype(common), tree)

        def narrowed(tree: Params) -> Params:
            return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), tree, minimum)

        def hessian(direction: Params) -> Params:
            along = jax.jvp(lambda inner: stationarity(inner, operands), (minimum,), (narrowed(direction),))[1]
            return widened(along)

        tolerance = 10 * jnp.finfo(common).eps
        solved, _ = jax.scipy.sparse.linalg.cg(hessian, widened(cotangent), tol=tolerance, maxiter=cg_steps)
        return None, narrowed(jax.tree.map(jnp.negative, solved)), None

    attach.defvjp(forward, backward)
    return attach


@learner_factory
def imaml(
    loss_fn: LossFn,
    *,
    proximal: float = 1.0,
    cg_steps: int = 5,
    task_chunk: int | None = None,
    **options: Unpack[InnerLoopOptions],
) -> MetaLearner:
    """Implicit MAML: differentiate the minimum of the regularised inner objective.

    The inner loop minimises ``G(phi) = L_s(phi) + lambda/2 |phi - theta|^2``. At a minimum the derivative of
    phi in theta is ``(I + H / lambda)^-1`` with H the Hessian of L_s there, whatever the optimizer
    and the number of its steps; the meta-gradient solves one linear system by conjugate gradients. Memory
    does not grow with the inner steps. Where the inner loop has not converged, it is an approximation.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task; the implicit
            derivative sees all of the support set with one key, so noise in it is held fixed.
        proximal: lambda, positive; with H's smallest eigenvalue it must make the system definite.
        cg_steps: most steps of conjugate gradients.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.
        options: those of `maml` but ``gradient`` and what is kept for it. The inner rate must suit
            the curvature plus lambda.

    Returns:
        A `MetaLearner`; ``support_loss`` is without the proximal term. Leaves that do not adapt, and
        ``task_init_fn``, get their implicit derivative as well.

    Raises:
        ValueError: ``proximal`` or ``cg_steps`` is not positive, or rates are to be learned, on
            which the minimum does not depend. At a call, a `CustomRuleError`: the loss has a custom derivative rule.

    References:
        Rajeswaran, Finn, Kakade, Levine. Meta-Learning with Implicit Gradients.
        NeurIPS 2019. Inner problem: equation 3; meta-gradient: equation 6; algorithm 2.
    """
    if not proximal > 0:
        raise ValueError(f"proximal={proximal}: expected a positive number")
    if cg_steps < 1:
        raise ValueError(f"cg_steps={cg_steps}: expected a positive number of steps")
    if isinstance(options.get("inner_optimizer"), LearnedRates):
        raise ValueError("imaml has no gradient for learned rates: give an optax transformation as inner_optimizer")
    decide(options, "imaml", gradient="reverse")
    parts = adaptation(loss_fn, **options)

    def stationarity(inner: Params, operands: PyTree) -> Params:
        """The gradient of G, zero at its minimum."""
        start, others = operands
        (_, _), grads = parts.gradient_fn(inner, others)
        return pull(grads, inner, start, proximal)

    attach = _implicit(stationarity, cg_steps)

    def minimise(meta_params: MetaParams, support: Batch, rng: Key, **keywords: Any) -> Adapted:
        def with_pull(optimizer: optax.GradientTransformation, start: Params) -> optax.GradientTransformation:
            return optax.chain(_pulled_to(start, proximal), optimizer)

        return parts.run(meta_params, support, rng, optimizer_fn=with_pull, **keywords)

    def adapt(meta_params: MetaParams, support: Batch, rng: Key, **keywords: Any) -> PyTree:
        return minimise(meta_params, support, rng, **keywords).params

    def loss(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[jax.Array, Aux]:
        constant = jax.lax.stop_gradient(meta_params)
        adapted = jax.lax.stop_gradient(minimise(constant, episode.support, rng, frozen=frozen, **overrides))
        refuse_custom_rules(
            "the implicit derivative needs the Hessian of the true loss",
            "Use maml with gradient='reverse'",
            parts.task_loss,
            *(adapted.params, episode.support, support_key(rng), frozen),
        )
        start, rest = parts.start(meta_params, episode.support, rng, frozen)
        operands = (start, ((rest, frozen), episode.support, support_key(rng)))
        inner = attach(adapted.inner, stationarity(adapted.inner, operands), operands)
        return after_last_step(parts, adapted._replace(inner=inner, rest=rest), episode.query, rng, frozen)

    return MetaLearner(parts.init, adapt, parts.predict, loss, mean_gradient(loss, task_chunk=task_chunk))
