"""MetaICL: learn to use examples that stand in the model's context; nothing adapts but what is read."""

from collections.abc import Callable
from typing import Any

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.algorithms.meta_batch import mean_gradient
from fewshot_jax.algorithms.options import learner_factory
from fewshot_jax.algorithms.partition import check_floating, with_frozen
from fewshot_jax.types import Aux, Batch, BatchFn, Episode, Key, LossFn, MetaLearner, MetaParams, PyTree

JoinFn = Callable[[Batch, Batch], Batch]  # (support [S, ...], query [Q, ...]) -> batch [Q, ...]


@learner_factory
def metaicl(
    loss_fn: LossFn, *, join: JoinFn, output_fn: BatchFn | None = None, task_chunk: int | None = None
) -> MetaLearner:
    """In-context learning, meta-trained: the loss of the queries, each read after the whole support set.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, of items that hold their context.
        join: ``(support, query) -> batch``, the queries with the support set before each. Which side of an
            example is read and which is predicted is its choice: it makes the direct form, p(target | source),
            or the channel form, p(source | target).
        output_fn: ``(params, batch, rng) -> outputs`` of joined items, for ``predict``.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.

    Returns:
        A `MetaLearner`; ``adapted`` is ``{"params", "support"}``, the parameters as they are and what to read.

    References:
        Min, Lewis, Zettlemoyer, Hajishirzi. MetaICL: Learning to Learn In Context. NAACL 2022
        (section 3.1 meta-training, 3.3 the channel form, after Min et al., ACL 2022).
    """

    def init(params: PyTree, rng: Key) -> MetaParams:
        del rng
        check_floating(params)
        return {"params": params}

    def no_loop(overrides: dict[str, Any]) -> None:
        if overrides:
            raise ValueError(f"metaicl has no inner loop: {', '.join(overrides)} cannot be overridden")

    def adapt(meta_params: MetaParams, support: Batch, rng: Key, *, frozen: PyTree = None, **overrides: Any) -> PyTree:
        del rng, frozen
        no_loop(overrides)
        return {"params": meta_params["params"], "support": support}

    def predict(adapted: PyTree, batch: Batch, rng: Key, *, frozen: PyTree = None) -> PyTree:
        if output_fn is None:
            raise ValueError("predict needs outputs: build the learner with output_fn=(params, batch, rng) -> outputs")
        return with_frozen(output_fn, frozen)(adapted["params"], join(adapted["support"], batch), rng)

    def loss(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[Any, Aux]:
        no_loop(overrides)
        return with_frozen(loss_fn, frozen)(meta_params["params"], join(*episode), query_key(rng))

    return MetaLearner(init, adapt, predict, loss, mean_gradient(loss, task_chunk=task_chunk))
