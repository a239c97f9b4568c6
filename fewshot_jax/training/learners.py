"""From the name of a learner in a config to its `MetaLearner`: one table.

What a config knows of a learner stands in `config.learners`; here is what builds it. A learner whose factory takes the
usual keywords is one line.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from fewshot_jax.algorithms.anil import anil, boil
from fewshot_jax.algorithms.cavia import cavia
from fewshot_jax.algorithms.imaml import imaml
from fewshot_jax.algorithms.learned_rates import learned_rates
from fewshot_jax.algorithms.maml import fomaml, maml
from fewshot_jax.algorithms.maml_plus_plus import maml_plus_plus
from fewshot_jax.algorithms.matching_network import matching_network
from fewshot_jax.algorithms.meta_sgd import meta_sgd
from fewshot_jax.algorithms.metaicl import metaicl
from fewshot_jax.algorithms.metric import protonet
from fewshot_jax.algorithms.multi_task import multi_task
from fewshot_jax.algorithms.options import LearnerOptions
from fewshot_jax.algorithms.partition import Selector
from fewshot_jax.algorithms.proto_maml import proto_maml
from fewshot_jax.algorithms.r2d2 import r2d2
from fewshot_jax.algorithms.reptile import reptile
from fewshot_jax.applications.application import Functions, evaluation_steps
from fewshot_jax.config import Config, InnerConfig
from fewshot_jax.config.learners import LearnerRecord, learner_record
from fewshot_jax.config.names import is_function
from fewshot_jax.errors import UserError
from fewshot_jax.named_function import call_function
from fewshot_jax.training.frozen import Adapting, frozen_paths, leaving_out, taking_frozen
from fewshot_jax.types import BatchFn, MetaLearner


class Recipe(NamedTuple):
    """What a learner is built from.

    Attributes:
        functions: of its application.
        config: of the run, which may be that of another learner.
        steps: of the inner loop.
        record: of the learner.
    """

    functions: Functions
    config: Config
    steps: int
    record: LearnerRecord

    def loop(self) -> LearnerOptions:
        """The keywords that every factory of a learner with an inner loop takes."""
        learner, functions = self.config.learner, self.functions
        options: LearnerOptions = {
            "inner_optimizer": inner_optimizer(self.config.inner),
            "inner_steps": self.steps,
            "keep": learner.keep,
            "keep_blocks": learner.keep_blocks,
            "share_first_step": learner.share_first_step,
            "inner_params": self._adapting(),
            "task_init_fn": functions.task_init_fn,
            "output_fn": functions.output_fn,
            "inner_batch_size": self.config.inner.batch_size,
            "task_chunk": learner.task_chunk,
        }
        if self.record.second_order:
            options["gradient"] = learner.gradient
        return options

    def fields(self) -> dict[str, Any]:
        """The keywords of its own that a factory takes from `learner`."""
        return {name: getattr(self.config.learner, name) for name in self.record.fields}

    def classes(self) -> tuple[BatchFn, int]:
        """The embeddings that a learner compares, and the number of classes.

        Raises:
            ValueError: the application has no classes.
        """
        if self.functions.embed_fn is None or self.functions.ways is None:
            raise ValueError("this learner compares embeddings of classes, and the application has no classes")
        return self.functions.embed_fn, self.functions.ways

    def _adapting(self) -> Selector:
        """The leaves that adapt: none that are frozen; None where a learner chooses itself."""
        chosen = self.config.inner.params
        if not self.functions.frozen or (chosen is None and self.config.learner.record.chooses_params):
            return chosen
        return Adapting(chosen, self.functions.frozen)


Build = Callable[[Recipe], MetaLearner]


def inner_optimizer(config: InnerConfig, rate: float | None = None) -> optax.GradientTransformation:
    """The inner optimizer of a config, its rate kept in its state.

    Adam's ``eps_root`` is positive: with zero the meta-gradient is not finite.
    """
    factories: dict[str, Callable[..., optax.GradientTransformation]] = {
        "sgd": lambda learning_rate: optax.sgd(learning_rate),
        "momentum": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9),
        "adam": lambda learning_rate: optax.adam(learning_rate, eps_root=1e-8),
    }
    return optax.inject_hyperparams(factories[config.optimizer])(learning_rate=config.rate if rate is None else rate)


def rate_of_each_layer(path: str, leaf: jax.Array) -> tuple[int, ...]:
    """The shape of a leaf's learned rates: one for each of the scanned layers, or one."""
    return (leaf.shape[0], *(1,) * (leaf.ndim - 1)) if "/blocks/" in path else ()


def gradient_based(factory: Callable[..., MetaLearner]) -> Build:
    """Build a learner with an inner loop whose factory takes a loss and the usual keywords."""
    return lambda recipe: factory(recipe.functions.loss_fn, **recipe.loop(), **recipe.fields())


