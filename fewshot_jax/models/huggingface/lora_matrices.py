"""The dense layers of a checkpoint, and LoRA matrices over them as peft has them and as we have them."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.mapping import LAYER, Rule
from fewshot_jax.models.huggingface.pretrained import Leaves, Pretrained, leaves_of, prefix_of, rules_of
from fewshot_jax.models.lora import A, B

ROOT = "base_model.model."  # before the names of all tensors of an adapter


class Dense(NamedTuple):
    """A dense layer of the checkpoint, and the layers of ours that it is.

    Attributes:
        module: its name, with `LAYER` where there are several.
        layers: how many; None for one that has no number.
        inputs: of the matrix.
        outputs: of each of our layers.
        targets: our layers; several where their outputs are parts of one matrix.
    """

    module: str
    layers: int | None
    inputs: int
    outputs: int
    targets: tuple[str, ...]

    @property
    def regex(self) -> str:
        """Of the names of all layers."""
        return re.escape(self.module).replace(re.escape(LAYER), r"\d+")

    def each(self) -> Iterator[tuple[int, str]]:
        """Number and name of each layer."""
        return ((i, self.module.replace(LAYER, str(i))) for i in range(self.layers or 1))


class Pair(NamedTuple):
    """One layer's LoRA as peft has it: ``a [r, in]``, ``b [out, r]``, and what their product is multiplied by."""

    a: np.ndarray
    b: np.ndarray
    scale: float


def model_rules(pretrained: Pretrained) -> tuple[list[Rule], Leaves]:
    """The rules of a model's leaves, and the leaves."""
    family, leaves = FAMILIES[pretrained.config.model_type], leaves_of(pretrained.module)
    return rules_of(family, pretrained.config, pretrained.head, prefix_of(family, pretrained.head), leaves), leaves


def dense_layers(pretrained: Pretrained) -> list[Dense]:
    """The dense layers of the body."""
    rules, leaves = model_rules(pretrained)
    modules: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.target.endswith("/kernel") and not rule.target.startswith("head/"):
            modules.setdefault(rule.source.removesuffix(".weight"), []).append(rule)
    denses = []
    for module, parts in modules.items():
        parts.sort(key=lambda rule: rule.part)
        layered, shape = parts[0].layered, leaves[parts[0].target].shape
        inner = shape[1:] if layered else shape
        inputs = math.prod(inner[: parts[0].inputs])
        targets = tuple(rule.target.removesuffix("/kernel") for rule in parts)
        denses.append(Dense(module, shape[0] if layered else None, inputs, math.prod(inner) // inputs, targets))
    return denses


def stacked(dense: Dense, flat: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """``a [layers, R, in]`` and ``b [layers, out, R]`` of a layer of the checkpoint, whose parts are blocks of b."""

    def leaf(name: str) -> np.ndarray:
        array = np.asarray(flat[name])
        return (array if dense.layers else array[None]).swapaxes(-1, -2)

    present = [(part, target) for part, target in enumerate(dense.targets) if f"{target}/{A}" in flat]
    a = np.concatenate([leaf(f"{target}/{A}") for _, target in present], axis=1)
    b = np.zeros((a.shape[0], len(dense.targets) * dense.outputs, a.shape[1]), a.dtype)
    column = 0
    for part, target in present:
        block = leaf(f"{target}/{B}")
        b[:, part * dense.outputs : (part + 1) * dense.outputs, column : column + block.shape[2]] = block
        column += block.shape[2]
    return a, b


def _matching(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """The entry of a pattern for a module, which names it in full or by its end."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def taken(
    dense: Dense, config: Mapping[str, Any], found: dict[str, np.ndarray], problems: list[str]
) -> dict[int, Pair]:
    """The LoRA of each layer that has one, taken out of what was found."""
    pairs: dict[int, Pair] = {}
    for layer, name in dense.each():
        rank = _matching(config["rank_pattern"], name, config["r"])
        alpha = _matching(config["alpha_pattern"], name, config["lora_alpha"])
        shapes = {"A": (rank, dense.inputs), "B": (len(dense.targets) * dense.outputs, rank)}
        given = {side: found.pop(f"{ROOT}{name}.lora_{side}.weight", None) for side in shapes}
        if all(array is None for array in given.values()):
            continue
        wrong = [
            f"{ROOT}{name}.lora_{side}.weight {list(shape)} is missing"
            if (array := given[side]) is None
            else f"{ROOT}{name}.lora_{side}.weight has {described(array)}, expected shape {list(shape)}"
            for side, shape in shapes.items()
            if not fits(given[side], shape)
        ]
        problems += wrong
        if not wrong:
            a, b = (np.asarray(array) for array in given.values())
            pairs[layer] = Pair(a, b, alpha / (math.sqrt(rank) if config["rslora"] else rank))
    return pairs


def fits(array: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is there, of floating-point numbers and of a shape."""
    return array is not None and array.shape == shape and jnp.issubdtype(array.dtype, jnp.floating)


def described(array: np.ndarray) -> str:
    """Its shape and dtype, for a message."""
    return f"shape {list(array.shape)} and dtype {array.dtype}"


def leaves_of_pairs(dense: Dense, of_layer: Mapping[int, Pair], rank: int, scale: float) -> dict[str, np.ndarray]:
    """Our leaves, of one rank and scale: smaller ranks have zeros beside them, another scale goes into ``b``."""
    leaves: dict[str, np.ndarray] = {}
    for part, target in enumerate(dense.targets):
        a = np.zeros((dense.layers or 1, dense.inputs, rank), np.float32)
        b = np.zeros((dense.layers or 1, rank, dense.outputs), np.float32)
        for layer, pair in of_layer.items():
            rows = pair.b[part * dense.outputs : (part + 1) * dense.outputs].astype(np.float32)
            a[layer, :, : len(pair.a)] = pair.a.T
            b[layer, : len(pair.a)] = rows.T * (pair.scale / scale if pair.scale != scale else 1)
        leaves |= {f"{target}/{name}": leaf if dense.layers else leaf[0] for name, leaf in ((A, a), (B, b))}
    return leaves
