"""How a text model becomes the functions of a learner: by a head, by the names of classes, by spans, by writing."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.classification import classification
from fewshot_jax.applications.scored_labels import scored_labels
from fewshot_jax.applications.spans import spans
from fewshot_jax.applications.text_features import features_of_texts, text_features
from fewshot_jax.applications.text_to_text import text_to_text
from fewshot_jax.config import Config
from fewshot_jax.data.sequences import Codec
from fewshot_jax.models.huggingface.sentence_transformers import TextVectors
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.lora import lora_of_config
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Key, Params


class Parts(Protocol):
    """What a `TextModel` is made of; its attributes are described there."""

    @property
    def config(self) -> Config: ...

    @property
    def codec(self) -> Codec: ...

    @property
    def module(self) -> Transformer: ...

    @property
    def init_params(self) -> Callable[[Key], Params]: ...

    @property
    def scratch_params(self) -> Callable[[Key], Params] | None: ...

    @property
    def vectors(self) -> TextVectors: ...

    @property
    def dense(self) -> Params: ...

    @property
    def home(self) -> Path | None: ...

    @property
    def joint_classes(self) -> int: ...


class TextTask(NamedTuple):
    """What is done with the hidden states of a text model.

    Attributes:
        head: of the transformer; None for hidden states alone.
        functions: ``(model, ways, training) -> Functions``.
    """

    head: HeadKind | None
    functions: Callable[[Parts, int, bool], Functions]


def text_task_of(config: Config) -> TextTask:
    """Return what a config does with its text model."""
    if config.record.head:
        return TextTask(None, head_functions)
    if config.record.labelled:
        return TextTask("causal_lm", name_functions)
    if config.model.architecture == "encoder":
        return TextTask("span", span_functions)
    return TextTask("causal_lm", writing_functions)


def trains_with_dropout(config: Config) -> bool:
    """Return whether training has dropout: of learners without an inner loop only, as a loop wants one function."""
    record = config.learner.record
    return config.model.dropout > 0 and (record.joint or not record.has_loop)


def head_functions(model: Parts, ways: int, training: bool) -> Functions:
    """Return the functions of a classification by a head on one vector of each text."""
    config = model.config
    joint = config.learner.record.joint
    # Unlike models that write, a head has no dropout in joint training.
    deterministic = not training or joint or not trains_with_dropout(config)
    texts = text_features(config.model, model.module, model.vectors.shape)

    def functions(start: Callable[[Key], Params] | None, dense: Params | None = None) -> Functions:
        features = features_of_texts(
            texts, deterministic=deterministic, adapter=lora_of_config(config.model), pretrained=start, dense=dense
        )
        return classification(features, ways=ways, joint_classes=model.joint_classes if joint else 0)

    if model.home is None:
        return functions(None)
    scratch = None if model.scratch_params is None else functions(model.scratch_params).init_params
    return functions(model.init_params, model.dense)._replace(scratch_params=scratch)


def writing_functions(model: Parts, ways: int, training: bool) -> Functions:
    """Return the functions of a model that writes a text after it has read one."""
    del ways
    config = model.config
    functions = text_to_text(
        model.module,
        model.init_params,
        end_id=model.codec.end,
        max_new_tokens=model.codec.target_max_length - len(model.codec.target_begin),
        pad_id=model.codec.pad,
        begin=model.codec.target_begin,
        dropout=training and trains_with_dropout(config),
        adapter=lora_of_config(config.model),
        beams=config.evaluation.beams,
        channel=config.learner.channel,
    )
    return functions._replace(scratch_params=model.scratch_params)


def name_functions(model: Parts, ways: int, training: bool) -> Functions:
    """Return the functions of a model that scores the names of classes."""
    functions = writing_functions(model, ways, training)
    return scored_labels(functions, ways=ways, per_token=not model.config.learner.channel)


def span_functions(model: Parts, ways: int, training: bool) -> Functions:
    """Return the functions of a model that points to answers."""
    del ways
    config = model.config
    functions = spans(
        model.module,
        model.init_params,
        longest=model.codec.target_max_length,
        threshold=config.evaluation.null_threshold,
        dropout=training and trains_with_dropout(config),
        adapter=lora_of_config(config.model),
    )
    return functions._replace(scratch_params=model.scratch_params)
