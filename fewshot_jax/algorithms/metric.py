"""Learners without an inner loop: a classifier read off the support embeddings.

`metric_learner` makes one of two functions: ``fit`` the embedded support set,
``classify`` embedded queries. Prototypical networks are here; `matching_network`
and `r2d2` have files of their own.
"""

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from fewshot_jax.algorithms.inner_loop import query_key, support_key
from fewshot_jax.algorithms.meta_batch import mean_gradient
from fewshot_jax.algorithms.options import learner_factory
from fewshot_jax.algorithms.partition import check_floating, with_frozen
from fewshot_jax.types import Aux, Batch, BatchFn, Episode, Key, MetaLearner, MetaParams, PyTree

Distance = Literal["euclidean", "cosine"]
ABSENT = -1e9  # logit of a class without support items: finite, so that 0 * log p stays 0


def item_mask(batch: Batch) -> jax.Array:
    """``mask [B]`` of a batch, all True where it has none."""
    return batch["mask"] if "mask" in batch else jnp.ones_like(batch["label"], bool)


def at_least_float32(values: jax.Array) -> jax.Array:
    """The same values; half precision is not for means, softmax and losses."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def masked_cross_entropy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> tuple[jax.Array, Aux]:
    """Mean cross-entropy in nats, and ``{"accuracy"}``, over the real items, in float32 or better.

    Args:
        logits: ``[B, N]``.
        label: ``[B]`` int in ``[0, N)``; anything for padded items.
        mask: ``[B]``, False for padded items.
    """
    chex.assert_equal_shape([label, mask, logits[:, 0]])
    logits = at_least_float32(logits)
    label = jnp.where(mask.astype(bool), label, 0)  # another number would make the loss nan, and 0 * nan is nan
    weight = mask.astype(logits.dtype)
    items = jnp.maximum(weight.sum(), 1)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    correct = (logits.argmax(-1) == label).astype(logits.dtype)
    return (nats * weight).sum() / items, {"accuracy": (correct * weight).sum() / items}


def prototypes(embeddings: jax.Array, label: jax.Array, mask: jax.Array, ways: int) -> tuple[jax.Array, jax.Array]:
    """The mean embedding of each class (Snell et al., equation 1).

    Args:
        embeddings: ``[S, D]``.
        label: ``[S]`` int in ``[0, ways)``.
        mask: ``[S]``, False for padded items.
        ways: number of classes ``N``.

    Returns:
        ``(prototypes [N, D], present [N] bool)``, in float32 or better; an absent class has a zero prototype.
    """
    embeddings = at_least_float32(embeddings)
    chex.assert_rank([embeddings, label, mask], [2, 1, 1])
    chex.assert_equal_shape_prefix([embeddings, label, mask], 1)
    one_hot = jax.nn.one_hot(label, ways, dtype=embeddings.dtype) * mask.astype(embeddings.dtype)[:, None]
    counts = one_hot.sum(0)
    embeddings = jnp.where(mask.astype(bool)[:, None], embeddings, 0)  # 0 * nan is nan
    return one_hot.T @ embeddings / jnp.maximum(counts, 1)[:, None], counts > 0


def unit_length(vectors: jax.Array) -> jax.Array:
    """Scale ``[..., D]`` to length one; smooth, twice differentiable also at zero."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors**2, -1, keepdims=True) + 1e-8)


def similarity(embeddings: jax.Array, centres: jax.Array, distance: Distance) -> jax.Array:
    """Similarities ``[B, N]``, in float32 or better: minus squared euclidean distance, or cosine."""
    embeddings, centres = at_least_float32(embeddings), at_least_float32(centres)
    if distance == "cosine":
        return unit_length(embeddings) @ unit_length(centres).T
    # |a - b|^2 without the [B, N, D] difference. It cancels, hence no TF32 or bf16 product.
    squares = jnp.sum(embeddings**2, -1)[:, None] + jnp.sum(centres**2, -1)[None, :]
    return 2 * jnp.matmul(embeddings, centres.T, precision=jax.lax.Precision.HIGHEST) - squares


