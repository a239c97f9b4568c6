"""What learners with an inner loop share: where it starts, what adapts, and what a step is.

`maml` and its relatives are compositions of one `Adaptation`; each file adds
what its paper added.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.differentiation import Gradient, Keep, ObjectiveGradient, inner_gradient, resolve_keep
from fewshot_jax.algorithms.inner_loop import InnerLoopResult, inner_loop, query_key, start_key
from fewshot_jax.algorithms.learned_rates import LearnedRates
from fewshot_jax.algorithms.options import InnerOptimizer
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
from fewshot_jax.block_policy import BlockPolicy, blocks_keep
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


def adaptation(
    loss_fn: LossFn,
    *,
    inner_optimizer: InnerOptimizer | None = None,
    inner_steps: int = 1,
    gradient: Gradient = "auto",
    keep: Keep | None = None,
    keep_blocks: BlockPolicy | None = None,
    share_first_step: bool = False,
    inner_params: Selector = None,
    task_init_fn: BatchFn | None = None,
    output_fn: BatchFn | None = None,
    inner_batch_size: int | None = None,
) -> Adaptation:
    """Build the inner loop that the keywords describe; they are those of `maml`.

    Raises:
        ValueError: a hyperparameter is out of range.
    """
    if operator.index(inner_steps) < 0:
        raise ValueError(f"inner_steps={inner_steps}: expected zero or more")
    if inner_batch_size is not None and inner_batch_size < 1:
        raise ValueError(f"inner_batch_size={inner_batch_size}: expected a positive number of items, or None")
    keep, keep_blocks = resolve_keep(gradient, keep, keep_blocks)
    user_loss = blocks_keep(loss_fn, keep_blocks)
    task_start = None if task_init_fn is None else blocks_keep(task_init_fn, keep_blocks)
    optimizer = inner_optimizer or optax.inject_hyperparams(optax.sgd)(learning_rate=0.01)
    built_for = inner_steps

    def checked_loss(params: Params, batch: Batch, rng: Key, frozen: PyTree) -> tuple[jax.Array, Aux]:
        result = with_frozen(user_loss, frozen)(params, batch, rng)
        if not isinstance(result, tuple):
            raise ValueError("loss_fn returned one value; expected (loss, aux), as in 'return loss, {}'")
        if clash := _RESERVED & result[1].keys():
            raise ValueError(f"aux of loss_fn uses the reserved name '{sorted(clash)[0]}'")
        return result

    def objective(inner: Params, operands: PyTree) -> tuple[jax.Array, Aux]:
        (rest, frozen), batch, key = operands
        return checked_loss(merge(inner, rest), batch, key, frozen)

    gradient_fn = inner_gradient(objective, gradient)

    def init(params: PyTree, rng: Key) -> MetaParams:
        del rng  # a learner with random extras would consume it
        check_floating(params)
        if not isinstance(optimizer, LearnedRates):
            return {"params": params}
        adapts = jax.tree.leaves(chosen(params, inner_params))
        leaves = zip(jax.tree_util.tree_leaves_with_path(params), adapts, strict=True)
        inner = {leaf_path(path): jnp.asarray(leaf) for (path, leaf), adapt in leaves if adapt}
        return {"params": params, RATES: optimizer.init(inner, added=task_start is not None)}

    def task_optimizer(meta_params: MetaParams, rate: Any) -> tuple[optax.GradientTransformation, Any]:
        """The optimizer of an inner loop, and the rate that its state is to be given."""
        if isinstance(optimizer, LearnedRates):
            return optimizer.build(meta_params[RATES] if rate is None else None, rate), None
        return optimizer, rate

    def start(meta_params: MetaParams, support: Batch, rng: Key, frozen: PyTree) -> tuple[Params, Params]:
        params = meta_params["params"]
        if task_start is not None:
            params = with_frozen(task_start, frozen)(params, support, start_key(rng))
        return split(params, inner_params)

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
        this_optimizer, rate = task_optimizer(meta_params, inner_rate)
        result: InnerLoopResult = inner_loop(
            gradient_fn,
            this_optimizer if optimizer_fn is None else optimizer_fn(this_optimizer, begin),
            begin,
            (rest, frozen),
            support,
            rng,
            max_steps=length,
            steps=steps,
            rate=rate,
            batch_size=inner_batch_size,
            keep=keep,
            share_first=share_first_step,
            each_step=None if each_step is None else lambda inner: each_step(merge(inner, rest)),
        )
        return Adapted(begin, result.params, rest, result.support_loss, result.each_step)

    def predict(adapted: PyTree, batch: Batch, rng: Key, *, frozen: PyTree = None) -> PyTree:
        if output_fn is None:
            raise ValueError("predict needs outputs: build the learner with output_fn=(params, batch, rng) -> outputs")
        return with_frozen(output_fn, frozen)(adapted, batch, rng)

    return Adaptation(init, start, run, predict, checked_loss, gradient_fn)


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
