"""The families of pretrained models that can be read, with a real model of each and its parameters.

    python benchmarks/families.py

Parameters are counted in the shapes of the model that its sizes describe; nothing is fetched. The sizes are those of
the model's config.json on the Hugging Face hub. Into benchmarks/results/families.json, and as rows for
docs/pretrained_models.md.
"""

import math
from typing import Any

import jax.numpy as jnp
from common import arguments as common_arguments
from common import write as write_json
from transformers import CONFIG_MAPPING

from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.pretrained import build, leaves_of


def llama(vocabulary: int, width: int, mlp: int, layers: int, heads: int, kv: int, head: int, tied: bool) -> dict:
    """The sizes of Llama and its relatives."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": head,
        "tie_word_embeddings": tied,
    }


_BASE = {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_T5 = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
_V3 = {
    "vocab_size": 128100,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_TRANSLATION = {"pad_token_id": 1, "scale_embedding": True, "activation_function": "relu"}

# family: a model of the hub, its head, and its sizes where they are not those that transformers assumes
MODELS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "bert": ("google-bert/bert-base-uncased", "pooler", {}),
    "roberta": ("FacebookAI/roberta-base", "pooler", {**_BASE, "vocab_size": 50265}),
    "xlm-roberta": ("FacebookAI/xlm-roberta-base", "pooler", {**_BASE, "vocab_size": 250002}),
    "camembert": ("almanach/camembert-base", "pooler", {**_BASE, "vocab_size": 32005}),
    "distilbert": ("distilbert/distilbert-base-uncased", None, {}),
    "mpnet": (
        "sentence-transformers/all-mpnet-base-v2",
        "pooler",
        {"vocab_size": 30527, "max_position_embeddings": 514, "pad_token_id": 1},
    ),
    "electra": (
        "google/electra-small-discriminator",
        None,
        {"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    ),
    "deberta-v2": ("microsoft/deberta-v3-base", None, _V3),
    "modernbert": ("answerdotai/ModernBERT-base", None, {}),
    "xlm-roberta-xl": ("facebook/xlm-roberta-xl", "pooler", {**_BASE, "vocab_size": 250880}),
    "gpt2": ("openai-community/gpt2", "causal_lm", {}),
    "gpt_neox": (
        "EleutherAI/pythia-160m",
        "causal_lm",
        {
            "vocab_size": 50304,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    "llama": ("HuggingFaceTB/SmolLM2-135M", "causal_lm", llama(49152, 576, 1536, 30, 9, 3, 64, True)),
    "mistral": ("mistralai/Mistral-7B-v0.1", "causal_lm", llama(32000, 4096, 14336, 32, 32, 8, 128, False)),
    "qwen2": ("Qwen/Qwen2.5-0.5B", "causal_lm", llama(151936, 896, 4864, 24, 14, 2, 64, True)),
    "qwen3": ("Qwen/Qwen3-0.6B", "causal_lm", llama(151936, 1024, 3072, 28, 16, 8, 128, True)),
    "gemma2": ("google/gemma-2-2b", "causal_lm", llama(256000, 2304, 9216, 26, 8, 4, 256, True)),
    "gemma3_text": ("google/gemma-3-270m", "causal_lm", llama(262144, 640, 2048, 18, 4, 1, 256, True)),
    "smollm3": ("HuggingFaceTB/SmolLM3-3B", "causal_lm", llama(128256, 2048, 11008, 36, 16, 4, 128, True)),
    "t5": ("google/flan-t5-small", "causal_lm", {**_T5, "tie_word_embeddings": False}),
    "mt5": ("google/mt5-small", "causal_lm", {**_T5, "vocab_size": 250112, "tie_word_embeddings": False}),
    "bart": (
        "facebook/bart-base",
        "causal_lm",
        {
            "vocab_size": 50265,
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
        },
    ),
    "marian": (
        "Helsinki-NLP/opus-mt-en-de",
        "causal_lm",
        {
            "vocab_size": 58101,
            "decoder_vocab_size": 58101,
            "pad_token_id": 58100,
            "decoder_start_token_id": 58100,
            "d_model": 512,
            "max_position_embeddings": 512,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
            "activation_function": "swish",
            "scale_embedding": True,
        },
    ),
    "m2m_100": ("facebook/nllb-200-distilled-600M", "causal_lm", {**_TRANSLATION, "vocab_size": 256206}),
}


def parameters(family: str, head: Any, sizes: dict[str, Any]) -> int:
    """How many weights a model of these sizes has."""
    config = CONFIG_MAPPING[family](**sizes)
    config.tie_word_embeddings = sizes.get("tie_word_embeddings", config.tie_word_embeddings)  # T5's forgets it
    module = build(config, head, jnp.float32)
    return sum(math.prod(leaf.shape) for leaf in leaves_of(module).values())


def main() -> None:
    parser = common_arguments(str(__doc__), "families")
    arguments = parser.parse_args()
    rows = {}
    for family in sorted(FAMILIES):
        name, head, sizes = MODELS[family]
        rows[family] = {
            "model": name,
            "parameters": parameters(family, head, sizes),
            "heads": list(FAMILIES[family].heads),
        }
        heads = ", ".join(kind for kind in FAMILIES[family].heads)
        print(f"| `{family}` | {name} | {rows[family]['parameters'] / 1e6:,.1f} M | {heads} |")
    write_json(arguments.output, arguments, rows)


if __name__ == "__main__":
    main()
