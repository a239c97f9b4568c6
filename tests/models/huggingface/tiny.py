"""Tiny random configs of every family, with what sets it apart switched on."""

import functools
import json

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from transformers import CONFIG_MAPPING

from fewshot_jax.models.huggingface.pretrained import Pretrained, build, leaves_of

VOCABULARY, LENGTH = 40, 12
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_SEQ2SEQ = {"vocab_size": VOCABULARY, "d_model": 16, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
_T5 = {**_SEQ2SEQ, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
_ROBERTA = {**_SIZES, "pad_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 34}
_DEBERTA3 = {  # as version 3 has it: positions only in the attention, which shares its layers with them
    **_SIZES,
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
_BART = {
    **_SEQ2SEQ,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
    "scale_embedding": True,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# name: model type, fields of its config
CONFIGS = {
    "bert": ("bert", _SIZES),
    "bert-untied": ("bert", {**_SIZES, "tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "roberta": ("roberta", _ROBERTA),
    "xlm-roberta": ("xlm-roberta", {**_ROBERTA, "type_vocab_size": 1}),
    "camembert": ("camembert", {**_ROBERTA, "tie_word_embeddings": False}),
    "mpnet": ("mpnet", _ROBERTA),
    "mpnet-untied": ("mpnet", {**_ROBERTA, "tie_word_embeddings": False}),
    "electra": ("electra", {**_SIZES, "embedding_size": 10, "hidden_act": "gelu_new"}),
    "electra-untied": ("electra", {**_SIZES, "embedding_size": 16, "tie_word_embeddings": False}),
    "deberta": ("deberta-v2", _DEBERTA3),
    "deberta-new": (
        "deberta-v2",
        {
            **_DEBERTA3,
            "legacy": False,
            "share_att_key": False,
            "norm_rel_ebd": "none",
            "position_buckets": -1,
            "max_relative_positions": 9,
            "position_biased_input": True,
            "type_vocab_size": 2,
        },
    ),
    "deberta-untied": (
        "deberta-v2",
        {**_DEBERTA3, "tie_word_embeddings": False, "share_att_key": False, "pos_att_type": ["p2c"]},
    ),
    "distilbert": (
        "distilbert",
        {
            "vocab_size": VOCABULARY,
            "dim": 16,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 24,
            "max_position_embeddings": 32,
        },
    ),
    "modernbert": ("modernbert", {**_SIZES, "local_attention": 6, "cls_token_id": 1, "sep_token_id": 2}),
    "modernbert-mean": (
        "modernbert",
        {
            **_SIZES,
            "local_attention": 4,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "classifier_pooling": "mean",
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "llama": ("llama", {**_GROUPED, "head_dim": 6, "rms_norm_eps": 1e-5}),
    "llama-tied": (
        "llama",
        {**_GROUPED, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_parameters": _LLAMA3},
    ),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 4}),
    "mistral-full": (
        "mistral",
        {
            **_GROUPED,
            "sliding_window": None,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        },
    ),
    "qwen2": ("qwen2", {**_GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen2-full": ("qwen2", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 6}),
    "gemma2": (
        "gemma2",
        {
            **_GROUPED,
            "head_dim": 6,
            "query_pre_attn_scalar": 9,
            "sliding_window": 4,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 0.7,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            **_GROUPED,
            "head_dim": 6,
            "query_pre_attn_scalar": 9,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
            },
        },
    ),
    "gemma3-untied": (
        "gemma3_text",
        {**_GROUPED, "head_dim": 8, "sliding_window": 4, "attention_bias": True, "tie_word_embeddings": False},
    ),
    "gpt-neox": ("gpt_neox", {**_SIZES, "num_attention_heads": 2, "rotary_pct": 0.5, "rotary_emb_base": 100}),
    "gpt-neox-serial": (
        "gpt_neox",
        {
            **_SIZES,
            "rotary_pct": 1.0,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
        },
    ),
    "smollm3": (
        "smollm3",
        {**_GROUPED, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 4},
    ),
    "smollm3-untied": (
        "smollm3",
        {**_GROUPED, "no_rope_layer_interval": 3, "tie_word_embeddings": False, "mlp_bias": True},
    ),
    "t5": ("t5", {**_T5, "feed_forward_proj": "relu"}),
    "t5-gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("bart", {**_BART, "bos_token_id": 1}),
    "marian": ("marian", {**_BART, "activation_function": "swish"}),
    "marian-unscaled": ("marian", {**_BART, "scale_embedding": False}),
    "m2m-100": ("m2m_100", {**_BART, "decoder_start_token_id": 2}),
    "m2m-100-gelu": ("m2m_100", {**_BART, "activation_function": "gelu", "pad_token_id": 1}),
}


def tiny(name="llama", kind="causal_lm", **labels):
    """A model of ours with random numbers in every leaf."""
    config, module = _config_and_module(name, kind, labels)
    flat = {path: jnp.asarray(leaf) for path, leaf in _leaves(name, kind, json.dumps(labels)).items()}
    return Pretrained(config=config, module=module, params=unflatten_dict(flat, sep="/"), head=kind)


def _config_and_module(name, kind, labels):
    model_type, fields = CONFIGS[name]
    config = CONFIG_MAPPING[model_type](**fields, **labels)
    return config, build(config, kind, jnp.float32)


@functools.cache
def _leaves(name, kind, labels):
    """The random numbers: many tests take the same model, and tracing it for its shapes takes a while."""
    _, module = _config_and_module(name, kind, json.loads(labels))
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in leaves_of(module).items()}
    if name.startswith("modernbert"):  # what the first layer does not have
        for path, leaf in flat.items():
            if path.startswith("encoder/blocks/attention_norm"):
                leaf[0] = 1
    return flat
