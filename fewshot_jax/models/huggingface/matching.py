"""Whether a checkpoint fits the model that its config describes: where each leaf lies, and what does not fit."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fewshot_jax.models.gguf.file import is_gguf
from fewshot_jax.models.huggingface.checkpoint_names import body_prefix, left_over, modern_names, tensor_of
from fewshot_jax.models.huggingface.families import family_of
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.mapping import Rule
from fewshot_jax.models.huggingface.pretrained import Leaves, build, leaves_of, misfit, rules_of
from fewshot_jax.models.huggingface.read_leaf import Source
from fewshot_jax.models.huggingface.sentence_transformers import VectorFiles, check_hidden
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.mapped_files import Tensors
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.notes import warn

_LM: tuple[HeadKind, ...] = ("masked_lm", "causal_lm")


class Match(NamedTuple):
    """A checkpoint and the model that it fits.

    Attributes:
        config: with what the checkpoint says against it.
        head: that the model has.
        module, leaves: of the model.
        sources: where each leaf lies that is read.
        created: leaves of a head that the checkpoint does not have.
        ignored: tensors that are not read.
    """

    config: FamilyConfig
    head: HeadKind | None
    module: Transformer
    leaves: Leaves
    sources: dict[str, list[Source]]
    created: set[str]
    ignored: list[str]


def matched(
    checkpoint: Tensors,
    described: VectorFiles,
    config: FamilyConfig,
    head: HeadKind | None,
    computed: np.dtype,
    *,
    as_named: bool,
    given: int | None,
) -> Match:
    """Match the names and shapes of a checkpoint with those of the model that its config describes; nothing is read.

    Args:
        checkpoint: the tensors.
        described: the directory that it is of.
        config: of the model.
        head: that is wanted.
        computed: dtype of the computation.
        as_named: the head is the one that the config names.
        given: number of classes, if one is asked for.

    Raises:
        UserError: they do not fit.
    """
    path, family = described.body, family_of(config)
    names, wrapper = modern_names(path, checkpoint, family)
    if as_named:
        head = _head_in_file(path, config, head, names)
    if head == "pooler" and not any("pooler." in name for name in names):
        head = None  # sentence encoders are often saved without it
    prefix = body_prefix(family, names)
    config = _untied(config, family, head, prefix, checkpoint, names)
    module = build(config, head, computed)
    check_hidden(path, described.vectors.shape, module.shape.last.block.width)
    leaves = leaves_of(module)
    rules = [_also_output(rule, family, config) for rule in rules_of(family, config, head, prefix, leaves)]
    created = set() if as_named and given is None else _absent_head(rules, leaves, checkpoint, names)
    read = [rule for rule in rules if rule.target not in created]
    sources, problems = sources_of(read, leaves, family.optional, checkpoint, names)
    used = {source.tensor for found in sources.values() for source in found}
    left = {modern: name for modern, name in names.items() if name not in used}
    ignored, unknown = left_over(family, config, head, left, other_head=not as_named)
    if problems or unknown:
        shapes = {name: list(tensor.shape) for name, tensor in checkpoint.tensors.items()}
        found = [f"{name} {shapes[name]}" for name in sorted(left.values())]
        unknown = [f"{name} {shapes[name]} is not a part of the model" for name in unknown]
        raise misfit(_misfit(path, config, prefix), problems, unknown, found if problems and not unknown else [])
    if wrapper:
        warn(f"{path}: read without '{wrapper}', a wrapper's prefix, in its tensors' names")
    return Match(config, head, module, leaves, sources, created, ignored)


def _head_in_file(path: Path, config: FamilyConfig, kind: HeadKind | None, names: dict[str, str]) -> HeadKind | None:
    """The head that a config names if the checkpoint holds anything of it; else the model as it is without that head.

    Sentence encoders often keep the config of the masked language model that they were made of. A head with nothing of
    its own, whose output is the embedding, stays.
    """
    if kind in (None, "pooler"):
        return kind
    rules = family_of(config).heads[kind]
    own = "head/dense/kernel" if kind in _LM else "head/output/kernel"
    if all(rule.target != own for rule in rules) or any(tensor_of(rule, names, ()) for rule in rules):
        return kind
    named = config.architectures[0]
    warn(f"{path}: config.json names {named}, but the file holds nothing of its head; read without it")
    return "pooler" if "pooler" in family_of(config).heads else None


def _also_output(rule: Rule, family: Family, config: FamilyConfig) -> Rule:
    """The rule of a leaf; of an embedding that the output layer shares, the output's name serves as well."""
    if rule.target != "token_embedding/embedding" or not config.tie_word_embeddings:
        return rule
    heads = (family.heads[kind] for kind in _LM if kind in family.heads)
    outputs = (one.source for rules in heads for one in rules if one.target == "head/output/kernel")
    return replace(rule, others=(*rule.others, *outputs))


