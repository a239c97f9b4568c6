"""CAVIA: adapt a few context parameters, share the rest."""

import re
from typing import Any, Unpack

from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.options import LearnerOptions, learner_factory
from fewshot_jax.types import Batch, Key, LossFn, MetaLearner, Params, PyTree


@learner_factory
def cavia(loss_fn: LossFn, *, context: PyTree, name: str = "context", **options: Unpack[LearnerOptions]) -> MetaLearner:
    """CAVIA, fast context adaptation: `maml` whose inner loop adapts an additional input alone.

    Every task starts from the same context, usually zeros, which is not
    meta-learned; the parameters theta are meta-learned and do not change inside a task.

    Args:
        loss_fn: ``(params, batch, rng[, frozen=]) -> (loss, aux)``, for one task; ``params`` is a dict
            with the context under ``name`` beside what was given to ``init``.
        context: a pytree of floating arrays, where the inner loop starts.
        name: its key.
        options: those of `maml`; ``task_init_fn`` may add other leaves, ``inner_params``
            says which adapt, by default the context.

    References:
        Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson. Fast Context Adaptation via
        Meta-Learning. ICML 2019. Inner step: equation 4; outer step: equation 5.
    """
    add_more = options.pop("task_init_fn", None)

    def task_init_fn(params: Params, support: Batch, rng: Key, **frozen: Any) -> Params:
        if not isinstance(params, dict) or name in params:
            raise ValueError(f"cavia adds the context to params as '{name}': params must be a dict without this key")
        start = params if add_more is None else add_more(params, support, rng, **frozen)
        return {**start, name: context}

    options.setdefault("inner_params", rf"^{re.escape(name)}\b")
    options["task_init_fn"] = task_init_fn
    return maml(loss_fn, **options)
