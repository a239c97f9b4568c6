"""The architectures that are read from GGUF files: their metadata as a config of transformers, and their tensors.

The converter of llama.cpp (convert_hf_to_gguf.py) changes some tensors of a model on the way into the file; what it
does is undone here. One entry of the table for each ``general.architecture``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import AGAIN, GGUFFile, quote
from fewshot_jax.models.gguf.metadata import integer, natural, number, text, token_id
from fewshot_jax.models.gguf.rope import rope_parameters
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.family import FamilyConfig
from fewshot_jax.models.pooling import PoolingKind

Undo = Callable[[np.ndarray, FamilyConfig], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class GGUFArchitecture:
    """One architecture.

    Attributes:
        model_type: the family, as config.json calls it.
        fields: metadata keys, after ``"{architecture}."``, to the config's integers.
        epsilon: key and field of the norms' epsilon.
        more: further fields of the config.
        undo: regular expressions of the names in transformers to what restores the tensor; it gets the array and the
            config.
        transposed: a regular expression of the names whose matrices are stored transposed.
    """

    model_type: str
    fields: Mapping[str, str]
    epsilon: tuple[str, str]
    more: Callable[[GGUFFile, dict[str, Any]], dict[str, Any]]
    undo: Mapping[str, Undo] = field(default_factory=dict)
    transposed: str = r"(?!)"


def _decoder(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of Llama's relatives that have defaults, or are found by looking at the tensors."""
    prefix = architecture_name(file)
    width, heads = given["hidden_size"], given["num_attention_heads"]
    head_dim = natural(file, f"{prefix}.attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if natural(file, f"{prefix}.{key}", head_dim) != head_dim:
            raise UserError(
                f"{file.path}: {prefix}.{key}={file.metadata[f'{prefix}.{key}']} is not supported, only that of a "
                f"whole attention head, {head_dim}. Take another model"
            )
    if integer(file, f"{prefix}.expert_count", 0):
        raise UserError(f"{file.path}: a mixture of experts, which is not supported. Take a model without experts")
    return {
        "num_key_value_heads": natural(file, f"{prefix}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rope_parameters": rope_parameters(file, prefix, head_dim),
    }


def _llama(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
    return {
        **_decoder(file, given),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
    }


def _gemma(layers_of_27b: int) -> Callable[[GGUFFile, dict[str, Any]], dict[str, Any]]:
    """Gemma 2 and 3. The scale of attention scores is not in the file: llama.cpp tells the 27B by its layers."""

    def fields(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
        found = _decoder(file, given)
        largest = given["num_hidden_layers"] == layers_of_27b
        per_head = given["hidden_size"] // given["num_attention_heads"]
        return {**found, "query_pre_attn_scalar": per_head if largest else found["head_dim"]}

    return fields


def _gemma2(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
    return {
        **_gemma(46)(file, given),
        "sliding_window": natural(file, "gemma2.attention.sliding_window", 4096),
        "attn_logit_softcapping": number(file, "gemma2.attn_logit_softcapping", 50.0),
        "final_logit_softcapping": number(file, "gemma2.final_logit_softcapping", 30.0),
    }


def _gemma3(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
    fields = _gemma(62)(file, given)
    local = number(file, "gemma3.rope.freq_base_swa", 10_000.0)
    return {
        **fields,
        "sliding_window": natural(file, "gemma3.attention.sliding_window"),
        "rope_parameters": {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _bert(file: GGUFFile, given: dict[str, Any]) -> dict[str, Any]:
    return {
        "max_position_embeddings": _rows(file, "position_embd.weight"),
        "type_vocab_size": _rows(file, "token_types.weight"),
        "hidden_act": "gelu",
    }


def _heads_first(field_name: str) -> Undo:
    """Undo the order of query and key rows that rotates neighbours: of a head, the first halves come first again."""

    def undo(array: np.ndarray, config: FamilyConfig) -> np.ndarray:
        heads = getattr(config, field_name)
        pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)

    return undo


def _less_one(array: np.ndarray, _: FamilyConfig) -> np.ndarray:
    return array - array.dtype.type(1)


_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_GPT2_SIZES = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
}
_RMS = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
_POOLING: dict[int, PoolingKind] = {1: "mean", 2: "cls", 3: "lasttoken"}
_NORMS_LESS_ONE: Mapping[str, Undo] = {r".*norm\.weight": _less_one}

ARCHITECTURES: dict[str, GGUFArchitecture] = {
    "bert": GGUFArchitecture(
        model_type="bert", fields=_SIZES, epsilon=("attention.layer_norm_epsilon", "layer_norm_eps"), more=_bert
    ),
    "gemma2": GGUFArchitecture(model_type="gemma2", fields=_SIZES, epsilon=_RMS, more=_gemma2, undo=_NORMS_LESS_ONE),
    "gemma3": GGUFArchitecture(
        model_type="gemma3_text", fields=_SIZES, epsilon=_RMS, more=_gemma3, undo=_NORMS_LESS_ONE
    ),
    "gpt2": GGUFArchitecture(
        model_type="gpt2",
        fields=_GPT2_SIZES,
        epsilon=("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        more=lambda file, given: {},
        transposed=r".*\.c_(attn|proj|fc)\.weight",
    ),
    "llama": GGUFArchitecture(
        model_type="llama",
        fields=_SIZES,
        epsilon=_RMS,
        more=_llama,
        undo={
            r".*\.q_proj\.(weight|bias)": _heads_first("num_attention_heads"),
            r".*\.k_proj\.(weight|bias)": _heads_first("num_key_value_heads"),
        },
    ),
    "qwen2": GGUFArchitecture(model_type="qwen2", fields=_SIZES, epsilon=_RMS, more=_decoder),
    "qwen3": GGUFArchitecture(model_type="qwen3", fields=_SIZES, epsilon=_RMS, more=_decoder),
}


def architecture_name(file: GGUFFile) -> str:
    """What the file calls its architecture.

    Raises:
        UserError: it names none, or one that is not in the table.
    """
    name = text(file, "general.architecture")
    if name not in ARCHITECTURES:
        raise UserError(
            f"{file.path}: architecture {quote(name)} is not one of {', '.join(ARCHITECTURES)}; take a model of one "
            "of these"
        )
    return name


def gguf_config(file: GGUFFile) -> FamilyConfig:
    """The config of transformers that a file's metadata describe.

    Raises:
        UserError: the metadata lack a value, or ask for what is not here.
    """
    from transformers import CONFIG_MAPPING

    name = architecture_name(file)
    architecture = ARCHITECTURES[name]
    family, kind_of_config = FAMILIES[architecture.model_type], CONFIG_MAPPING[architecture.model_type]
    fields: dict[str, Any] = {own: natural(file, f"{name}.{key}") for key, own in architecture.fields.items()}
    layers = natural(file, f"{name}.block_count")
    if layers > len(file.tensors):
        raise UserError(f"{file.path}: {name}.block_count={layers}, but it holds {len(file.tensors)} tensors. {AGAIN}")
    fields[architecture.epsilon[1]] = number(file, f"{name}.{architecture.epsilon[0]}")
    fields["vocab_size"] = _rows(file, "token_embd.weight")
    if "output.weight" not in file.tensors:
        fields["tie_word_embeddings"] = True
    for key in ("bos", "eos", "padding"):
        if (token := token_id(file, f"tokenizer.ggml.{key}_token_id")) is not None:
            fields["pad_token_id" if key == "padding" else f"{key}_token_id"] = token
    fields |= architecture.more(file, fields)
    # A file of a decoder holds a language model; the pooler of BERT is left out where the file has none.
    fields["architectures"] = [family.architectures.get("causal_lm") or family.architectures["pooler"]]
    try:
        config = kind_of_config.from_dict(fields)
        family.shape(config, None)
    except Exception as error:  # the validation of transformers raises many kinds
        reason = " ".join(str(error).split()).replace("config.json: ", "")
        raise UserError(f"{file.path}: {reason}. {AGAIN}") from None
    return config


def pooling_of(file: GGUFFile) -> PoolingKind | None:
    """What makes one vector of a text, where the file says it; llama.cpp's numbers are in its llama.h.

    Raises:
        UserError: the architecture is not in the table, or what stands there is no number.
    """
    kind = integer(file, f"{architecture_name(file)}.pooling_type", 0)
    return _POOLING.get(kind)


def _rows(file: GGUFFile, name: str) -> int:
    """The rows of an embedding."""
    tensor = file.tensors.get(name)
    if tensor is None or len(tensor.shape) != 2:
        raise UserError(f"{file.path}: holds no matrix {name}, which the model needs. {AGAIN}")
    return tensor.shape[0]


def undo_of(architecture: GGUFArchitecture, name: str) -> tuple[bool, Undo | None]:
    """Whether a tensor is stored transposed, and what restores it; ``name`` is that in transformers."""
    undo = next((undo for pattern, undo in architecture.undo.items() if re.fullmatch(pattern, name)), None)
    return re.fullmatch(architecture.transposed, name) is not None, undo
