"""Proto-MAML: an inner loop that starts from the classifier of a prototypical network."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.metric import ABSENT, item_mask, prototypes
from fewshot_jax.algorithms.options import LearnerOptions, decide, learner_factory
from fewshot_jax.algorithms.partition import with_frozen
from fewshot_jax.types import Batch, BatchFn, Key, LossFn, MetaLearner, Params


def prototype_head(embeddings: jax.Array, support: Batch, ways: int) -> dict[str, jax.Array]:
    """The linear layer that classifies by the squared distance to each class's mean embedding.

    ``-|x - c|^2 = 2 c . x - |c|^2 - |x|^2``, and a softmax does not see ``|x|^2``.

    Args:
        embeddings: ``[S, D]``.
        support: with ``label [S]``, and ``mask [S]`` where items are padded.
        ways: number of classes ``N``.

    Returns:
        ``{"kernel": 2 c [D, N], "bias": -|c|^2 [N]}``; the bias of a class without items is -1e9.
    """
    centres, present = prototypes(embeddings, support["label"], item_mask(support), ways)
    return {"kernel": 2 * centres.T, "bias": jnp.where(present, -jnp.sum(centres**2, -1), ABSENT)}


@learner_factory
def proto_maml(
    loss_fn: LossFn,
    *,
    embed_fn: BatchFn,
    ways: int,
    head: str = "head",
    **options: Unpack[LearnerOptions],
) -> MetaLearner:
    """Proto-MAML: `maml` whose linear head starts, in every task, as the prototype classifier.

    The meta-gradient flows through the prototypes. With no inner steps it is the prototypical network.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task; ``params`` is a dict
            with ``params[head] = {"kernel": [D, N], "bias": [N]}`` beside what was given to ``init``.
        embed_fn: ``(params, batch, rng[, frozen=]) -> [S, D]``: what the head reads.
        ways: number of classes ``N``.
        head: the head's key.
        options: those of `maml` but ``task_init_fn``.

    References:
        Triantafillou et al. Meta-Dataset: A Dataset of Datasets for Learning to
        Learn from Few Examples. ICLR 2020 (section 3, "Proto-MAML").
    """

    def task_init_fn(params: Params, support: Batch, rng: Key, *, frozen: Any = None) -> Params:
        embeddings = with_frozen(embed_fn, frozen)(params, support, rng)
        return {**params, head: prototype_head(embeddings, support, ways)}

    decide(options, "proto_maml", task_init_fn=task_init_fn)
    return maml(loss_fn, **options)
