"""Episodes, learners and the contracts between them.

Axis glossary, used in every docstring of the package:

    T  tasks of a meta-batch          S  support items of one task
    Q  query items of one task        N  ways (classes of an episode)
    B  items of a batch               L  tokens
    D  features                       H  attention heads
    V  vocabulary

A *batch* is any pytree whose leaves share a leading item axis; the built-in
applications use a dict with ``input_ids [B, L]``, ``attention_mask [B, L]``,
``label [B]`` and ``mask [B]`` (False marks a padded item).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

PyTree = Any
Params = PyTree
MetaParams = dict[str, PyTree]
Batch = PyTree
Aux = dict[str, jax.Array]
Key = jax.Array


class Episode(NamedTuple):
    """One few-shot task; with a leading axis ``T`` on every leaf, a meta-batch.

    Attributes:
        support: the items to learn from, a batch ``[S, ...]``.
        query: the items to be judged on, a batch ``[Q, ...]``.
    """

    support: Batch
    query: Batch


# The loss of one task, ``loss_fn(params, batch, rng[, frozen=]) -> (loss, aux)``:
# a scalar in nats, the mean over the real items of the batch, and a dict of arrays.
# ``frozen=`` is passed only where the caller gave frozen weights.
LossFn = Callable[..., tuple[jax.Array, Aux]]

# A forward pass of one task, ``fn(params, batch, rng[, frozen=]) -> outputs``: as
# ``output_fn`` what ``predict`` returns (logits ``[B, N]``, say), as ``embed_fn``
# features ``[B, D]``.
BatchFn = Callable[..., PyTree]


class InitFn(Protocol):
    """``init(params, rng) -> meta_params``: what the outer optimizer trains."""

    def __call__(self, params: Params, rng: Key) -> MetaParams: ...


class AdaptFn(Protocol):
    """``adapt(meta_params, support, rng) -> adapted``, for one task."""

    def __call__(
        self, meta_params: MetaParams, support: Batch, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> PyTree: ...


class PredictFn(Protocol):
    """``predict(adapted, batch, rng) -> outputs``, for one task."""

    def __call__(self, adapted: PyTree, batch: Batch, rng: Key, *, frozen: PyTree = None) -> PyTree: ...


class TaskLossFn(Protocol):
    """``loss(meta_params, episode, rng) -> (loss, aux)``, for one task."""

    def __call__(
        self, meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[jax.Array, Aux]: ...


class GradFn(Protocol):
    """``grad(meta_params, episodes, rng) -> (grads, metrics)``, for ``T`` tasks."""

    def __call__(
        self,
        meta_params: MetaParams,
        episodes: Episode,
        rng: Key,
        *,
        frozen: PyTree = None,
        task_weight: jax.Array | None = None,
        task_offset: int | jax.Array = 0,
        task_shards: int = 1,
        progress: float | jax.Array = 1.0,
        **overrides: Any,
    ) -> tuple[MetaParams, dict[str, jax.Array]]:
        """Has more than 8 parameters because every learner takes the same ones, and most callers give three."""


class MetaLearner(NamedTuple):
    """A few-shot learner as a record of pure functions.

    ``adapt``, ``predict`` and ``loss`` are written for one task and can be
    vmapped; ``grad`` is the only function that knows the task axis.

    Three roles of weights: those adapted in the inner loop, those meta-learned
    (all of ``meta_params``), and those frozen (``frozen=``: never
    differentiated, never in optimizer state).

    Attributes:
        init: ``(params, rng) -> meta_params``, a dict with ``"params"`` and the
            learner's extras.
        adapt: ``(meta_params, support, rng) -> adapted``; whatever ``predict``
            needs: parameters, prototypes, a context.
        predict: ``(adapted, batch, rng) -> outputs``.
        loss: ``(meta_params, episode, rng) -> (loss, aux)``: adapt to the
            support set, then the loss on the query set, in nats.
        grad: ``(meta_params, episodes, rng) -> (grads, metrics)``; ``grads``
            has the structure of ``meta_params`` and is the direction for the
            outer optimizer, ``metrics`` holds every scalar of ``aux`` averaged
            over tasks, ``loss``, ``task_loss [T]`` and, for learners with an
            inner loop, ``support_loss [T, steps]``. Learners with a schedule read
            ``progress=``, the share of meta-training that is done; others ignore it.
    """

    init: InitFn
    adapt: AdaptFn
    predict: PredictFn
    loss: TaskLossFn
    grad: GradFn
