"""Read a Hugging Face checkpoint straight into a parameter tree: its dtype, its sharding, one tensor at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.checkpoint import GGUFCheckpoint
from fewshot_jax.models.gguf.file import is_gguf
from fewshot_jax.models.huggingface.families import family_of
from fewshot_jax.models.huggingface.family import FamilyConfig
from fewshot_jax.models.huggingface.matching import matched
from fewshot_jax.models.huggingface.pretrained import (
    Pretrained,
    head_of,
    initial_params,
    read_model_config,
)
from fewshot_jax.models.huggingface.read_leaf import read_leaf
from fewshot_jax.models.huggingface.sentence_transformers import read_vectors
from fewshot_jax.models.huggingface.tensors import Checkpoint
from fewshot_jax.models.huggingface.vector_files import read_dense
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.mapped_files import Tensors
from fewshot_jax.models.sources.names import find_files
from fewshot_jax.models.transformer import Transformer

# A sharding for all leaves, or one by path and shape.
Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


def load_pretrained(
    path: str | Path,
    *,
    head: HeadKind | Literal["auto"] | None = "auto",
    num_labels: int | None = None,
    dtype: Any = None,
    compute_dtype: Any = None,
    sharding: Placement | None = None,
    seed: int = 0,
) -> Pretrained:
    """Read a model by its name: config and weights, and a tokenizer where there is one.

    Nothing is read before all names and shapes are known to fit; then tensors go one by one into
    arrays of the wanted dtype and sharding. Code in the directory is never run, pickles are refused.

    Args:
        path: a directory that transformers or sentence-transformers wrote, with safetensors; a ``.gguf`` file, whose
            quantised tensors are dequantised; ``org/name`` or ``org/name@revision`` of the Hugging Face hub;
            ``package:NAME``, an installed Python package that holds a model; ``"default"``, the encoder that ships with
            this package. Where a directory has a modules.json (of sentence-transformers), this says where the
            transformer lies, and what makes one vector of a text.
        head: ``"auto"`` for that of ``architectures[0]``, if the file holds anything of it; ``"masked_lm"``,
            ``"causal_lm"``, ``"classification"``, ``"span"``; None for hidden states alone. A head that the checkpoint
            does not have is created.
        num_labels: classes of a classification; None for the config's. If the checkpoint's head has
            another number, a new head is created.
        dtype: of the parameters, None for float32.
        compute_dtype: of the computation, None for ``dtype``. Losses, norms and softmax stay float32 at least.
        sharding: of the parameters: one for all, or ``(path, shape) -> sharding``; None for the default device.
        seed: of a created head, normal with the config's ``initializer_range``.

    Raises:
        UserError: there is no such model, or its config or a file is not what it should be; all tensors that are
            missing, left over or of another shape are named at once.

    References:
        The formats: https://github.com/huggingface/safetensors,
        https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """
    if head is not None and head != "auto" and head not in get_args(HeadKind):
        raise UserError(f"head={head!r}: expected one of {', '.join(map(repr, ('auto', *get_args(HeadKind))))} or None")
    if num_labels is not None and num_labels < 1:
        raise UserError(f"num_labels={num_labels}: expected at least 1")
    files = find_files(path)
    described = read_vectors(files.path)
    path = described.body
    config = read_model_config(path)
    family = family_of(config)
    kind = head_of(config, path / "config.json") if head == "auto" else head
    if kind is not None and kind not in family.heads:
        raise UserError(f"{path}: {config.model_type} has no head '{kind}', only {', '.join(family.heads)}")
    if num_labels is not None:
        if kind != "classification":
            raise UserError(f"num_labels={num_labels}: head={kind!r} has no classes; give head='classification'")
        config.num_labels = num_labels
    kept = _floating(jnp.float32 if dtype is None else dtype, "dtype")
    computed = _floating(kept if compute_dtype is None else compute_dtype, "compute_dtype")
    with open_checkpoint(path) as checkpoint:
        match = matched(checkpoint, described, config, kind, computed, as_named=head == "auto", given=num_labels)
        place = _placement(sharding)
        flat = {
            target: read_leaf(
                checkpoint, found, match.leaves[target].shape, kept, place(target, match.leaves[target].shape)
            )
            for target, found in match.sources.items()
        }
    made = _initialised(match.module, match.created, match.config, seed)
    for target in match.leaves.keys() - flat.keys():  # what is created, or may be missing and is
        leaf = made[target] if target in made else jnp.zeros(match.leaves[target].shape)
        flat[target] = jax.device_put(leaf.astype(kept), place(target, leaf.shape))
    return Pretrained(
        config=match.config,
        module=match.module,
        params=unflatten_dict(flat, sep="/"),
        head=match.head,
        ignored=tuple(sorted(match.ignored)),
        created=tuple(sorted(match.created)),
        path=path,
        name=files.name,
        revision=files.revision if files.kind == "hub" else None,
        vectors=described.vectors,
        dense_params=read_dense(described),
    )


def open_checkpoint(path: Path) -> Tensors:
    """The tensors of a directory, or of a GGUF file.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    return GGUFCheckpoint(path) if is_gguf(path) else Checkpoint(path)


def _floating(dtype: Any, name: str) -> np.dtype:
    """A floating-point dtype that this process can hold."""
    try:
        kept = jnp.dtype(dtype)
    except TypeError:
        raise UserError(f"{name}={dtype!r}: is no dtype") from None
    if not jnp.issubdtype(kept, jnp.floating) or jax.dtypes.canonicalize_dtype(kept) != kept:
        raise UserError(f"{name}={kept.name}: expected a floating-point dtype; float64 needs jax_enable_x64")
    return kept


def _placement(sharding: Placement | None) -> Callable[[str, tuple[int, ...]], jax.sharding.Sharding]:
    """The sharding of a leaf by its path and shape."""
    if callable(sharding):
        return sharding
    everywhere = jnp.zeros(()).sharding if sharding is None else sharding  # None: the default device
    return lambda target, shape: everywhere


def _initialised(module: Transformer, wanted: set[str], config: FamilyConfig, seed: int) -> dict[str, jax.Array]:
    """New leaves of a head: kernels normal, biases zero, norms one."""
    if not wanted:
        return {}
    # Only the head is computed; the rest of the model is no output of the program.
    head = jax.jit(lambda key: initial_params(module, key)["head"])(jax.random.key(seed))
    scale = getattr(config, "initializer_range", getattr(config, "init_std", 0.02))
    made: dict[str, jax.Array] = {}
    for target, leaf in flatten_dict({"head": head}, sep="/").items():
        if target in wanted:
            key = jax.random.fold_in(jax.random.key(seed), len(made))
            made[target] = scale * jax.random.normal(key, leaf.shape) if target.endswith("kernel") else leaf
    return made
