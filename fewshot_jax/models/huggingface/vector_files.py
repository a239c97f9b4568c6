"""The dense layers of a sentence-transformers directory, and all its files written again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.sentence_transformers import (
    ACTIVATIONS,
    BODY_CONFIG,
    MODULES,
    OLD_POOLING,
    POOLING,
    PROMPTS,
    TextVectors,
    VectorFiles,
)
from fewshot_jax.models.huggingface.tensors import Checkpoint
from fewshot_jax.models.huggingface.writer import TensorSource, write_checkpoint
from fewshot_jax.models.pooling import DenseLayer, VectorShape
from fewshot_jax.types import Params


def read_dense(files: VectorFiles) -> Params:
    """Read the parameters of `pooling.TextVector`, float32.

    Raises:
        UserError: a file of weights is missing or damaged, is a pickle, or does not fit its config.json.
    """
    layers = zip(files.vectors.shape.dense, files.dense, strict=True)
    return {f"dense_{index}": _read_layer(folder, layer) for index, (layer, folder) in enumerate(layers)}


def _read_layer(folder: Path, layer: DenseLayer) -> dict[str, jax.Array]:
    expected = {"linear.weight": (layer.outputs, layer.inputs)} | (
        {"linear.bias": (layer.outputs,)} if layer.bias else {}
    )
    with Checkpoint(folder) as checkpoint:
        found = {name: info.shape for name, info in checkpoint.tensors.items()}
        floating = all(jnp.issubdtype(info.dtype, jnp.floating) for info in checkpoint.tensors.values())
        if found != expected or not floating:
            raise UserError(
                f"{folder}: holds {_named(found)}, but its config.json describes {_named(expected)}, all of "
                "floating-point numbers; copy the folder again from where the model came from"
            )
        arrays = {name: np.asarray(checkpoint.view(name), np.float32) for name in expected}
    leaves = {"kernel": arrays["linear.weight"].T}
    if layer.bias:
        leaves["bias"] = arrays["linear.bias"]
    return {name: jnp.asarray(np.ascontiguousarray(leaf)) for name, leaf in leaves.items()}


def _named(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def dense_shapes(shape: VectorShape) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the parameters of `pooling.TextVector`."""
    return {
        f"dense_{index}": {"kernel": (layer.inputs, layer.outputs)} | ({"bias": (layer.outputs,)} if layer.bias else {})
        for index, layer in enumerate(shape.dense)
    }


def write_vectors(partial: Path, vectors: TextVectors, hidden: int, params: Params | None = None) -> None:
    """Write what `read_vectors` and sentence-transformers read, beside a transformer in the same directory.

    Args:
        partial: a directory that its caller writes atomically.
        vectors: the description; nothing is written where no directory stated it.
        hidden: width of the hidden states.
        params: of the dense layers; None to leave their weights out.

    Raises:
        ValueError: the parameters are not those of the description.
    """
    if not vectors.stated:
        return
    shape, kinds = vectors.shape, ["Transformer", "Pooling"]
    _write(partial, f"1_Pooling/{POOLING}", _pooling_fields(vectors, hidden))
    for step in shape.steps:
        kinds.append("Dense" if isinstance(step, DenseLayer) else "Normalize")
        if isinstance(step, DenseLayer):
            folder = f"{len(kinds) - 1}_Dense"
            _write(partial, f"{folder}/config.json", _dense_fields(step))
            if params is not None:
                _write_layer(partial / folder, f"dense_{kinds.count('Dense') - 1}", shape, params)
    modules = [
        {"idx": i, "name": f"{i}", "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    kept = {} if shape.outputs is None else {"truncate_dim": shape.outputs}
    described = {"default_prompt_name": vectors.default_prompt, "similarity_fn_name": vectors.similarity, **kept}
    _write(partial, PROMPTS, {"prompts": dict(vectors.prompts), **described})
    longest = {} if vectors.max_length is None else {"max_seq_length": vectors.max_length}
    _write(partial, BODY_CONFIG, {**longest, "do_lower_case": vectors.lower_case})
    _write(partial, MODULES, modules)


def _pooling_fields(vectors: TextVectors, hidden: int) -> dict[str, Any]:
    """In the form that old releases read too; where several kinds have another order, in that of new ones."""
    kinds = vectors.shape.pooling
    if kinds == tuple(kind for kind in OLD_POOLING.values() if kind in kinds):
        chosen: dict[str, Any] = {name: kind in kinds for name, kind in OLD_POOLING.items()}
    else:
        chosen = {"pooling_mode": list(kinds)}
    return {"word_embedding_dimension": hidden, **chosen, "include_prompt": vectors.include_prompt}


def _dense_fields(layer: DenseLayer) -> dict[str, Any]:
    names = {activation: name for name, activation in ACTIVATIONS.items()}
    return {
        "in_features": layer.inputs,
        "out_features": layer.outputs,
        "bias": layer.bias,
        "activation_function": names[layer.activation],
    }


def _write_layer(folder: Path, name: str, shape: VectorShape, params: Params) -> None:
    leaves = {leaf: np.asarray(array) for leaf, array in params.get(name, {}).items()}
    expected = dense_shapes(shape)[name]
    if {leaf: array.shape for leaf, array in leaves.items()} != expected:
        found = {leaf: array.shape for leaf, array in leaves.items()}
        raise ValueError(f"dense_params['{name}'] has {_named(found) or 'no leaves'}, expected {_named(expected)}")
    arrays = {"linear.weight": leaves["kernel"].T} | ({"linear.bias": leaves["bias"]} if "bias" in leaves else {})
    write_checkpoint(folder, [_source(name, np.ascontiguousarray(array)) for name, array in arrays.items()])


def _source(name: str, array: np.ndarray) -> TensorSource:
    return TensorSource(name, array.dtype, array.shape, lambda: array)


def _write(partial: Path, name: str, content: Any) -> None:
    (partial / name).parent.mkdir(exist_ok=True)
    (partial / name).write_text(strict_json.dumps(content, indent=2) + "\n", encoding="utf-8")
