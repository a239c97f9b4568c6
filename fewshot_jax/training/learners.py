"""From the name of a learner in a config to its `MetaLearner`: one table."""

from collections.abc import Callable

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
from fewshot_jax.training.frozen import Adapting, frozen_paths, leaving_out, taking_frozen
from fewshot_jax.types import BatchFn, MetaLearner

CHOOSE_THEMSELVES = ("anil", "boil", "cavia")  # what adapts, where inner.params says nothing
Build = Callable[[Functions, Config, int], MetaLearner]


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


def _of_classes(functions: Functions) -> tuple[BatchFn, int]:
    """The embeddings that a learner compares, and the number of classes."""
    if functions.embed_fn is None or functions.ways is None:
        raise ValueError("this learner compares embeddings of classes, and the application has no classes")
    return functions.embed_fn, functions.ways


def rate_of_each_layer(path: str, leaf: jax.Array) -> tuple[int, ...]:
    """The shape of a leaf's learned rates: one for each of the scanned layers, or one."""
    return (leaf.shape[0], *(1,) * (leaf.ndim - 1)) if "/blocks/" in path else ()


def _adapting(functions: Functions, config: Config) -> Selector:
    """The leaves that adapt: none that are frozen; None where a learner chooses itself."""
    if not functions.frozen or (config.inner.params is None and config.learner.name in CHOOSE_THEMSELVES):
        return config.inner.params
    return Adapting(config.inner.params, functions.frozen)


def _loop(functions: Functions, config: Config, steps: int) -> LearnerOptions:
    """What every learner with an inner loop takes from the config."""
    return {
        "inner_optimizer": inner_optimizer(config.inner),
        "inner_steps": steps,
        "keep": config.learner.keep,
        "keep_blocks": config.learner.keep_blocks,
        "share_first_step": config.learner.share_first_step,
        "inner_params": _adapting(functions, config),
        "task_init_fn": functions.task_init_fn,
        "output_fn": functions.output_fn,
        "inner_batch_size": config.inner.batch_size,
        "task_chunk": config.learner.task_chunk,
    }


def _second_order(functions: Functions, config: Config, steps: int) -> LearnerOptions:
    return {**_loop(functions, config, steps), "gradient": config.learner.gradient}


def _maml(functions: Functions, config: Config, steps: int) -> MetaLearner:
    return maml(functions.loss_fn, **_second_order(functions, config, steps))


def _fomaml(functions: Functions, config: Config, steps: int) -> MetaLearner:
    return fomaml(functions.loss_fn, **_loop(functions, config, steps))


def _anil(functions: Functions, config: Config, steps: int) -> MetaLearner:
    return anil(functions.loss_fn, **_second_order(functions, config, steps))


def _boil(functions: Functions, config: Config, steps: int) -> MetaLearner:
    options = _second_order(functions, config, steps)
    options["task_init_fn"] = functions.prototype_init_fn  # a zero head would send the body no gradient
    return boil(functions.loss_fn, **options)


def _reptile(functions: Functions, config: Config, steps: int) -> MetaLearner:
    return reptile(functions.loss_fn, **_loop(functions, config, steps))


def _meta_sgd(functions: Functions, config: Config, steps: int) -> MetaLearner:
    options = _second_order(functions, config, steps)
    del options["inner_optimizer"]
    return meta_sgd(functions.loss_fn, inner_rate=config.inner.rate, **options)


def _maml_plus_plus(functions: Functions, config: Config, steps: int) -> MetaLearner:
    options = _second_order(functions, config, steps)
    options["inner_optimizer"] = learned_rates(
        config.inner.rate,
        shape=rate_of_each_layer,
        steps=max(config.inner.steps, 1),  # in evaluation too: the rates of the steps that were trained
        base=inner_optimizer(config.inner, rate=1.0),
    )
    return maml_plus_plus(
        functions.loss_fn,
        multi_step_share=config.learner.multi_step_share,
        first_order_share=config.learner.first_order_share,
        **options,
    )


