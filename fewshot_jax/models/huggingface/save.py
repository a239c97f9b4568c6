"""Write a model as transformers reads it."""

import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from fewshot_jax.atomic_write import cannot_write
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.mapping import Rule
from fewshot_jax.models.huggingface.pretrained import Pretrained, leaves_of, prefix_of, rules_of
from fewshot_jax.models.huggingface.sentence_transformers import MODULES
from fewshot_jax.models.huggingface.text_tokenizer import COMPANIONS, TOKENIZER_FILES, copied_files
from fewshot_jax.models.huggingface.vector_files import write_vectors
from fewshot_jax.models.huggingface.writer import TensorSource, atomic_checkpoint, write_checkpoint


def save_pretrained(
    path: str | Path, pretrained: Pretrained, *, dtype: Any = None, max_shard_bytes: int = 5 * 2**30
) -> None:
    """Write config.json, safetensors and the tokenizer; transformers loads the directory with equal outputs.

    A model that was read with a description of its vectors gets the files of sentence-transformers as well, which
    loads the directory with equal vectors. The files of a tokenizer that cannot be read here are copied. A new
    directory appears whole or not at all; in one that exists nothing is replaced before all is on disk, and a reader
    never finds weights beside another config.

    Args:
        path: the directory, made if need be; files of the same names are replaced.
        pretrained: from `load_pretrained`, its ``params`` replaced by trained ones, say.
        dtype: of the numbers in the file; None for that of each parameter.
        max_shard_bytes: a larger checkpoint is written in several files with an index.

    Raises:
        ValueError: the parameters are not those of the module: all that are missing, left over or of
            another shape are named.
        UserError: the directory cannot be written.
    """
    try:
        write_pretrained(Path(path), pretrained, dtype=dtype, max_shard_bytes=max_shard_bytes)
    except OSError as error:
        raise cannot_write(Path(path), error) from error


def write_pretrained(
    path: Path, pretrained: Pretrained, *, dtype: Any = None, max_shard_bytes: int = 5 * 2**30
) -> None:
    """`save_pretrained` that raises an OSError where the directory cannot be written."""
    tensors = _tensors(pretrained, dtype)
    hidden = pretrained.module.shape.last.block.width
    with atomic_checkpoint(path, key="config.json", gone=(MODULES,)) as partial:
        _write_texts(partial, path, pretrained, tensors)
        write_vectors(partial, pretrained.vectors, hidden, pretrained.dense_params)
        write_checkpoint(partial, tensors, max_shard_bytes=max_shard_bytes)


def _tensors(pretrained: Pretrained, dtype: Any) -> list[TensorSource]:
    """The tensors of the checkpoint.

    Raises:
        ValueError: the parameters are not those of the module.
    """
    family, kind = pretrained.family, pretrained.head
    leaves = leaves_of(pretrained.module)
    params = flatten_dict(pretrained.params, sep="/")
    problems = [f"{name} is missing" for name in sorted(leaves.keys() - params.keys())]
    problems += [f"{name} is not a part of the model" for name in sorted(params.keys() - leaves.keys())]
    problems += [
        f"{name} has shape {params[name].shape}, expected {leaf.shape}"
        for name, leaf in leaves.items()
        if name in params and params[name].shape != leaf.shape
    ]
    if problems:
        raise ValueError("params do not fit the module: " + "; ".join(problems))
    prefix = prefix_of(family, kind)
    rules = rules_of(family, pretrained.config, kind, prefix, leaves)
    sources = stored_tensors(rules, params, dtype)
    copies = {copy: sources[name] for copy, name in family.copies.items() if name in sources and copy not in sources}
    sources |= {copy: source._replace(name=copy) for copy, source in copies.items()}
    constants = {f"{prefix}{name}": array for name, array in family.constants(pretrained.config).items()}
    named = (source._replace(name=family.written.get(name, name)) for name, source in sources.items())
    return [*named, *(_constant(name, array, dtype) for name, array in constants.items())]


def _write_texts(partial: Path, path: Path, pretrained: Pretrained, tensors: list[TensorSource]) -> None:
    """Write config and tokenizer to a directory whose files go to ``path``."""
    family, kind = pretrained.family, pretrained.head
    copied = ["generation_config.json"]  # where transformers' generate ends, for one
    try:
        tokenizer = pretrained.tokenizer
    except UserError:  # what cannot be read here (a package may be missing) goes along as it is
        tokenizer = None
        copied += [*TOKENIZER_FILES, *COMPANIONS]
    if files := copied_files(pretrained.path):
        tokenizer = None
        copied += files
    config = deepcopy(pretrained.config)
    config.architectures = [family.architectures.get(kind) or family.architectures["pooler"]]
    config.dtype = str(tensors[0].dtype)
    config.save_pretrained(partial)
    if tokenizer is not None:
        tokenizer.save_pretrained(partial)
    if pretrained.path is not None and pretrained.path.resolve() != path.resolve():
        for name in dict.fromkeys(copied):
            if (pretrained.path / name).exists():
                shutil.copyfile(pretrained.path / name, partial / name)


def stored_tensors(rules: Sequence[Rule], params: Mapping[str, Any], dtype: Any = None) -> dict[str, TensorSource]:
    """Return the tensors that hold some parameters, by name; each is put together when it is written.

    Args:
        rules: of all leaves, as `placed` gives them.
        params: the leaves by path.
        dtype: of the tensors; None for that of each leaf.
    """
    parts: dict[str, list[tuple[Rule, tuple[int, ...]]]] = {}
    for rule in rules:
        for name, index, _ in rule.tensors(params[rule.target].shape):
            parts.setdefault(name, []).append((rule, index))
    return {name: _source(name, of_name, params, dtype) for name, of_name in parts.items()}


def _source(
    name: str, parts: list[tuple[Rule, tuple[int, ...]]], params: Mapping[str, Any], dtype: Any
) -> TensorSource:
    """A tensor of the file; what no leaf fills is zero."""
    rule, index = parts[0]
    leaf = params[rule.target]
    kept = np.dtype(leaf.dtype if dtype is None else dtype)
    shape = rule.stored_shape(leaf.shape[len(index) :])

    def get() -> np.ndarray:
        leaves = [(rule, np.asarray(params[rule.target][index])) for rule, index in parts]
        if len(leaves) == 1 and (array := rule.to_stored(leaves[0][1])).shape == shape:
            return np.ascontiguousarray(array, kept)
        whole = np.zeros(shape, kept)
        for own, leaf in leaves:
            own.put(whole, leaf)
        return whole

    return TensorSource(name, kept, shape, get)


def _constant(name: str, array: np.ndarray, dtype: Any) -> TensorSource:
    array = array.astype(array.dtype if dtype is None else dtype)
    return TensorSource(name, array.dtype, array.shape, lambda: array)
