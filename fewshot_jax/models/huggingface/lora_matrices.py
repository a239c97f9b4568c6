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
        return ((i, self.module.replace(LAYER, str(i))) for i in range(1 if self.layers is None else self.layers))


class Pair(NamedTuple):
    """One layer's LoRA as peft has it: ``a [r, in]``, ``b [out, r]``, and what their product is multiplied by."""

    a: np.ndarray
    b: np.ndarray
    scale: float


class Layout(NamedTuple):
    """What an adapter is about: the ``leaves`` of a model, its ``dense`` layers without the head's, and the
    rules of its ``head``."""

    leaves: Leaves
    dense: list[Dense]
    head: list[Rule]


def layout_of(pretrained: Pretrained) -> Layout:
    """The layout of a model."""
    family, leaves = FAMILIES[pretrained.config.model_type], leaves_of(pretrained.module)
    rules = rules_of(family, pretrained.config, pretrained.head, prefix_of(family, pretrained.head), leaves)
    head = [rule for rule in rules if rule.target.startswith("head/")]
    return Layout(leaves, _dense_layers([rule for rule in rules if rule not in head], leaves), head)


def _dense_layers(rules: list[Rule], leaves: Leaves) -> list[Dense]:
    modules: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.target.endswith("/kernel"):
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


def shapes_of(dense: Dense, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of our LoRA leaves."""
    layers = () if dense.layers is None else (dense.layers,)
    each = {A: (*layers, dense.inputs, rank), B: (*layers, rank, dense.outputs)}
    return {f"{target}/{name}": shape for target in dense.targets for name, shape in each.items()}


def stacked(dense: Dense, flat: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """``a [layers, R, in]`` and ``b [layers, out, R]`` of a layer of the checkpoint, whose parts are rows of b.

    Parts that share an A, as they do where peft made it, share its rows; others lie below each other.
    """

    def leaf(name: str) -> np.ndarray:
        array = np.asarray(flat[name])
        return (array[None] if dense.layers is None else array).swapaxes(-1, -2)

    distinct: list[np.ndarray] = []
    blocks: list[tuple[int, int, np.ndarray]] = []  # part, which of the distinct A, B
    for part, target in enumerate(dense.targets):
        if f"{target}/{A}" not in flat:
            continue
        a = leaf(f"{target}/{A}")
        same = [i for i, other in enumerate(distinct) if np.array_equal(a, other)]
        blocks.append((part, same[0] if same else len(distinct), leaf(f"{target}/{B}")))
        distinct += [] if same else [a]
    a = np.concatenate(distinct, axis=1)
    starts = np.cumsum([0, *(each.shape[1] for each in distinct)])
    b = np.zeros((a.shape[0], len(dense.targets) * dense.outputs, a.shape[1]), a.dtype)
    for part, which, block in blocks:
        b[:, part * dense.outputs : (part + 1) * dense.outputs, starts[which] : starts[which + 1]] = block
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


def parts_of(dense: Dense, of_layer: Mapping[int, Pair]) -> dict[str, dict[int, Pair]]:
    """The LoRA of each of our layers: its rows of b, and of a what they multiply and other parts alone do not."""
    parts: dict[str, dict[int, Pair]] = {}
    whole = [pair.b.reshape(len(dense.targets), dense.outputs, -1) != 0 for pair in of_layer.values()]
    if len(dense.targets) == 1 or len({each.shape[-1] for each in whole}) > 1:
        used = [slice(None)] * len(dense.targets)
    else:
        by_part = np.any([each.any(1) for each in whole], axis=0)  # [parts, r]
        used = [by_part[part] | ~by_part.any(0) for part in range(len(dense.targets))]
    for part, target in enumerate(dense.targets):
        rows = slice(part * dense.outputs, (part + 1) * dense.outputs)
        own = {layer: Pair(a[used[part]], b[rows][:, used[part]], scale) for layer, (a, b, scale) in of_layer.items()}
        if any(len(pair.a) for pair in own.values()):
            parts[target] = own
    return parts


def leaves_of_pairs(
    dense: Dense, target: str, of_layer: Mapping[int, Pair], rank: int, scale: float
) -> dict[str, np.ndarray]:
    """Our leaves, of one rank and scale: smaller ranks have zeros beside them, another scale goes into ``b``."""
    layers = 1 if dense.layers is None else dense.layers
    a = np.zeros((layers, dense.inputs, rank), np.float32)
    b = np.zeros((layers, rank, dense.outputs), np.float32)
    for layer, pair in of_layer.items():
        a[layer, :, : len(pair.a)] = pair.a.T
        b[layer, : len(pair.a)] = pair.b.astype(np.float32).T * (pair.scale / scale if pair.scale != scale else 1)
    return {f"{target}/{name}": leaf[0] if dense.layers is None else leaf for name, leaf in ((A, a), (B, b))}
