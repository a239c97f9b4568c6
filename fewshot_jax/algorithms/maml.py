"""Model-Agnostic Meta-Learning: learn an initialisation that adapts in a few gradient steps."""

from typing import Any, Unpack

import jax

from fewshot_jax.algorithms.gradient_based import adaptation, after_last_step
from fewshot_jax.algorithms.meta_batch import mean_gradient
from fewshot_jax.algorithms.options import InnerLoopOptions, LearnerOptions, decide, learner_factory
from fewshot_jax.types import Aux, Batch, Episode, Key, LossFn, MetaLearner, MetaParams, PyTree


@learner_factory
def maml(loss_fn: LossFn, *, task_chunk: int | None = None, **options: Unpack[InnerLoopOptions]) -> MetaLearner:
    """MAML: adapt by ``inner_steps`` gradient steps, train what they start from.

    With inner rate a and support and query losses L_s, L_q of a task, the inner
    loop is theta_{k+1} = theta_k - a grad L_s(theta_k), or the step of any other
    optax optimizer, and the meta-loss is the mean over tasks of L_q(theta_K).
    Its gradient runs through the whole inner loop.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        inner_optimizer: any optax transformation, by default SGD with rate 0.01. One from
            ``optax.inject_hyperparams``, as the default is, allows ``inner_rate=`` at each call.
            Or `learned_rates`: rates that are meta-learned.
        inner_steps: steps taken, 1 unless given; ``inner_steps=`` at a call overrides it.
        gradient: how the inner gradient is differentiated, see `differentiation`. "auto", the default, is "mixed",
            or "reverse" for a ``loss_fn`` with a custom derivative rule.
        keep: what of each step is kept for its backward pass, see `differentiation`;
            None for what suits ``gradient``.
        keep_blocks: what transformer blocks keep, see `block_policy`; None likewise.
        share_first_step: whether to compile the first inner step apart, where all tasks still
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
        be traced: a grid of them is one ``vmap``. A traced number of steps is at most
        the one that the learner was built with; a Python int may exceed it.

    Raises:
        ValueError: a hyperparameter is out of range, or ``aux`` uses a reserved name. At a call, a `CustomRuleError`
            if ``gradient`` is "mixed" and ``loss_fn`` has a custom derivative rule.

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
    parts = adaptation(loss_fn, **options)

    def adapt(meta_params: MetaParams, support: Batch, rng: Key, **keywords: Any) -> PyTree:
        return parts.run(meta_params, support, rng, **keywords).params

    def loss(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[jax.Array, Aux]:
        adapted = parts.run(meta_params, episode.support, rng, frozen=frozen, **overrides)
        return after_last_step(parts, adapted, episode.query, rng, frozen)

    return MetaLearner(parts.init, adapt, parts.predict, loss, mean_gradient(loss, task_chunk=task_chunk))


@learner_factory
def fomaml(loss_fn: LossFn, **options: Unpack[LearnerOptions]) -> MetaLearner:
    """First-order MAML: `maml` with the inner gradient held constant.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        options: those of `maml` but ``gradient``.

    References:
        Finn, Abbeel, Levine. ICML 2017, section 5.2 ("first-order approximation").
    """
    decide(options, "fomaml", gradient="first_order")
    return maml(loss_fn, **options)