def metric_learner(
    name: str,
    embed_fn: BatchFn,
    fit: Callable[[MetaParams, jax.Array, jax.Array, jax.Array, int], PyTree],
    classify: Callable[[PyTree, jax.Array], jax.Array],
    *,
    extras: MetaParams | None = None,
    ways: int | None = None,
    task_chunk: int | None = None,
) -> MetaLearner:
    """Build a learner that classifies embeddings by other embeddings.

    Batches are dicts with ``label [B]`` and, where items are padded, ``mask [B]``,
    beside whatever ``embed_fn`` reads.

    Args:
        name: for messages.
        embed_fn: ``(params, batch, rng[, frozen=]) -> [B, D]``, for one task.
        fit: ``(meta_params, embeddings [S, D], label [S], mask [S], N) -> dict``.
        classify: ``(the same dict with the meta-parameters, embeddings [B, D]) -> logits [B, N]``.
        extras: floating arrays to be meta-learned beside the parameters.
        ways: number of classes ``N`` of the outputs; None for as many as there
            are support items, the most there can be.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.

    Returns:
        A `MetaLearner` whose loss is the mean cross-entropy in nats, with ``accuracy``.

    Raises:
        ValueError: ``ways`` is not positive.
    """
    if ways is not None and ways < 1:
        raise ValueError(f"ways={ways}: expected a positive number of classes, or None")

    def init(params: PyTree, rng: Key) -> MetaParams:
        del rng
        check_floating(params)
        return {"params": params, **(extras or {})}

    def adapt(meta_params: MetaParams, support: Batch, rng: Key, *, frozen: PyTree = None, **overrides: Any) -> PyTree:
        if overrides:
            raise ValueError(f"{name} has no inner loop: {', '.join(overrides)} cannot be overridden")
        embeddings = with_frozen(embed_fn, frozen)(meta_params["params"], support, support_key(rng))
        label, mask = support["label"], item_mask(support).astype(bool)
        chex.assert_rank([embeddings, label, mask], [2, 1, 1])
        chex.assert_equal_shape_prefix([embeddings, label, mask], 1)
        return {**meta_params, **fit(meta_params, embeddings, label, mask, ways or label.shape[0])}

    def predict(adapted: PyTree, batch: Batch, rng: Key, *, frozen: PyTree = None) -> jax.Array:
        return classify(adapted, with_frozen(embed_fn, frozen)(adapted["params"], batch, rng))

    def loss(
        meta_params: MetaParams, episode: Episode, rng: Key, *, frozen: PyTree = None, **overrides: Any
    ) -> tuple[jax.Array, Aux]:
        adapted = adapt(meta_params, episode.support, rng, frozen=frozen, **overrides)
        logits = predict(adapted, episode.query, query_key(rng), frozen=frozen)
        return masked_cross_entropy(logits, episode.query["label"], item_mask(episode.query))

    return MetaLearner(init, adapt, predict, loss, mean_gradient(loss, task_chunk=task_chunk))


def check_temperature(temperature: float) -> None:
    """Raise a ValueError unless it is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a positive number")


@learner_factory
def protonet(
    embed_fn: BatchFn,
    *,
    ways: int | None = None,
    distance: Distance = "euclidean",
    temperature: float = 1.0,
    learn_temperature: bool = False,
    task_chunk: int | None = None,
) -> MetaLearner:
    """Prototypical networks: classify by the distance to each class's mean embedding.

    Batches are dicts with ``label [B]`` and, where items are padded, ``mask [B]``,
    beside whatever ``embed_fn`` reads.

    Args:
        embed_fn: ``(params, batch, rng[, frozen=]) -> [B, D]``, for one task.
        ways: number of classes ``N`` of the outputs; None for as many as there
            are support items, the most there can be.
        distance: ``"euclidean"`` (squared) or ``"cosine"``.
        temperature: logits are similarities divided by it.
        learn_temperature: meta-learn its logarithm, an extra in ``meta_params``.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.

    Returns:
        A `MetaLearner`; ``adapted`` holds the parameters, ``prototypes [N, D]`` and
        ``present [N]``; outputs are logits ``[B, N]`` (-1e9 for an absent class).
        The loss is the mean cross-entropy in nats, ``aux`` has ``accuracy``.

    Raises:
        ValueError: a hyperparameter is out of range.

    References:
        Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning.
        NeurIPS 2017. Prototypes: equation 1; class distribution: equation 2.
    """
    if distance not in ("euclidean", "cosine"):
        raise ValueError(f"distance={distance!r} is not one of 'euclidean', 'cosine'")
    check_temperature(temperature)
    extras = {"log_temperature": jnp.log(jnp.float32(temperature))} if learn_temperature else {}

    def fit(_: MetaParams, embeddings: jax.Array, label: jax.Array, mask: jax.Array, ways: int) -> PyTree:
        centres, present = prototypes(embeddings, label, mask, ways)
        return {"prototypes": centres, "present": present}

    def classify(adapted: PyTree, embeddings: jax.Array) -> jax.Array:
        scale = jnp.exp(-adapted["log_temperature"]) if learn_temperature else 1 / temperature
        logits = similarity(embeddings, adapted["prototypes"], distance) * scale
        return jnp.where(adapted["present"][None, :], logits, ABSENT)

    return metric_learner("protonet", embed_fn, fit, classify, extras=extras, ways=ways, task_chunk=task_chunk)