def metric_based(factory: Callable[..., MetaLearner]) -> Build:
    """Build a learner that compares embeddings of classes and has no loop."""

    def build(recipe: Recipe) -> MetaLearner:
        embed_fn, ways = recipe.classes()
        return factory(embed_fn, ways=ways, task_chunk=recipe.config.learner.task_chunk, **recipe.fields())

    return build


def _boil(recipe: Recipe) -> MetaLearner:
    options = recipe.loop()
    options["task_init_fn"] = recipe.functions.prototype_init_fn  # a zero head would send the body no gradient
    return boil(recipe.functions.loss_fn, **options)


def _meta_sgd(recipe: Recipe) -> MetaLearner:
    options = recipe.loop()
    del options["inner_optimizer"]
    return meta_sgd(recipe.functions.loss_fn, inner_rate=recipe.config.inner.rate, **options)


def _maml_plus_plus(recipe: Recipe) -> MetaLearner:
    options, inner = recipe.loop(), recipe.config.inner
    options["inner_optimizer"] = learned_rates(
        inner.rate,
        shape=rate_of_each_layer,
        steps=max(inner.steps, 1),  # in evaluation too: the rates of the steps that were trained
        base=inner_optimizer(inner, rate=1.0),
    )
    return maml_plus_plus(recipe.functions.loss_fn, **recipe.fields(), **options)


def _cavia(recipe: Recipe) -> MetaLearner:
    options, functions = recipe.loop(), recipe.functions
    if recipe.config.inner.params is None and functions.task_init_fn is not None:
        options["inner_params"] = "^(context|head)"  # a head that starts at zero is a context too
    return cavia(functions.loss_fn, context=functions.context, **options)


def _proto_maml(recipe: Recipe) -> MetaLearner:
    options = recipe.loop()
    del options["task_init_fn"]
    embed_fn, ways = recipe.classes()
    return proto_maml(recipe.functions.loss_fn, embed_fn=embed_fn, ways=ways, **options)


def _metaicl(recipe: Recipe) -> MetaLearner:
    functions = recipe.functions
    if functions.join_fn is None:
        raise ValueError("this learner reads its examples, and the application's model reads none")
    return metaicl(
        functions.loss_fn,
        join=functions.join_fn,
        output_fn=functions.output_fn,
        task_chunk=recipe.config.learner.task_chunk,
    )


def _multi_task(recipe: Recipe) -> MetaLearner:
    functions = recipe.functions
    return multi_task(functions.loss_fn, joint_loss_fn=functions.joint_loss_fn, **recipe.loop())


LEARNERS: dict[str, Build] = {
    "maml": gradient_based(maml),
    "fomaml": gradient_based(fomaml),
    "anil": gradient_based(anil),
    "boil": _boil,
    "reptile": gradient_based(reptile),
    "meta_sgd": _meta_sgd,
    "maml_plus_plus": _maml_plus_plus,
    "imaml": gradient_based(imaml),
    "cavia": _cavia,
    "proto_maml": _proto_maml,
    "protonet": metric_based(protonet),
    "matching_network": metric_based(matching_network),
    "r2d2": metric_based(r2d2),
    "metaicl": _metaicl,
    "multi_task": _multi_task,
}


def _own(recipe: Recipe) -> MetaLearner:
    """Build a learner by the function of the user's own that the config names."""
    learner = recipe.config.learner
    made = call_function(
        "learner.name", learner.name, functions=recipe.functions, options=learner.options, steps=recipe.steps
    )
    if not isinstance(made, MetaLearner):
        raise UserError(
            f"learner.name={learner.name}: the function returned {type(made).__name__}; expected a "
            "fewshot_jax.MetaLearner, such as fewshot_jax.maml(functions.loss_fn, ...) gives"
        )
    return made


def build_learner(functions: Functions, config: Config, *, training: bool, name: str | None = None) -> MetaLearner:
    """Build the learner of a config.

    Args:
        functions: of its application.
        config: of the run.
        training: with ``inner.steps``; otherwise with ``inner.test_steps``.
        name: another learner than the config's, over the same functions.

    Returns:
        The learner. Its ``grad`` is zero at the leaves that ``outer.params`` leaves out.

    Raises:
        ValueError: ``outer.params`` or ``inner.params`` selects no leaf, or the learner does not suit the application.
        UserError: the function of the user's own that the config names cannot be used.
    """
    steps = config.inner.steps if training else evaluation_steps(config)
    name = config.learner.name if name is None else name
    build = _own if is_function(name) else LEARNERS[name]
    functions = functions._replace(frozen=frozen_paths(functions, config.outer.params))
    recipe = Recipe(functions, config, steps, learner_record(name))
    if not (training and functions.frozen):
        return build(recipe)
    return leaving_out(build(recipe._replace(functions=taking_frozen(functions))), functions.frozen)