def _misfit(path: Path, config: FamilyConfig, prefix: str) -> str:
    """The first line of the error of a checkpoint that does not fit."""
    if is_gguf(path):
        return f"{path}: its tensors do not fit its metadata (model_type '{config.model_type}'). Download it again"
    return (
        f"{path}: does not fit its config.json (model_type '{config.model_type}', names under '{prefix}'); give the "
        "config.json that was saved with these weights, or save both again with transformers' save_pretrained"
    )


def _untied(
    config: FamilyConfig,
    family: Family,
    kind: HeadKind | None,
    prefix: str,
    checkpoint: Tensors,
    names: dict[str, str],
) -> FamilyConfig:
    """The config, its output layer not tied to the embedding if the checkpoint has two different ones."""
    if kind not in _LM or not config.tie_word_embeddings:
        return config
    matrix = next((rule for rule in family.heads[kind] if rule.target == "head/output/kernel"), None)
    (table,) = (rule for rule in family.body if rule.target == "token_embedding/embedding")
    output = None if matrix is None else tensor_of(matrix, names, ())
    stored = tensor_of(table.under(prefix), names, ())
    if output is None or stored is None:
        return config
    first, second = checkpoint.view(output), checkpoint.view(stored)
    if first.shape == second.shape and all(
        np.array_equal(a, b) for a, b in zip(_rows(first), _rows(second), strict=True)
    ):
        return config
    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    return config


def _rows(matrix: np.ndarray, step: int = 4096) -> Iterable[np.ndarray]:
    """Some rows after the others, so that a comparison does not hold a whole matrix of bools."""
    return (matrix[i : i + step] for i in range(0, len(matrix), step))


def _absent_head(rules: list[Rule], leaves: Leaves, checkpoint: Tensors, names: dict[str, str]) -> set[str]:
    """The leaves of a head that must be created: those missing, and an output of another number of classes."""
    absent: set[str] = set()
    for rule in rules:
        if rule.target.startswith("head/"):
            tensor, expected = tensor_of(rule, names, ()), rule.stored_shape(leaves[rule.target].shape)
            may_differ = rule.target.startswith("head/output/")
            if tensor is None or (may_differ and checkpoint.tensors[tensor].shape != expected):
                absent.add(rule.target)
    return absent


def sources_of(
    rules: list[Rule], leaves: Leaves, optional: tuple[str, ...], checkpoint: Tensors, names: dict[str, str]
) -> tuple[dict[str, list[Source]], list[str]]:
    """Where each leaf lies, and what does not fit."""
    sources: dict[str, list[Source]] = {}
    problems: list[str] = []
    for rule in rules:
        for name, index, shape in rule.tensors(leaves[rule.target].shape):
            tensor, expected = tensor_of(rule, names, index), rule.stored_shape(shape)
            if tensor is None:
                if rule.source not in optional:
                    problems.append(f"{name} {list(expected)} is missing")
                continue
            info = checkpoint.tensors[tensor]
            if info.shape != expected:
                problems.append(f"{tensor} has shape {list(info.shape)}, expected {list(expected)}")
            elif not jnp.issubdtype(info.dtype, jnp.floating):
                problems.append(f"{tensor} holds {info.dtype}, expected floating-point numbers")
            sources.setdefault(rule.target, []).append(Source(tensor, index, rule))
    return sources, list(dict.fromkeys(problems))
