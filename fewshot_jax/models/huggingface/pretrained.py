"""A pretrained model: its config, its module, its parameters, its tokenizer."""

import functools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from fewshot_jax.errors import UserError
from fewshot_jax.models.adapters import Adapter
from fewshot_jax.models.gguf.architectures import gguf_config
from fewshot_jax.models.gguf.file import is_gguf, read_file
from fewshot_jax.models.huggingface.embedding import Embedder
from fewshot_jax.models.huggingface.families import FAMILIES, family_of
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.mapping import Rule, placed
from fewshot_jax.models.huggingface.read_json import read_model_json
from fewshot_jax.models.huggingface.relatives import suggestion
from fewshot_jax.models.huggingface.sentence_transformers import TextVectors
from fewshot_jax.models.huggingface.text_tokenizer import check_rows, has_tokenizer, padding_alone, read_tokenizer
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Leaves = dict[str, jax.ShapeDtypeStruct]
_SHOWN = 20  # mismatches of a kind in a message
_MOST_LAYERS = 1000  # that are believed
_AGAIN = "copy the file again from where the model came from"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model as `load_pretrained` gives it and `save_pretrained` takes it.

    Attributes:
        config: of transformers.
        module: ``module.apply({"params": params}, input_ids, attention_mask)`` gives an `Output`.
        params: a plain nested dict of arrays.
        head: the kind of head, None for none.
        ignored: names of tensors in the checkpoint that were not read.
        created: paths of leaves that the checkpoint does not have and that were initialised.
        path: where it was read from; the tokenizer's home.
        name: that finds it again; see `sources.names.ModelFiles`. None of a new model.
        revision: the commit of a model of the hub; None of others.
        layout: the names of its parameters in a file, where they are not those of the config's family (a text encoder
            of our own).
        vectors: what makes one vector of a text, as the directory describes it.
        dense_params: parameters of the dense layers that vectors go through; {} for none.
    """

    config: FamilyConfig
    module: Transformer
    params: Params
    head: HeadKind | None = None
    ignored: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    path: Path | None = None
    name: str | None = None
    revision: str | None = None
    layout: Family | None = None
    vectors: TextVectors = field(default_factory=TextVectors)
    dense_params: Params = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The family whose rules read and write it."""
        return family_of(self.config) if self.layout is None else self.layout

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        more = "".join(f", {name}={getattr(self, name)}" for name in ("ignored", "created") if getattr(self, name))
        return f"Pretrained({self.config.model_type}, head={self.head!r}, {size:,} parameters{more}, path={self.path})"

    def split(self, adapter: Adapter, *, seed: int = 0) -> tuple[Params, Params]:
        """Trained and frozen parameters for an adapter, whose new ones are initialised; see `Adapter.split`."""
        return adapter.split(self.params, functools.partial(initial_params, self.module, jax.random.key(seed)))

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, batch_size: int = 32) -> np.ndarray:
        """One vector of each text, ``[N, D']`` float32, in the order of the texts.

        As the directory describes it: pooling, dense layers, unit length, prompts, the longest text. Where it says
        nothing, the mean of the hidden states. Texts are sorted by length; few shapes are compiled.

        Args:
            texts: of any length; what is beyond the longest is not read.
            prompt: put before each text: a name among ``vectors.prompts``, or the text itself; None for the default
                prompt of the directory, ``""`` for none.
            batch_size: texts computed at once.

        Raises:
            UserError: there is no tokenizer, or it cannot be read; the model has two stacks; something in ``texts`` is
                no text.

        References:
            Reimers, Gurevych. Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks. EMNLP 2019.
        """
        return self._embedder(self.params, self.dense_params, texts, prompt=prompt, batch_size=batch_size)

    @functools.cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.module, self.vectors, self.tokenizer, str(self.path))

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """The tokenizer beside the model, read when first asked for; None where there is none.

        Raises:
            UserError: its files cannot be read, or it has ids that the model's embedding does not have; a padding
                token alone may: where the mask hides it, the model reads another one.
        """
        if self.path is None or not has_tokenizer(self.path):
            return None
        tokenizer = read_tokenizer(self.path)
        rows = self.module.shape.vocab_size
        check_rows(tokenizer.get_vocab(), rows, str(self.path), padding=padding_alone(tokenizer))
        return tokenizer


def misfit(what: str, problems: Sequence[str], unknown: Sequence[str] = (), unread: Sequence[str] = ()) -> UserError:
    """One error for all that does not fit: the first of what is missing or wrong, and the first of what is there.

    Args:
        what: the first line.
        problems: of the expected parts, a line each.
        unknown: parts that nobody expects, a line each.
        unread: parts of the file that were not needed, shown in one line.
    """
    lines = [what]
    for kind, found in (("", problems), (" that are not a part of the model", unknown)):
        more = [f"and {len(found) - _SHOWN} more{kind}"] if len(found) > _SHOWN else []
        lines += [*found[:_SHOWN], *more]
    if unread:
        more = [f"and {len(unread) - _SHOWN} more"] if len(unread) > _SHOWN else []
        lines.append(f"not read from the file: {', '.join([*unread[:_SHOWN], *more])}")
    return UserError("\n  ".join(lines))


