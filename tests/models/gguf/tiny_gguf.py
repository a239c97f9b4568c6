"""Tiny models of ours written as GGUF files, with what llama.cpp's convert_hf_to_gguf.py does to their tensors."""

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
from safetensors.numpy import load_file
from transformers import CONFIG_MAPPING

import fewshot_jax as fsj
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, leaves_of
from tests.models.huggingface.tiny import CONFIGS

# Name: the tiny model, its head, and what of its config a GGUF file cannot say in another way.
_SCALE = {"head_dim": 8, "query_pre_attn_scalar": 8}
_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
}
MODELS = {
    "bert": ("bert", "pooler", {}),
    "gemma2": ("gemma2", "causal_lm", _SCALE),
    "gemma3": (
        "gemma3",
        "causal_lm",
        {**_SCALE, "num_hidden_layers": 7, "layer_types": None, "rope_parameters": _GEMMA3_ROPE},
    ),
    "gpt2": ("gpt2", "causal_lm", {"n_inner": 64}),
    "llama": ("llama", "causal_lm", {"num_hidden_layers": 2}),
    "llama-tied": ("llama-tied", "causal_lm", {}),
    "llama-wide": (
        "llama",
        "causal_lm",
        {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 8},
    ),
    "qwen2": ("qwen2-full", "causal_lm", {}),
    "qwen3": ("qwen3", "causal_lm", {}),
}


def architecture_of(name):
    return name.split("-")[0]


def model_of(name):
    """The tiny model."""
    own, kind, fields = MODELS[name]
    model_type, usual = CONFIGS[own]
    config = CONFIG_MAPPING[model_type](**{**usual, **fields})
    module, rng = build(config, kind, jnp.float32), np.random.default_rng(0)
    flat = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in leaves_of(module).items()}
    return Pretrained(config=config, module=module, params=unflatten_dict(flat, sep="/"), head=kind)


def permuted(rows, heads):
    """The order of rows of queries and keys in llama.cpp: neighbours are rotated with each other."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def changed(architecture, name, array, config):
    """A tensor of transformers as the converter stores it; ``name`` is that of the file."""
    if architecture == "llama" and ".attn_q." in name:
        return permuted(array, config.num_attention_heads)
    if architecture == "llama" and ".attn_k." in name:
        return permuted(array, config.num_key_value_heads)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + 1
    matrices = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    if architecture == "gpt2" and name.endswith(matrices):
        return array.T
    return array


def stored_tensors(name, pretrained, directory):
    """Names and arrays of the file."""
    fsj.save_pretrained(directory, pretrained)
    architecture, config = architecture_of(name), pretrained.config
    kind = next(kind for kind, own in MODEL_ARCH_NAMES.items() if own == architecture)
    known = get_tensor_name_map(kind, config.num_hidden_layers)
    found = {}
    for modern, array in load_file(directory / "model.safetensors").items():
        own = known.get_name(modern, (".weight", ".bias"))
        if own is not None:  # BERT's pooler stays outside
            found[own] = changed(architecture, own, array, config)
    if config.tie_word_embeddings:
        found.pop("output.weight", None)
    return found


def sizes_of(architecture, config):
    """Metadata of the sizes: key after the architecture to value."""
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.n_inner if architecture == "gpt2" else config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
    }
    if architecture in ("bert", "gpt2"):
        epsilon = config.layer_norm_eps if architecture == "bert" else config.layer_norm_epsilon
        return found | {"attention.layer_norm_epsilon": epsilon}
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    found |= {
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": rope["rope_theta"],
    }
    if rope["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    if getattr(config, "head_dim", None):
        found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if architecture == "llama":
        found["rope.dimension_count"] = config.head_dim
    if architecture.startswith("gemma"):
        found["attention.sliding_window"] = config.sliding_window
    if architecture == "gemma2":
        found["attn_logit_softcapping"] = config.attn_logit_softcapping
        found["final_logit_softcapping"] = config.final_logit_softcapping
    return found


def llama3_factors(parameters, features):
    """What the converter stores of Llama 3's scaling: by what each frequency is divided."""
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    factors = []
    for i in range(0, features, 2):
        wavelength = 2 * np.pi * parameters["rope_theta"] ** (i / features)
        if wavelength < original / high:
            factors.append(1)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def write(path, architecture, metadata, tensors, *, kinds=None, **options):
    """Write a file; ``kinds`` names the quantisation of some tensors, the others stay as they are."""
    writer = GGUFWriter(path, architecture, **options)
    for key, value in metadata.items():
        if value is not None:
            add(writer, key, value)
    for name, array in tensors.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, np.ascontiguousarray(array))
        else:
            kind = GGMLQuantizationType[kind]
            writer.add_tensor(name, quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, key, value):
    """Add one value of the metadata by its Python type."""
    if key == "general.alignment":
        writer.add_custom_alignment(value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def metadata_of(name, pretrained):
    """Sizes and special tokens of a model."""
    architecture, config = architecture_of(name), pretrained.config
    found = {f"{architecture}.{key}": value for key, value in sizes_of(architecture, config).items()}
    ids = {"bos": config.bos_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}
    return found | {f"tokenizer.ggml.{key}_token_id": value for key, value in ids.items() if value is not None}


def parts_of(name, directory):
    """A tiny model, and the metadata and tensors of its file."""
    pretrained = model_of(name)
    tensors = stored_tensors(name, pretrained, directory / "huggingface")
    if name == "llama-tied":
        tensors["rope_freqs.weight"] = llama3_factors(pretrained.config.rope_parameters, pretrained.config.head_dim)
    return pretrained, metadata_of(name, pretrained), tensors


def write_tiny(name, directory):
    """A tiny model and its file."""
    pretrained, metadata, tensors = parts_of(name, directory)
    return pretrained, write(directory / f"{name}.gguf", architecture_of(name), metadata, tensors)
