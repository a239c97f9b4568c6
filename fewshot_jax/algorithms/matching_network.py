"""Matching networks: classify by attention over the support items."""

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.metric import ABSENT, check_temperature, metric_learner, similarity
from fewshot_jax.algorithms.options import learner_factory
from fewshot_jax.types import BatchFn, MetaLearner, MetaParams, PyTree


@learner_factory
def matching_network(
    embed_fn: BatchFn, *, ways: int | None = None, temperature: float = 1.0, task_chunk: int | None = None
) -> MetaLearner:
    """Matching networks: a query's class distribution is attention over the labels of the support items.

    ``P(y | x) = sum_i a(x, x_i) [y_i = y]``, with a the softmax of cosine similarities. Both sides are
    embedded by ``embed_fn``, without the paper's recurrent "full context embeddings".

    Batches are dicts with ``label [B]`` and, where items are padded, ``mask [B]``,
    beside whatever ``embed_fn`` reads.

    Args:
        embed_fn: ``(params, batch, rng[, frozen=]) -> [B, D]``, for one task.
        ways: number of classes ``N`` of the outputs; None for as many as there are support items.
        temperature: similarities are divided by it; one in the paper. A smaller one lets
            probabilities come near zero and one, which cosines cannot by themselves.
        task_chunk: how many tasks ``grad`` vmaps at once; None for all.

    Returns:
        A `MetaLearner`; ``adapted`` holds the parameters, ``embeddings [S, D]`` and ``member [S, N]``;
        outputs are log-probabilities ``[B, N]`` (about -1e9 for an absent class). The loss is the mean
        cross-entropy in nats, ``aux`` has ``accuracy``.

    Raises:
        ValueError: a hyperparameter is out of range.

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra. Matching Networks for
        One Shot Learning. NeurIPS 2016. Prediction: equation 1; attention: section 2.1.1.
    """
    check_temperature(temperature)

    def fit(_: MetaParams, embeddings: jax.Array, label: jax.Array, mask: jax.Array, ways: int) -> PyTree:
        embeddings = jnp.where(mask[:, None], embeddings, 0)
        return {"embeddings": embeddings, "member": jax.nn.one_hot(label, ways, dtype=bool) & mask[:, None]}

    def classify(adapted: PyTree, embeddings: jax.Array) -> jax.Array:
        score_BS = similarity(embeddings, adapted["embeddings"], "cosine") / temperature
        score_BSN = jnp.where(adapted["member"][None], score_BS[:, :, None], ABSENT)
        return jax.nn.log_softmax(jax.nn.logsumexp(score_BSN, axis=1))

    return metric_learner("matching_network", embed_fn, fit, classify, ways=ways, task_chunk=task_chunk)