def read_model_config(path: Path) -> FamilyConfig:
    """The config of a directory, or of a GGUF file.

    Raises:
        UserError: config.json is missing or no JSON object, names no known architecture, or lacks a field; the
            metadata of a GGUF file are not what they should be.
    """
    if is_gguf(path):
        return gguf_config(read_file(path))
    file = path / "config.json"
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such directory"
        raise UserError(f"{path}: {what}; give a directory that transformers' save_pretrained wrote, or a .gguf file")
    if not file.is_file():
        raise UserError(f"{file}: no such file; {_instead_of_config(path)}")
    raw = read_model_json(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise UserError(
            f"{file}: names no model_type; expected the config.json that came with a model of one of the families "
            f"{', '.join(FAMILIES)}"
        )
    kind = raw["model_type"]
    if kind not in FAMILIES:
        code = ". Code that comes with a checkpoint is never run" if "auto_map" in raw else ""
        raise UserError(
            f"{file}: model_type '{kind}' is not supported; {suggestion(kind, FAMILIES)}take a model of one of the "
            f"families {', '.join(FAMILIES)}{code}"
        )
    _check_numbers(file, raw)
    from transformers import CONFIG_MAPPING

    kind_of_config = CONFIG_MAPPING[kind]
    names = {name: {name} for name in FAMILIES[kind].required}
    for alias, name in kind_of_config.attribute_map.items():
        names.setdefault(name, {name}).add(alias)
        names.setdefault(alias, {alias}).add(name)
    if missing := [name for name in FAMILIES[kind].required if not names[name] & raw.keys()]:
        raise UserError(
            f"{file}: lacks {', '.join(missing)}, which model_type '{kind}' needs; copy the config.json again from "
            "where the model came from"
        )
    try:
        return kind_of_config.from_dict(raw)
    except Exception as error:  # its validation raises many kinds
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None


def _check_numbers(file: Path, raw: Mapping[str, Any]) -> None:
    """Refuse numbers that no model has, before anything is made of them.

    Raises:
        UserError: one is not finite, or there are too many layers.
    """
    for name, value in raw.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{file}: {name}={value}: expected a finite number; {_AGAIN}")
        if isinstance(value, int) and value > _MOST_LAYERS and name.endswith(("layers", "n_layer")):
            raise UserError(f"{file}: {name}={value}: expected at most {_MOST_LAYERS}; {_AGAIN}")


def write_model_config(path: Path, partial: Path) -> None:
    """Write the config of a model, a directory or a GGUF file, and what it says of generation, into a directory."""
    if is_gguf(path):
        read_model_config(path).save_pretrained(str(partial))
        return
    for name in ("config.json", "generation_config.json"):
        if (path / name).is_file():
            shutil.copyfile(path / name, partial / name)


def _instead_of_config(path: Path) -> str:
    """What a directory without config.json holds, and what to give."""
    names = sorted(one.name for one in path.iterdir())
    held = f"holds {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}" if names else "is empty"
    return f"the directory {held}; give one that transformers' save_pretrained wrote"


def head_of(config: FamilyConfig, file: Path) -> HeadKind | None:
    """The kind of head that the first of ``architectures`` has.

    Raises:
        UserError: that class is not known.
    """
    given = config.architectures
    if not given:
        return None
    family = FAMILIES[config.model_type]
    known = {name: kind for kind, name in family.architectures.items()} | dict(family.readable)
    if not isinstance(given, list) or not isinstance(given[0], str):
        raise UserError(
            f"{file}: architectures={given!r}: expected a list of names; mend it, or read the model with head=None"
        )
    if given[0] not in known:
        raise UserError(
            f"{file}: architecture '{given[0]}' is not one of {', '.join(known)}; head=None reads the model without it"
        )
    return known[given[0]]


def build(config: FamilyConfig, head: HeadKind | None, dtype: Any) -> Transformer:
    """The module of a config.

    Raises:
        UserError: the config asks for what is not here, or contradicts itself.
    """
    try:
        return Transformer(FAMILIES[config.model_type].shape(config, head), dtype)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise UserError(f"config.json: {error}") from None


def initial_params(module: Transformer, key: jax.Array) -> Params:
    """Freshly initialised parameters."""
    ids = jnp.zeros((1, 2), jnp.int32)
    both = module.shape.encoder is not None and module.shape.decoder is not None
    return module.init(key, ids, decoder_input_ids=ids if both else None)["params"]


def leaves_of(module: Transformer) -> Leaves:
    """Path and shape of each parameter; none is made.

    Raises:
        UserError: the config contradicts itself.
    """
    try:
        tree = jax.eval_shape(functools.partial(initial_params, module), jax.random.key(0))
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise UserError(f"config.json: no model has these sizes ({' '.join(str(error).split())})") from None
    return flatten_dict(tree, sep="/")


def prefix_of(family: Family, head: HeadKind | None) -> str:
    """The prefix of the body's names in what transformers writes."""
    return "" if head in (None, "pooler") else family.prefixes.get(head, family.prefix)


def rules_of(family: Family, config: FamilyConfig, head: HeadKind | None, prefix: str, leaves: Leaves) -> list[Rule]:
    """Return the rules of a model's leaves, one for each, with their places in the stored tensors."""
    body = (rule.under(prefix) for rule in (*family.body, *family.more(config)))
    own = family.heads[head] if head is not None else ()
    rules = [rule for rule in (*body, *own) if rule.target in leaves]
    assert {rule.target for rule in rules} == leaves.keys(), leaves.keys() - {rule.target for rule in rules}
    return placed(rules, {target: leaf.shape for target, leaf in leaves.items()})
