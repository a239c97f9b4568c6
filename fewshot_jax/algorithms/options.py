"""The keywords of learners: which ones an inner loop takes, which a learner decides itself, and what None means.

Names and types stand here alone, `maml` says what they mean, and `gradient_based.adaptation` reads them.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypedDict, get_args

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


def learner_factory(factory: Callable[Keywords, MetaLearner]) -> Callable[Keywords, MetaLearner]:
    """Check the keywords of a function that builds a learner, and treat None as not given.

    A config passes all of its fields, None where the user said nothing; what a learner chooses in that case
    must not depend on who calls it. The signature that ``help`` and notebooks show has every keyword of the
    options, with None for "the learner's default".

    Raises:
        TypeError: at a call, a keyword that neither the function nor its options have.
    """
    signature = inspect.signature(factory)
    named = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    rest = [one for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD]
    options = get_args(rest[0].annotation)[0].__annotations__ if rest else {}
    named += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
    ]
    known = [one.name for one in named]

    @functools.wraps(factory)
    def build(*args: Keywords.args, **keywords: Keywords.kwargs) -> MetaLearner:
        for name in keywords.keys() - set(known):
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f". Did you mean '{nearest[0]}'?" if nearest else ""
            raise TypeError(f"{factory.__name__}() got an unexpected keyword argument '{name}'{hint}")
        given: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None}
        return factory(*args, **given)

    build.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
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
