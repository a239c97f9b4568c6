"""Model-Agnostic Meta-Learning: learn an initialisation that adapts in a few gradient steps."""

import operator
from typing import Any

import jax
import optax

from fewshot_jax.algorithms.differentiation import Gradient, Keep, inner_gradient, resolve_keep
from fewshot_jax.algorithms.inner_loop import inner_loop, query_key, start_key
from fewshot_jax.algorithms.meta_batch import mean_gradient
from fewshot_jax.algorithms.partition import Selector, check_floating, merge, split, with_frozen
from fewshot_jax.block_policy import BlockPolicy, blocks_keep
from fewshot_jax.types import Aux, Batch, BatchFn, Episode, Key, LossFn, MetaLearner, MetaParams, PyTree

_RESERVED = frozenset({"loss", "task_loss", "support_loss"})


def maml(
    loss_fn: LossFn,
    *,
    inner_optimizer: optax.GradientTransformation | None = None,
    inner_steps: int = 1,
    gradient: Gradient = "auto",
    keep: Keep | None = None,
    keep_blocks: BlockPolicy | None = None,
    share_first_step: bool = False,
    inner_params: Selector = None,
    task_init_fn: BatchFn | None = None,
    output_fn: BatchFn | None = None,
    inner_batch_size: int | None = None,
    task_chunk: int | None = None,
) -> MetaLearner:
    """MAML: adapt by ``inner_steps`` gradient steps, train what they start from.

    With inner rate a and support and query losses L_s, L_q of a task, the inner
    loop is theta_{k+1} = theta_k - a grad L_s(theta_k), or the step of any other
    optax optimizer, and the meta-loss is the mean over tasks of L_q(theta_K).
    Its gradient runs through the whole inner loop.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        inner_optimizer: any optax transformation, by default SGD with rate 0.01. One from
            ``optax.inject_hyperparams``, as the default is, allows ``inner_rate=`` at each call.
        inner_steps: steps taken; the most that ``inner_steps=`` at a call may ask for.
        gradient: how the inner gradient is differentiated, see `differentiation`;
            "reverse" for a ``loss_fn`` whose backward pass is not its derivative.
        keep: what of each step is kept for its backward pass, see `differentiation`;
            None for what suits ``gradient``.
        keep_blocks: what transformer blocks keep, see `block_policy`; None likewise.
        share_first_step: compile the first inner step apart, where all tasks still
            have the same parameters: one large matrix product instead of one for each
            task, for a third more compile time. Of use where many small tasks are
            vmapped; leaves that do not adapt are shared in every step anyway.
        inner_params: which leaves adapt: None for all, a regular expression on
            their paths, or a predicate ``(path, leaf) -> bool``. The others are
            meta-learned but stay fixed inside a task.
        task_init_fn: ``(params, support, rng) -> params``: where a task's inner
            loop starts, by default at the meta-parameters themselves. A fresh
            zero head, say; the meta-gradient flows through it.
        output_fn: ``(params, batch, rng) -> outputs``, for ``predict``.
        inner_batch_size: draw this many support items at each step; None for all.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.

    Returns:
        A `MetaLearner`; ``adapted`` is the tree of adapted parameters. ``adapt``,
        ``loss`` and ``grad`` accept ``inner_rate=`` and ``inner_steps=``, which may
        be traced: a grid of them is one ``vmap``.

    Raises:
        ValueError: a hyperparameter is out of range, or ``aux`` uses a reserved name.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fewshot_jax as fsj
        >>> def loss_fn(params, batch, rng):
        ...     error = batch["x"] @ params["w"] - batch["y"]
        ...     return jnp.mean(error**2), {}
        >>> learner = fsj.maml(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=2)
        >>> meta_params = learner.init({"w": jnp.zeros(3)}, jax.random.key(0))
        >>> batch = {"x": jnp.ones((4, 5, 3)), "y": jnp.ones((4, 5))}  # 4 tasks of 5 items
        >>> grads, metrics = learner.grad(meta_params, fsj.Episode(batch, batch), jax.random.key(1))
        >>> grads["params"]["w"].shape, metrics["support_loss"].shape
        ((3,), (4, 2))

    References:
        Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks. ICML 2017. Inner step: section 2.2; meta-objective: equation 1.
    """
    if operator.index(inner_steps) < 0:
        raise ValueError(f"inner_steps={inner_steps}: expected zero or more")
    if inner_batch_size is not None and inner_batch_size < 1:
        raise ValueError(f"inner_batch_size={inner_batch_size}: expected a positive number of items, or None")
    keep, keep_blocks = resolve_keep(gradient, keep, keep_blocks)
    task_loss = blocks_keep(loss_fn, keep_blocks)
    task_start = None if task_init_fn is None else blocks_keep(task_init_fn, keep_blocks)
    optimizer = inner_optimizer or optax.inject_hyperparams(optax.sgd)(learning_rate=0.01)
    max_steps = inner_steps

    def objective(inner: PyTree, operands: PyTree) -> tuple[jax.Array, Aux]:
        (rest, frozen), batch, key = operands
        result = with_frozen(task_loss, frozen)(merge(inner, rest), batch, key)
        if not isinstance(result, tuple):
            raise ValueError("loss_fn returned one value; expected (loss, aux), as in 'return loss, {}'")
        return result

    gradient_fn = inner_gradient(objective, gradient)

    def init(params: PyTree, rng: Key) -> MetaParams:
        del rng  # a learner with random extras would consume it
        check_floating(params)
        return {"params": params}

    def adapt_with_losses(
        meta_params: MetaParams,
        support: Batch,
        rng: Key,
        *,
        frozen: PyTree = None,
        inner_rate: float | jax.Array | None = None,
        inner_steps: int | jax.Array | None = None,
    ) -> tuple[PyTree, jax.Array]:
        if inner_steps is not None and not isinstance(inner_steps, jax.core.Tracer):
            inner_steps = operator.index(inner_steps)
            if not 0 <= inner_steps <= max_steps:
                raise ValueError(f"inner_steps={inner_steps}: this learner was built for 0 to {max_steps} steps")
        params = meta_params["params"]
        if task_start is not None:
            params = with_frozen(task_start, frozen)(params, support, start_key(rng))
        inner, rest = split(params, inner_params)
        adapted, support_loss = inner_loop(
            gradient_fn,
            optimizer,
            inner,
            (rest, frozen),
            support,
            rng,
            max_steps=max_steps,
            steps=inner_steps,
            rate=inner_rate,
            batch_size=inner_batch_size,
            keep=keep,
            share_first=share_first_step,
        )
        return merge(adapted, rest), support_loss

    def adapt(meta_params: MetaParams, support: Batch, rng: Key, **keywords: Any) -> PyTree:
        return adapt_with_losses(meta_params, support, rng, **keywords)[0]

    def predict(adapted: PyTree, batch: Batch, rng: Key, *, frozen: PyTree = None) -> PyTree:
        if output_fn is None:
            raise ValueError("predict needs outputs: build the learner with output_fn=(params, batch, rng) -> outputs")
        return with_frozen(output_fn, frozen)(adapted, batch, rng)

    def loss(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[jax.Array, Aux]:
        adapted, support_loss = adapt_with_losses(meta_params, episode.support, rng, frozen=frozen, **overrides)
        value, aux = with_frozen(task_loss, frozen)(adapted, episode.query, query_key(rng))
        if clash := _RESERVED & aux.keys():
            raise ValueError(f"aux of loss_fn uses the reserved name '{sorted(clash)[0]}'")
        return value, {**aux, "support_loss": support_loss}

    return MetaLearner(init, adapt, predict, loss, mean_gradient(loss, task_chunk=task_chunk))