def _imaml(functions: Functions, config: Config, steps: int) -> MetaLearner:
    learner = config.learner
    options = _loop(functions, config, steps)
    return imaml(functions.loss_fn, proximal=learner.proximal, cg_steps=learner.cg_steps, **options)


def _cavia(functions: Functions, config: Config, steps: int) -> MetaLearner:
    options = _second_order(functions, config, steps)
    if config.inner.params is None and functions.task_init_fn is not None:
        options["inner_params"] = "^(context|head)"  # a head that starts at zero is a context too
    return cavia(functions.loss_fn, context=functions.context, **options)


def _proto_maml(functions: Functions, config: Config, steps: int) -> MetaLearner:
    options = _second_order(functions, config, steps)
    del options["task_init_fn"]
    embed_fn, ways = _of_classes(functions)
    return proto_maml(functions.loss_fn, embed_fn=embed_fn, ways=ways, **options)


def _protonet(functions: Functions, config: Config, steps: int) -> MetaLearner:
    del steps
    embed_fn, ways = _of_classes(functions)
    return protonet(
        embed_fn,
        ways=ways,
        distance=config.learner.distance,
        temperature=config.learner.temperature,
        task_chunk=config.learner.task_chunk,
    )


def _matching_network(functions: Functions, config: Config, steps: int) -> MetaLearner:
    del steps
    learner = config.learner
    embed_fn, ways = _of_classes(functions)
    return matching_network(embed_fn, ways=ways, temperature=learner.temperature, task_chunk=learner.task_chunk)


def _r2d2(functions: Functions, config: Config, steps: int) -> MetaLearner:
    del steps
    embed_fn, ways = _of_classes(functions)
    return r2d2(embed_fn, ways=ways, task_chunk=config.learner.task_chunk)


def _metaicl(functions: Functions, config: Config, steps: int) -> MetaLearner:
    del steps
    if functions.join_fn is None:
        raise ValueError("this learner reads its examples, and the application's model reads none")
    return metaicl(
        functions.loss_fn,
        join=functions.join_fn,
        output_fn=functions.output_fn,
        task_chunk=config.learner.task_chunk,
    )


def _multi_task(functions: Functions, config: Config, steps: int) -> MetaLearner:
    return multi_task(functions.loss_fn, joint_loss_fn=functions.joint_loss_fn, **_loop(functions, config, steps))


LEARNERS: dict[str, Build] = {
    "maml": _maml,
    "fomaml": _fomaml,
    "anil": _anil,
    "boil": _boil,
    "reptile": _reptile,
    "meta_sgd": _meta_sgd,
    "maml_plus_plus": _maml_plus_plus,
    "imaml": _imaml,
    "cavia": _cavia,
    "proto_maml": _proto_maml,
    "protonet": _protonet,
    "matching_network": _matching_network,
    "r2d2": _r2d2,
    "metaicl": _metaicl,
    "multi_task": _multi_task,
}


def build_learner(functions: Functions, config: Config, *, training: bool, name: str | None = None) -> MetaLearner:
    """The learner of a config.

    Args:
        functions: of its application.
        config: of the run.
        training: with ``inner.steps``; otherwise with ``inner.test_steps``.
        name: another learner than the config's, over the same functions.

    Returns:
        The learner. Its ``grad`` is zero at the leaves that ``outer.params`` leaves out.

    Raises:
        ValueError: ``outer.params`` or ``inner.params`` selects no leaf, or the learner does not suit the application.
    """
    steps = config.inner.steps if training else evaluation_steps(config)
    build = LEARNERS[config.learner.name if name is None else name]
    functions = functions._replace(frozen=frozen_paths(functions, config.outer.params))
    if not (training and functions.frozen):
        return build(functions, config, steps)
    return leaving_out(build(taking_frozen(functions), config, steps), functions.frozen)
