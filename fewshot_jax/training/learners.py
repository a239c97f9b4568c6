"""From the name of a learner in a config to its `MetaLearner`: one table."""

from collections.abc import Callable

import jax
import optax

from fewshot_jax.algorithms.anil import anil, boil
from fewshot_jax.algorithms.cavia import cavia
from fewshot_jax.algorithms.gradient_based import LearnerOptions
from fewshot_jax.algorithms.imaml import imaml
from fewshot_jax.algorithms.learned_rates import learned_rates
from fewshot_jax.algorithms.maml import fomaml, maml
from fewshot_jax.algorithms.maml_plus_plus import maml_plus_plus
from fewshot_jax.algorithms.matching_network import matching_network
from fewshot_jax.algorithms.meta_sgd import meta_sgd
from fewshot_jax.algorithms.metric import protonet
from fewshot_jax.algorithms.proto_maml import proto_maml
from fewshot_jax.algorithms.r2d2 import r2d2
from fewshot_jax.algorithms.reptile import reptile
from fewshot_jax.applications.classification import TextClassification
from fewshot_jax.config import WITHOUT_A_LOOP, Config, InnerConfig, ModelConfig
from fewshot_jax.models.encoder import Encoder
from fewshot_jax.models.heads import TextFeatures
from fewshot_jax.types import MetaLearner

Build = Callable[[TextClassification, Config, int], MetaLearner]


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


def _loop(application: TextClassification, config: Config, steps: int) -> LearnerOptions:
    """What every learner with an inner loop takes from the config."""
    return {
        "inner_optimizer": inner_optimizer(config.inner),
        "inner_steps": steps,
        "keep": config.learner.keep,
        "keep_blocks": config.learner.keep_blocks,
        "share_first_step": config.learner.share_first_step,
        "inner_params": config.inner.params,
        "task_init_fn": application.zero_start,
        "output_fn": application.output_fn,
        "inner_batch_size": config.inner.batch_size,
        "task_chunk": config.learner.task_chunk,
    }


def _second_order(application: TextClassification, config: Config, steps: int) -> LearnerOptions:
    return {**_loop(application, config, steps), "gradient": config.learner.gradient}


def _maml(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    return maml(application.loss_fn, **_second_order(application, config, steps))


def _fomaml(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    return fomaml(application.loss_fn, **_loop(application, config, steps))


def _anil(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    return anil(application.loss_fn, **_second_order(application, config, steps))


def _boil(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    options = _second_order(application, config, steps)
    options["task_init_fn"] = application.prototype_start  # a zero head would send the body no gradient
    return boil(application.loss_fn, **options)


def _reptile(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    return reptile(application.loss_fn, **_loop(application, config, steps))


def _meta_sgd(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    options = _second_order(application, config, steps)
    return meta_sgd(application.loss_fn, inner_rate=config.inner.rate, **options)


def _maml_plus_plus(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    options = _second_order(application, config, steps)
    options["inner_optimizer"] = learned_rates(
        config.inner.rate,
        shape=rate_of_each_layer,
        steps=max(config.inner.steps, 1),  # in evaluation too: the rates of the steps that were trained
        base=inner_optimizer(config.inner, rate=1.0),
    )
    return maml_plus_plus(
        application.loss_fn,
        multi_step_share=config.learner.multi_step_share,
        first_order_share=config.learner.first_order_share,
        **options,
    )


def _imaml(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    learner = config.learner
    options = _loop(application, config, steps)
    return imaml(application.loss_fn, proximal=learner.proximal, cg_steps=learner.cg_steps, **options)


def _cavia(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    options = _second_order(application, config, steps)
    if config.inner.params is None:
        options["inner_params"] = "^(context|head)"  # a head that starts at zero is a context too
    return cavia(application.loss_fn, context=application.zero_context(), **options)


def _proto_maml(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    options = _second_order(application, config, steps)
    return proto_maml(application.loss_fn, embed_fn=application.embed_fn, ways=application.ways, **options)


def _protonet(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    del steps
    return protonet(
        application.embed_fn,
        ways=application.ways,
        distance=config.learner.distance,
        temperature=config.learner.temperature,
        task_chunk=config.learner.task_chunk,
    )


def _matching_network(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    del steps
    learner = config.learner
    return matching_network(
        application.embed_fn, ways=application.ways, temperature=learner.temperature, task_chunk=learner.task_chunk
    )


def _r2d2(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    del steps
    return r2d2(application.embed_fn, ways=application.ways, task_chunk=config.learner.task_chunk)


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
}


def text_features(config: ModelConfig, *, vocab_size: int, max_length: int) -> TextFeatures:
    """The model of a config."""
    encoder = Encoder(
        vocab_size=vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_width=config.mlp_width,
        max_length=max_length,
        norm=config.norm,
        dropout=config.dropout,
        context_width=config.context_width,
    )
    return TextFeatures(encoder, initial_scale=config.feature_scale, ngram_width=config.ngram_width)


def build_learner(
    config: Config, *, vocab_size: int, ways: int, training: bool, name: str | None = None
) -> tuple[TextClassification, MetaLearner]:
    """The application and the learner of a config.

    Args:
        config: of the run.
        vocab_size: of its tokenizer.
        ways: classes of the head.
        training: with dropout (learners without an inner loop only: a loop wants one
            function) and ``inner.steps``; otherwise without, and ``inner.test_steps``.
        name: another learner than the config's, over the same model.
    """
    name = config.learner.name if name is None else name
    model = text_features(config.model, vocab_size=vocab_size, max_length=config.tokenizer.max_length)
    deterministic = not training or config.model.dropout == 0 or name not in WITHOUT_A_LOOP
    application = TextClassification(model, ways=ways, deterministic=deterministic, lora_rank=config.model.lora_rank)
    steps = config.inner.steps if training or config.inner.test_steps is None else config.inner.test_steps
    return application, LEARNERS[name](application, config, steps)
