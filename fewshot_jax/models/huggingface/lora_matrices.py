"""The dense layers of a checkpoint, and LoRA matrices over them as peft has them and as we have them."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fewshot_jax.models.huggingface.mapping import LAYER, Rule
from fewshot_jax.models.huggingface.pretrained import Leaves, Pretrained, leaves_of, prefix_of, rules_of
from fewshot_jax.models.lora import A, B

ROOT = "base_model.model."  # before the names of all tensors of an adapter


class Dense(NamedTuple):
    """A dense layer of the checkpoint, and the layers of ours that it is.

    Attributes:
        module: its name, with a `LAYER` for each leading axis of ours.
        leading: lengths of these axes: layers, and their experts; () for a layer without a number.
        inputs: of the matrix.
        outputs: of each of our layers.
        targets: our layers; several where their outputs are parts of one matrix.
        turns: heads, where these parts take turns head by head; 1 where they follow each other.
    """

    module: str
    leading: tuple[int, ...]
    inputs: int
    outputs: tuple[int, ...]
    targets: tuple[str, ...]
    turns: int = 1

    @property
    def regex(self) -> str:
        """Of the names of all layers."""
        return re.escape(self.module).replace(re.escape(LAYER), r"\d+")

    @property
    def number(self) -> int:
        """How many layers of the checkpoint it is."""
        return math.prod(self.leading)

    @property
    def rows(self) -> list[np.ndarray]:
        """The indices of each of our layers' outputs among those of the matrix."""
        ends = list(itertools.accumulate(self.outputs))
        index = np.arange(ends[-1]).reshape(self.turns, -1)
        pairs = zip([0, *ends], ends, strict=False)
        return [index[:, start // self.turns : end // self.turns].reshape(-1) for start, end in pairs]

    def each(self) -> Iterator[tuple[int, str]]:
        """Number and name of each layer."""
        return enumerate(self.module.format(*index) for index in np.ndindex(self.leading))


class LoraPair(NamedTuple):
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
    family, leaves = pretrained.family, leaves_of(pretrained.module)
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
        leading, shapes = parts[0].leading, [leaves[rule.target].shape for rule in parts]
        inner = [shape[leading:] for shape in shapes]
        inputs = math.prod(inner[0][: parts[0].inputs])
        outputs = tuple(math.prod(shape) // inputs for shape in inner)
        targets = tuple(rule.target.removesuffix("/kernel") for rule in parts)
        denses.append(Dense(module, shapes[0][:leading], inputs, outputs, targets, parts[0].turns(inner[0])))
    return denses


def shapes_of(dense: Dense, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of our LoRA leaves."""
    shapes: dict[str, tuple[int, ...]] = {}
    for target, outputs in zip(dense.targets, dense.outputs, strict=True):
        shapes[f"{target}/{A}"] = (*dense.leading, dense.inputs, rank)
        shapes[f"{target}/{B}"] = (*dense.leading, rank, outputs)
    return shapes


def stacked(dense: Dense, flat: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """``a [layers, R, in]`` and ``b [layers, out, R]`` of a layer of the checkpoint, whose parts are rows of b.

    Parts that share an A, as they do where peft made it, share its rows; others lie below each other.
    """

    def leaf(name: str) -> np.ndarray:
        array = np.asarray(flat[name])
        return array.reshape(dense.number, *array.shape[-2:]).swapaxes(-1, -2)

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
    b = np.zeros((a.shape[0], sum(dense.outputs), a.shape[1]), a.dtype)
    for part, which, block in blocks:
        b[:, dense.rows[part], starts[which] : starts[which + 1]] = block
    return a, b


def _matching(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """The entry of a pattern for a module, which names it in full or by its end."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def taken(
    dense: Dense, config: Mapping[str, Any], found: dict[str, np.ndarray], problems: list[str]
) -> dict[int, LoraPair]:
    """The LoRA of each layer that has one, taken out of what was found."""
    pairs: dict[int, LoraPair] = {}
    for layer, name in dense.each():
        rank = _matching(config["rank_pattern"], name, config["r"])
        alpha = _matching(config["alpha_pattern"], name, config["lora_alpha"])
        shapes = {"A": (rank, dense.inputs), "B": (sum(dense.outputs), rank)}
        given = {side: found.pop(f"{ROOT}{name}.lora_{side}.weight", None) for side in shapes}
        if all(array is None for array in given.values()):
            continue
        wrong = [
            f"{ROOT}{name}.lora_{side}.weight {list(shape)} is missing"
            if (array := given[side]) is None
            else f"{ROOT}{name}.lora_{side}.weight has {describe_matrices(array)}, expected shape {list(shape)}"
            for side, shape in shapes.items()
            if not fits(given[side], shape)
        ]
        problems += wrong
        if not wrong:
            a, b = (np.asarray(array) for array in given.values())
            pairs[layer] = LoraPair(a, b, alpha / (math.sqrt(rank) if config["rslora"] else rank))
    return pairs


def fits(array: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is there, of floating-point numbers and of a shape."""
    return array is not None and array.shape == shape and jnp.issubdtype(array.dtype, jnp.floating)


def describe_matrices(array: np.ndarray) -> str:
    """Its shape and dtype, for a message."""
    return f"shape {list(array.shape)} and dtype {array.dtype}"


def matrix_parts(dense: Dense, of_layer: Mapping[int, LoraPair]) -> dict[str, dict[int, LoraPair]]:
    """The LoRA of each of our layers: its rows of b, and of a what they multiply and other parts alone do not."""
    parts: dict[str, dict[int, LoraPair]] = {}
    if len(dense.targets) == 1 or len({pair.b.shape[-1] for pair in of_layer.values()}) > 1:
        used = [slice(None)] * len(dense.targets)
    else:
        filled = [[(pair.b[rows] != 0).any(0) for rows in dense.rows] for pair in of_layer.values()]
        by_part = np.any(filled, axis=0)  # [parts, r]
        used = [by_part[part] | ~by_part.any(0) for part in range(len(dense.targets))]
    for part, target in enumerate(dense.targets):
        rows = dense.rows[part]
        own = {
            layer: LoraPair(a[used[part]], b[rows][:, used[part]], scale) for layer, (a, b, scale) in of_layer.items()
        }
        if any(len(pair.a) for pair in own.values()):
            parts[target] = own
    return parts


def leaves_of_pairs(
    dense: Dense, target: str, of_layer: Mapping[int, LoraPair], rank: int, scale: float
) -> dict[str, np.ndarray]:
    """Our leaves, of one rank and scale: smaller ranks have zeros beside them, another scale goes into ``b``."""
    a = np.zeros((dense.number, dense.inputs, rank), np.float32)
    b = np.zeros((dense.number, rank, dense.outputs[dense.targets.index(target)]), np.float32)
    for layer, pair in of_layer.items():
        a[layer, :, : len(pair.a)] = pair.a.T
        b[layer, : len(pair.a)] = pair.b.astype(np.float32).T * (pair.scale / scale if pair.scale != scale else 1)
    return {f"{target}/{name}": leaf.reshape(*dense.leading, *leaf.shape[1:]) for name, leaf in ((A, a), (B, b))}
