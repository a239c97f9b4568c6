"""ANIL and BOIL: inner loops that adapt the head alone, or everything but the head."""

import re
from typing import Unpack

from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.options import LearnerOptions, decide, learner_factory
from fewshot_jax.types import LossFn, MetaLearner


@learner_factory
def anil(loss_fn: LossFn, *, head: str = r"\bhead\b", **options: Unpack[LearnerOptions]) -> MetaLearner:
    r"""ANIL, "almost no inner loop": `maml` whose inner loop adapts the head alone.

    The body is meta-learned and shared by all steps of a task, so its forward pass
    is unbatched under the ``vmap`` over tasks.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        head: regular expression on the paths of the head's leaves; ``""`` for all, which is MAML.
        options: those of `maml` but ``inner_params``.

    Raises:
        ValueError: no leaf is called so, or as in `maml`.

    References:
        Raghu, Raghu, Bengio, Vinyals. Rapid Learning or Feature Reuse? Towards
        Understanding the Effectiveness of MAML. ICLR 2020 (section 4).
    """
    decide(options, "anil", inner_params=head)
    return maml(loss_fn, **options)


@learner_factory
def boil(loss_fn: LossFn, *, head: str = r"\bhead\b", **options: Unpack[LearnerOptions]) -> MetaLearner:
    r"""BOIL, "body only update in inner loop": `maml` whose inner loop adapts all but the head.

    The head is meta-learned, or given by ``task_init_fn``, and must not be zero: a
    zero head sends no gradient to the body.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task.
        head: regular expression on the paths of the head's leaves.
        options: those of `maml` but ``inner_params``.

    References:
        Oh, Yoo, Kim, Yun. BOIL: Towards Representation Change for Few-shot
        Learning. ICLR 2021 (section 3).
    """
    pattern = re.compile(head)
    decide(options, "boil", inner_params=lambda path, leaf: pattern.search(path) is None)
    return maml(loss_fn, **options)
