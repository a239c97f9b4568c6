"""A base that is not meta-learned: which leaves it has, and a learner whose gradient leaves them out.

``outer.params`` names the leaves that the outer loop trains, such as a LoRA and a head. The others, the base, are part
of a run's meta-parameters as they are of its model, so that checkpoints, evaluation and adaptation need to know nothing
of them. For the gradient alone the two are parted: the base is passed as ``frozen=``, one copy for all tasks.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.partition import chosen, leaf_path, merge, split
from fewshot_jax.applications.application import Functions
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, Params, PyTree


def trained_leaves(meta_params: MetaParams, pattern: str | None) -> PyTree:
    """True at the leaves that the outer loop trains: the chosen ones of the model, all of the learner's own.

    Args:
        meta_params: ``{"params": params, <extras>}``.
        pattern: ``outer.params``; None for all.
    """
    return {name: chosen(tree, pattern if name == "params" else None) for name, tree in meta_params.items()}


def frozen_paths(functions: Functions, pattern: str | None) -> frozenset[str]:
    """The paths of the base, relative to the parameters.

    Raises:
        ValueError: nothing is trained; the message lists the leaves there are.
    """
    if pattern is None:
        return frozenset()
    shapes = jax.eval_shape(functions.init_params, jax.random.key(0))
    paths = [leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    trained = jax.tree.leaves(chosen(shapes, pattern))
    if not any(trained):
        lora = "lora" in pattern and not any("lora_" in path for path in paths)
        hint = " (model.lora_rank adds those of LoRA)" if lora else ""
        raise ValueError(f"outer.params={pattern!r} selects no leaf{hint}; the leaves are: {', '.join(paths)}")
    return frozenset(path for path, used in zip(paths, trained, strict=True) if not used)


@dataclass(frozen=True)
class Adapting:
    """A selector of the leaves of an inner loop: none of the base.

    Attributes:
        pattern: ``inner.params``; None for all.
        frozen: paths of the base.
    """

    pattern: str | None
    frozen: frozenset[str]

    def __call__(self, path: str, leaf: Any) -> bool:
        return path not in self.frozen and (self.pattern is None or re.search(self.pattern, path) is not None)

    def __repr__(self) -> str:
        return f"{self.pattern!r}, among the leaves that outer.params selects,"


def joined(params: Params, base: Params) -> Params:
    """`merge` of parameters that may have leaves more than the base has places: a task's own head."""
    if not isinstance(base, dict):
        return params if base is None else base
    return {**params, **{name: joined(params[name], part) for name, part in base.items()}}


def taking_frozen(functions: Functions) -> Functions:
    """The functions of an application, of parameters without the base, which they take as ``frozen=``."""

    def whole(fn: Callable[..., Any] | None) -> Any:
        if fn is None:
            return None
        return lambda params, *args, frozen=None: fn(joined(params, frozen), *args)

    def start(fn: Callable[..., Any] | None) -> Any:
        if fn is None:
            return None
        return lambda params, *args, frozen=None: split(fn(joined(params, frozen), *args), unfrozen)[0]

    unfrozen = Adapting(None, functions.frozen)
    return functions._replace(
        loss_fn=whole(functions.loss_fn),
        output_fn=whole(functions.output_fn),
        joint_loss_fn=whole(functions.joint_loss_fn),
        embed_fn=whole(functions.embed_fn),
        write_fn=whole(functions.write_fn),
        task_init_fn=start(functions.task_init_fn),
        prototype_init_fn=start(functions.prototype_init_fn),
    )


def leaving_out(learner: MetaLearner, frozen: frozenset[str]) -> MetaLearner:
    """A learner whose ``grad`` takes whole meta-parameters, and is zero at the base.

    Args:
        learner: of functions that are `taking_frozen`.
        frozen: paths of the base.
    """

    def grad(
        meta_params: MetaParams, episodes: Episode, rng: Key, **keywords: Any
    ) -> tuple[MetaParams, dict[str, Any]]:
        trained, base = split(meta_params["params"], Adapting(None, frozen))
        grads, metrics = learner.grad({**meta_params, "params": trained}, episodes, rng, frozen=base, **keywords)
        return {**grads, "params": merge(grads["params"], jax.tree.map(jnp.zeros_like, base))}, metrics

    return learner._replace(grad=grad)
