"""What learners with an inner loop share: where it starts, what adapts, and what a step is.

`maml` and its relatives are compositions of one `Adaptation`; each file adds
what its paper added.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, Unpack

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.differentiation import ObjectiveGradient, inner_gradient, resolve_keep
from fewshot_jax.algorithms.inner_loop import LoopShape, inner_loop, query_key, start_key, with_rate
from fewshot_jax.algorithms.learned_rates import LearnedRates
from fewshot_jax.algorithms.options import InnerLoopOptions, InnerOptimizer
from fewshot_jax.algorithms.partition import (
    Selector,
    check_floating,
    chosen,
    leaf_path,
    merge,
    split,
    varying_as,
    with_frozen,
)
from fewshot_jax.block_policy import blocks_keep
from fewshot_jax.types import Aux, Batch, BatchFn, InitFn, Key, LossFn, MetaParams, Params, PredictFn, PyTree

_RESERVED = frozenset({"loss", "task_loss", "support_loss"})
RATES = "inner_rates"  # the extra of a learner whose inner rates are learned

# Wraps a task's inner optimizer, given the parameters that its inner loop starts from.
OptimizerFn: TypeAlias = Callable[[optax.GradientTransformation, Params], optax.GradientTransformation]
EachStep: TypeAlias = Callable[[Params], PyTree]


class Adapted(NamedTuple):
    """One task after its inner loop.

    Attributes:
        start: the leaves that adapt, where the loop started; None elsewhere.
        inner: the same leaves adapted.
        rest: the leaves that stay as they are, None at the others.
        support_loss: ``[steps]``, in nats, before each step.
        each_step: what ``each_step`` returned after each step, stacked.
    """

    start: Params
    inner: Params
    rest: Params
    support_loss: jax.Array
    each_step: PyTree

    @property
    def params(self) -> Params:
        """The whole tree of adapted parameters."""
        return merge(self.inner, self.rest)


class Adaptation(NamedTuple):
    """The inner loop of a learner, and the functions of its record that do not depend on the outer loss.

    Attributes:
        init: as in `MetaLearner`; with learned rates the extra ``"inner_rates"``.
        start: ``(meta_params, support, rng, frozen) -> (inner, rest)``, the leaves that adapt and the others.
        run: ``(meta_params, support, rng, *, frozen, inner_rate, inner_steps, each_step,
            optimizer_fn) -> Adapted``; ``each_step(params) -> pytree`` sees the whole tree.
        predict: as in `MetaLearner`, on the tree of adapted parameters.
        task_loss: ``(params, batch, rng, frozen) -> (loss, aux)``, the user's loss, aux checked.
        gradient_fn: of the inner objective, ``(inner, ((rest, frozen), batch, key))``.
    """

    init: InitFn
    start: Callable[[MetaParams, Batch, Key, PyTree], tuple[Params, Params]]
    run: Callable[..., Adapted]
    predict: PredictFn
    task_loss: Callable[[Params, Batch, Key, PyTree], tuple[jax.Array, Aux]]
    gradient_fn: ObjectiveGradient


def adaptation(loss_fn: LossFn, **options: Unpack[InnerLoopOptions]) -> Adaptation:
    """Build the inner loop that the keywords describe; they are those of `maml`.

    Raises:
        ValueError: a hyperparameter is out of range.
    """
    built_for, batch_size = options.get("inner_steps", 1), options.get("inner_batch_size")
    if operator.index(built_for) < 0:
        raise ValueError(f"inner_steps={built_for}: expected zero or more")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"inner_batch_size={batch_size}: expected a positive number of items, or None")
    gradient = options.get("gradient", "auto")
    keep, keep_blocks = resolve_keep(gradient, options.get("keep"), options.get("keep_blocks"))
    task_loss = _checked_loss(blocks_keep(loss_fn, keep_blocks))
    gradient_fn = inner_gradient(_objective(task_loss), gradient)
    optimizer = options.get("inner_optimizer") or optax.inject_hyperparams(optax.sgd)(learning_rate=0.01)
    task_init_fn, selector = options.get("task_init_fn"), options.get("inner_params")
    start = _start_fn(None if task_init_fn is None else blocks_keep(task_init_fn, keep_blocks), selector)
    shape = LoopShape(0, batch_size, keep, options.get("share_first_step", False))

    def run(
        meta_params: MetaParams,
        support: Batch,
        rng: Key,
        *,
        frozen: PyTree = None,
        inner_rate: float | jax.Array | None = None,
        inner_steps: int | jax.Array | None = None,
        each_step: EachStep | None = None,
        optimizer_fn: OptimizerFn | None = None,
    ) -> Adapted:
        length, steps = _length(inner_steps, built_for)
        begin, rest = start(varying_as(meta_params, support), support, rng, frozen)
        of_task = _task_optimizer(optimizer, meta_params, inner_rate, begin, optimizer_fn)
        result = inner_loop(
            lambda inner, batch, key: gradient_fn(inner, ((rest, frozen), batch, key)),
            of_task,
            begin,
            support,
            rng,
            shape=shape._replace(max_steps=length),
            steps=steps,
            each_step=None if each_step is None else lambda inner: each_step(merge(inner, rest)),
        )
        return Adapted(begin, result.params, rest, result.support_loss, result.each_step)

    init = _init_fn(optimizer, selector, adds_leaves=task_init_fn is not None)
    return Adaptation(init, start, run, _predict_fn(options.get("output_fn")), task_loss, gradient_fn)


def _checked_loss(loss_fn: LossFn) -> Callable[[Params, Batch, Key, PyTree], tuple[jax.Array, Aux]]:
    """The user's loss with frozen weights as an argument; refuses what is not ``(loss, aux)``."""

    def checked(params: Params, batch: Batch, rng: Key, frozen: PyTree) -> tuple[jax.Array, Aux]:
        result = with_frozen(loss_fn, frozen)(params, batch, rng)
        if not isinstance(result, tuple):
            raise ValueError("loss_fn returned one value; expected (loss, aux), as in 'return loss, {}'")
        if clash := _RESERVED & result[1].keys():
            raise ValueError(f"aux of loss_fn uses the reserved name '{sorted(clash)[0]}'")
        return result

    return checked


