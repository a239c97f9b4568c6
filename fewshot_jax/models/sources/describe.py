"""What is to be known of a model before it is used: family, sizes, head, positions, licence, memory."""

import re
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import is_gguf, read_file
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.pretrained import build, head_of, leaves_of, read_model_config
from fewshot_jax.models.huggingface.read_json import read_model_json
from fewshot_jax.models.huggingface.sentence_transformers import TextVectors, read_vectors
from fewshot_jax.models.huggingface.text_tokenizer import has_tokenizer, read_tokenizer
from fewshot_jax.models.sources.memory import bytes_to_adapt, tokens_of
from fewshot_jax.models.sources.names import ModelFiles
from fewshot_jax.models.sources.package import PACKAGE
from fewshot_jax.models.transformer import Architecture, Transformer

_FRONT = re.compile(r"\A\ufeff?---\n(.*?)^---", re.DOTALL | re.MULTILINE)  # of a README of the hub
_LICENCE = re.compile(r"^license:[ \t]*(?:\n\s*-\s*)?[\"']?([^\"'\n]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model that can be read here.

    Attributes:
        name: that finds it again.
        path: of its directory or file.
        revision: commit, or version of the package; None of files.
        sha256: of the files; None of the hub, where the commit says it.
        family: the ``model_type`` of transformers.
        architecture: encoder, decoder or both.
        head: what its output layer computes; None where it ends in hidden states.
        heads: that it can have, its own among them.
        parameters: how many weights.
        width, layers: features of a token, and blocks of its last stack.
        vocabulary: token ids.
        tokens: of the tokenizer; None without one.
        positions: most tokens that it was made for; None where nothing is stated.
        vectors: how a text becomes one vector.
        licence: as the model's files state it, or those of its package; None where they do not.
        bytes_on_disk: of weights, in their own precision.
        bytes_to_load: of weights in float32.
        bytes_to_adapt: by LoRA, in one gradient step; see `memory.bytes_to_adapt`.
        tokens_to_adapt: of each of the texts in that step.
    """

    name: str
    path: Path
    revision: str | None
    sha256: str | None
    family: str
    architecture: Architecture
    head: str | None
    heads: tuple[str, ...]
    parameters: int
    width: int
    layers: int
    vocabulary: int
    tokens: int | None
    positions: int | None
    vectors: TextVectors
    licence: str | None
    bytes_on_disk: int
    bytes_to_load: int
    bytes_to_adapt: int
    tokens_to_adapt: int


def describe(files: ModelFiles) -> Description:
    """Describe a model from its config; its weights are not read.

    Raises:
        UserError: its config or tokenizer cannot be read.
    """
    described = read_vectors(files.path)
    config = read_model_config(described.body)
    try:
        head = head_of(config, described.body / "config.json")
    except UserError:  # another class; what is under it can be read, and is what adapt reads
        head = None
    if described.body.is_dir() and read_model_json(described.body / "config.json").get("tie_word_embeddings") is False:
        config.tie_word_embeddings = False  # what transformers makes of a T5's config has forgotten it
    module = build(config, head, jnp.float32)
    shape, parameters = module.shape, sum(leaf.size for leaf in leaves_of(module).values())
    return Description(
        name=files.name,
        path=files.path,
        revision=files.revision,
        sha256=files.record()["sha256"],
        family=config.model_type,
        architecture=shape.architecture,
        head=head,
        heads=tuple(FAMILIES[config.model_type].heads),
        parameters=parameters,
        width=shape.last.block.width,
        layers=shape.last.layers,
        vocabulary=shape.vocab_size,
        tokens=len(read_tokenizer(described.body)) if has_tokenizer(described.body) else None,
        positions=_positions(module, config),
        vectors=described.vectors,
        licence=licence_of(files),
        bytes_on_disk=bytes_on_disk(files.path),
        bytes_to_load=4 * parameters,
        bytes_to_adapt=bytes_to_adapt(module),
        tokens_to_adapt=tokens_of(module),
    )


def _positions(module: Transformer, config: Any) -> int | None:
    """Rows of a table of positions, or what the config states of a model that has none."""
    learned = module.shape.last.max_length
    stated = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((number for number in (learned, *stated) if number is not None), None)


def licence_of(files: ModelFiles) -> str | None:
    """Return the licence that a model's files state, or else that of its package."""
    if is_gguf(files.path) and (stated := read_file(files.path).metadata.get("general.license")):
        return str(stated)
    card = files.path / "README.md"
    front = _FRONT.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    if front is not None and (found := _LICENCE.search(front[1])):
        return found[1].strip()
    if files.kind not in ("package", "default"):
        return None
    package = "fewshot-jax" if files.kind == "default" else files.name.removeprefix(PACKAGE)
    stated = distribution(package).metadata
    licence = next((stated[name] for name in ("License-Expression", "License") if name in stated), None)
    return None if licence is None else f"{licence.splitlines()[0]} (of the package)"


def bytes_on_disk(path: Path) -> int:
    """Bytes of the weights in a directory or file."""
    weights = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("[0-9]_*/*.safetensors")]
    return sum(file.stat().st_size for file in weights)
