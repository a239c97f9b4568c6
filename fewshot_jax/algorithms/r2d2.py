"""R2-D2: ridge regression on the support embeddings, in closed form, as the classifier."""

import math

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.metric import ABSENT, at_least_float32, metric_learner
from fewshot_jax.algorithms.options import learner_factory
from fewshot_jax.types import BatchFn, MetaLearner, MetaParams, PyTree


def ridge(features: jax.Array, targets: jax.Array, penalty: jax.Array) -> jax.Array:
    """The weights ``[D, N]`` that minimise ``|X W - Y|^2 + penalty |W|^2``.

    Solved in the space of the ``S`` items, fewer than the ``D`` features: ``W = X' (X X' + penalty I)^-1 Y``
    (Bertinetto et al., equation 5, by the Woodbury identity). Rows that are zero on both sides change nothing.

    Args:
        features: X ``[S, D]``.
        targets: Y ``[S, N]``.
        penalty: a positive scalar.
    """
    gram = jnp.matmul(features, features.T, precision=jax.lax.Precision.HIGHEST)
    dual = jax.scipy.linalg.solve(gram + penalty * jnp.eye(gram.shape[0], dtype=gram.dtype), targets, assume_a="pos")
    # Where S exceeds D the dual is the residual over the penalty, and what is left of its product with X is small.
    return jnp.matmul(features.T, dual, precision=jax.lax.Precision.HIGHEST)


@learner_factory
def r2d2(
    embed_fn: BatchFn,
    *,
    ways: int | None = None,
    penalty: float = 1.0,
    scale: float = 1.0,
    task_chunk: int | None = None,
) -> MetaLearner:
    """R2-D2, ridge regression differentiable discriminator: a linear head fitted by least squares.

    The head regresses one-hot labels on the embeddings and a constant one; its outputs times a learned
    scale are the logits. Penalty and scale are meta-learned, by their logarithms. (The paper's
    additive constant is the same for all classes; a softmax does not see it.)

    Batches are dicts with ``label [B]`` and, where items are padded, ``mask [B]``,
    beside whatever ``embed_fn`` reads.

    Args:
        embed_fn: ``(params, batch, rng[, frozen=]) -> [B, D]``, for one task.
        ways: number of classes ``N`` of the outputs; None for as many as there are support items.
        penalty: of the squared weights, before training.
        scale: of the logits, before training.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.

    Returns:
        A `MetaLearner` with the extras ``log_penalty`` and ``log_scale``; ``adapted`` has
        ``weights [D + 1, N]`` and ``present [N]``; outputs are logits ``[B, N]`` (-1e9 for an absent class).
        The loss is the mean cross-entropy in nats, ``aux`` has ``accuracy``.

    Raises:
        ValueError: a hyperparameter is out of range.

    References:
        Bertinetto, Henriques, Torr, Vedaldi. Meta-learning with Differentiable
        Closed-form Solvers. ICLR 2019. Head: equations 4 and 5; scale: equation 6.
    """
    for name, value in (("penalty", penalty), ("scale", scale)):
        if not value > 0:
            raise ValueError(f"{name}={value}: expected a positive number")
    # With a dtype: a weakly typed leaf becomes another type in the outer step, which compiles again.
    extras = {"log_penalty": jnp.asarray(math.log(penalty), float), "log_scale": jnp.asarray(math.log(scale), float)}

    def with_constant(embeddings: jax.Array) -> jax.Array:
        precise = at_least_float32(embeddings)
        return jnp.concatenate([precise, jnp.ones_like(precise[:, :1])], axis=1)

    def fit(meta_params: MetaParams, embeddings: jax.Array, label: jax.Array, mask: jax.Array, ways: int) -> PyTree:
        features = jnp.where(mask[:, None], with_constant(embeddings), 0)
        targets = jax.nn.one_hot(label, ways, dtype=features.dtype) * mask[:, None]
        weights = ridge(features, targets, jnp.exp(meta_params["log_penalty"]).astype(features.dtype))
        return {"weights": weights, "present": targets.sum(0) > 0}

    def classify(adapted: PyTree, embeddings: jax.Array) -> jax.Array:
        logits = with_constant(embeddings) @ adapted["weights"] * jnp.exp(adapted["log_scale"])
        return jnp.where(adapted["present"][None, :], logits, ABSENT)

    return metric_learner("r2d2", embed_fn, fit, classify, extras=extras, ways=ways, task_chunk=task_chunk)
