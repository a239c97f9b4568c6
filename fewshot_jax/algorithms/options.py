"""The keywords of learners: which ones an inner loop takes, which a learner decides itself, and what None means."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypedDict

import optax

from fewshot_jax.algorithms.differentiation import Gradient, Keep
from fewshot_jax.algorithms.learned_rates import LearnedRates
from fewshot_jax.algorithms.partition import Selector
from fewshot_jax.block_policy import BlockPolicy
from fewshot_jax.types import BatchFn, MetaLearner

InnerOptimizer: TypeAlias = optax.GradientTransformation | LearnedRates
Keywords = ParamSpec("Keywords")


class InnerLoopOptions(TypedDict, total=False):
    """Keywords of every learner with an inner loop; `maml` says what they mean."""

    inner_optimizer: InnerOptimizer | None
    inner_steps: int
    gradient: Gradient
    keep: Keep | None
    keep_blocks: BlockPolicy | None
    share_first_step: bool
    inner_params: Selector
    task_init_fn: BatchFn | None
    output_fn: BatchFn | None
    inner_batch_size: int | None


class LearnerOptions(InnerLoopOptions, total=False):
    """The same, and how many tasks are vmapped at once."""

    task_chunk: int | None


def none_is_default(factory: Callable[Keywords, MetaLearner]) -> Callable[Keywords, MetaLearner]:
    """Make every keyword of a learner's factory that is given as None the same as one that is not given.

    A config passes all of its fields, None where the user said nothing; what a learner chooses in that case
    must not depend on who calls it.
    """

    @functools.wraps(factory)
    def build(*args: Keywords.args, **keywords: Keywords.kwargs) -> MetaLearner:
        given: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None}
        return factory(*args, **given)

    return build


def decide(options: InnerLoopOptions, learner: str, **values: Any) -> None:
    """Set the options that a learner itself decides.

    Raises:
        ValueError: the caller gave another value, which no default is.
    """
    for name, value in values.items():
        given = options.get(name)
        if given is not None and given != "auto" and given is not value and given != value:
            raise ValueError(f"{name}: {learner} decides it itself; leave it out, or take maml")
        options[name] = value  # type: ignore[literal-required]