def _objective(task_loss: Callable[..., tuple[jax.Array, Aux]]) -> Callable[[Params, PyTree], tuple[jax.Array, Aux]]:
    """The inner objective ``(inner, ((rest, frozen), batch, key)) -> (loss, aux)`` of a task's loss."""

    def objective(inner: Params, operands: PyTree) -> tuple[jax.Array, Aux]:
        (rest, frozen), batch, key = operands
        return task_loss(merge(inner, rest), batch, key, frozen)

    return objective


def _init_fn(optimizer: InnerOptimizer, selector: Selector, *, adds_leaves: bool) -> InitFn:
    """`MetaLearner.init`: the parameters, and learned rates of those that adapt."""

    def init(params: PyTree, rng: Key) -> MetaParams:
        del rng  # a learner with random extras would consume it
        check_floating(params)
        if not isinstance(optimizer, LearnedRates):
            return {"params": params}
        adapts = jax.tree.leaves(chosen(params, selector))
        leaves = zip(jax.tree_util.tree_leaves_with_path(params), adapts, strict=True)
        inner = {leaf_path(path): jnp.asarray(leaf) for (path, leaf), adapt in leaves if adapt}
        return {"params": params, RATES: optimizer.init(inner, added=adds_leaves)}

    return init


def _start_fn(
    task_init_fn: BatchFn | None, selector: Selector
) -> Callable[[MetaParams, Batch, Key, PyTree], tuple[Params, Params]]:
    """`Adaptation.start`: where a task's inner loop starts, the leaves that adapt apart from the others."""

    def start(meta_params: MetaParams, support: Batch, rng: Key, frozen: PyTree) -> tuple[Params, Params]:
        params = meta_params["params"]
        if task_init_fn is not None:
            params = with_frozen(task_init_fn, frozen)(params, support, start_key(rng))
        return split(params, selector)

    return start


def _task_optimizer(
    optimizer: InnerOptimizer, meta_params: MetaParams, rate: Any, begin: Params, wrap: OptimizerFn | None
) -> optax.GradientTransformation:
    """The optimizer of one inner loop, which starts at ``begin``: its rate overridden or learned, then wrapped."""
    if isinstance(optimizer, LearnedRates):
        optimizer, rate = optimizer.build(meta_params[RATES] if rate is None else None, rate), None
    return with_rate(optimizer if wrap is None else wrap(optimizer, begin), rate)


def _predict_fn(output_fn: BatchFn | None) -> PredictFn:
    """`MetaLearner.predict` on the tree of adapted parameters."""

    def predict(adapted: PyTree, batch: Batch, rng: Key, *, frozen: PyTree = None) -> PyTree:
        if output_fn is None:
            raise ValueError("predict needs outputs: build the learner with output_fn=(params, batch, rng) -> outputs")
        return with_frozen(output_fn, frozen)(adapted, batch, rng)

    return predict


def _length(asked: int | jax.Array | None, built_for: int) -> tuple[int, jax.Array | None]:
    """Length of the scan, and how many of its steps are taken where that is traced."""
    if asked is None:
        return built_for, None
    if isinstance(asked, jax.core.Tracer):
        return built_for, asked
    if operator.index(asked) < 0:
        raise ValueError(f"inner_steps={asked}: expected zero or more")
    return operator.index(asked), None


def after_last_step(parts: Adaptation, adapted: Adapted, query: Batch, rng: Key, frozen: PyTree) -> PyTree:
    """``(loss, aux)`` of a task: its query loss at the end of the inner loop, with ``support_loss``."""
    value, aux = parts.task_loss(adapted.params, query, query_key(rng), frozen)
    return value, {**aux, "support_loss": adapted.support_loss}
