"""What a family of models is to the reader and the writer of checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.mapping import Rule
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.layers import Activation
from fewshot_jax.models.positions import Rotary
from fewshot_jax.models.transformer import ModelShape

FamilyConfig = Any  # transformers.PreTrainedConfig, imported where it is used

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family: its config, its names, its layouts.

    Attributes:
        shape: ``(config, head) -> ModelShape``; ``head`` is the kind of head or None.
        body: rules of everything but the head, the names as in the model without a head.
        prefix: of those names in a model with a head.
        prefixes: the same, of heads for which it differs.
        heads: rules of each kind of head, whole names.
        architectures: the class of transformers for each kind of head; None for no head.
        readable: further names of classes that can be read.
        ignored: regular expressions of names that hold nothing to read: constants, and copies of tied tensors.
        optional: names that may be missing, their leaves being zero.
        more: rules that depend on the config.
        copies: names that transformers expects beside others, with the same numbers.
        written: names in the files that transformers writes, of tensors that it now calls by other names.
        constants: ``config -> arrays by name``, the names as in ``body``: tensors that transformers expects and no leaf
            holds.
        form: ``config -> Family``: the family with other names, where they depend on the config beyond `more`.
        required: fields that config.json must name, as the family calls them.
    """

    shape: Callable[[FamilyConfig, HeadKind | None], ModelShape]
    body: tuple[Rule, ...]
    prefix: str
    heads: Mapping[HeadKind, tuple[Rule, ...]]
    architectures: Mapping[HeadKind | None, str]
    required: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    more: Callable[[FamilyConfig], tuple[Rule, ...]] = lambda config: ()
    copies: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    constants: Callable[[FamilyConfig], Mapping[str, np.ndarray]] = lambda config: {}
    prefixes: Mapping[HeadKind, str] = field(default_factory=dict)
    readable: Mapping[str, HeadKind | None] = field(default_factory=dict)
    form: Callable[[FamilyConfig], "Family"] | None = None


def activation_of(name: str) -> Activation:
    """The activation of transformers' name.

    Raises:
        UserError: there is none here.
    """
    if name not in _ACTIVATIONS:
        raise UserError(f"config.json: activation '{name}' is not one of {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[name]


def expect(config: FamilyConfig, field_name: str, value: Any) -> None:
    """Refuse a config that asks for what is not here.

    Raises:
        UserError: the field is there and has another value.
    """
    given = getattr(config, field_name, value)
    if given != value:
        raise UserError(f"config.json: {field_name}={given!r} is not supported, only {value!r}")


def rotary_of(parameters: Mapping[str, Any], *, partial: bool = False) -> Rotary:
    """Rotary positions of a config's ``rope_parameters``.

    Args:
        parameters: of the config, or of one kind of its layers.
        partial: the family's models may rotate a part of each head's features.

    Raises:
        UserError: they are of a kind that is not here, or lack a field.
    """
    kind, theta = parameters.get("rope_type", "default"), float(parameters.get("rope_theta", 10_000.0))
    if not (theta > 0 and float(parameters.get("factor", 1.0)) > 0):
        raise UserError("config.json: rope_parameters: rope_theta and factor must be positive")
    share = float(parameters.get("partial_rotary_factor", 1.0))
    if share != 1.0 and not partial:
        raise UserError("config.json: rope_parameters: partial_rotary_factor is not supported")
    try:
        if kind == "default":
            return Rotary(theta=theta, share=share)
        if kind == "linear":
            return Rotary(theta=theta, share=share, kind="linear", factor=float(parameters["factor"]))
        if kind == "llama3":
            return Rotary(
                theta=theta,
                share=share,
                kind="llama3",
                factor=float(parameters["factor"]),
                low=float(parameters["low_freq_factor"]),
                high=float(parameters["high_freq_factor"]),
                original=int(parameters["original_max_position_embeddings"]),
            )
        if kind == "longrope" and (factors := parameters["long_factor"]) == parameters["short_factor"]:
            if parameters.get("attention_factor") != 1.0 or not all(factor > 0 for factor in factors):
                raise UserError("config.json: rope_parameters: expected attention_factor 1.0 and positive factors")
            return Rotary(theta=theta, share=share, kind="factors", factors=tuple(map(float, factors)))
    except KeyError as missing:
        raise UserError(f"config.json: rope_parameters of type '{kind}' lack {missing}") from None
    raise UserError(
        f"config.json: rope_type '{kind}' is not supported, only default, linear and llama3, and "
        "longrope whose two lists of factors are equal"
    )
