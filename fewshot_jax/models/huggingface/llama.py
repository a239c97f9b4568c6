"""Llama (Touvron et al., arXiv:2302.13971) and its relatives: Mistral (arXiv:2310.06825), Qwen2 (arXiv:2407.10671),
Qwen3 (arXiv:2505.09388), Gemma 2 (arXiv:2408.00118).

Another relative is one file: a function that gives `llama_model` the fields of its blocks and of its stack (kinds of
layers and their pattern among them), and the names of its tensors, by `llama_body`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of, expect, rotary_of
from fewshot_jax.models.huggingface.gpt2 import DECODER_HEADS, decoder_head
from fewshot_jax.models.huggingface.mapping import Rule, attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.layer_kinds import LayerKind
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_LAYER = "decoder/blocks"


def llama_model(
    config: FamilyConfig, kind: HeadKind | None, *, block: dict[str, Any], stack: dict[str, Any]
) -> ModelShape:
    """Build the shape that all of them share, with a family's own fields of its blocks and of its stack."""
    shape = BlockShape(
        **{
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "kv_heads": config.num_key_value_heads,
            "head_width": getattr(config, "head_dim", None),
            "norm": "rms",
            "norm_epsilon": config.rms_norm_eps,
            "gated": True,
            "attention_bias": False,
            "out_bias": False,
            "mlp_bias": False,
            **block,
        }
    )
    decoder = StackShape(
        block=shape,
        layers=config.num_hidden_layers,
        causal=True,
        final_norm=True,
        **{"kinds": (LayerKind(rotary=rotary_of(config.rope_parameters)),), **stack},
    )
    cap = getattr(config, "final_logit_softcapping", None)
    return ModelShape(
        vocab_size=config.vocab_size,
        decoder=decoder,
        head=decoder_head(config, kind, cap=cap),
        pad_id=config.pad_token_id,
    )


def windowed_layers(config: FamilyConfig) -> dict[str, Any]:
    """The layers of a config whose attention is limited to a window, and the others.

    Both have the same rotary positions, or each kind has its own (Gemma 3).
    """
    types = ("full_attention", "sliding_attention")
    if unknown := set(config.layer_types) - set(types):
        raise UserError(f"config.json: layer_types: {', '.join(sorted(map(str, unknown)))} is not supported")
    if config.sliding_window is None and "sliding_attention" in config.layer_types:
        raise UserError("config.json: layer_types has sliding_attention, and sliding_window is null")
    full, sliding = (rotary_of(config.rope_parameters.get(kind, config.rope_parameters)) for kind in types)
    return {
        "kinds": (LayerKind(rotary=full), LayerKind(rotary=sliding, window=config.sliding_window)),
        "pattern": tuple(map(types.index, config.layer_types)),
    }


def _llama(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    biases = {
        "attention_bias": config.attention_bias,
        "out_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "activation": activation_of(config.hidden_act),
    }
    return llama_model(config, kind, block=biases, stack={})


def _mistral(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    expect(config, "layer_types", None)
    block = {"activation": activation_of(config.hidden_act)}
    layers = LayerKind(rotary=rotary_of(config.rope_parameters), window=config.sliding_window)
    return llama_model(config, kind, block=block, stack={"kinds": (layers,)})


def _qwen2(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    block = {"activation": activation_of(config.hidden_act), "attention_bias": True}
    return llama_model(config, kind, block=block, stack=windowed_layers(config))


def _qwen3(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    block = {
        "activation": activation_of(config.hidden_act),
        "attention_bias": config.attention_bias,
        "out_bias": config.attention_bias,
        "qk_norm": True,
    }
    return llama_model(config, kind, block=block, stack=windowed_layers(config))


def gemma_model(config: FamilyConfig, kind: HeadKind | None, **block: Any) -> ModelShape:
    """Build the shape that Gemma 2 and 3 share, with more fields of its blocks."""
    if config.use_bidirectional_attention:
        expect(config, "use_bidirectional_attention", False)
    shared = {
        "activation": activation_of(config.hidden_activation),
        "attention_bias": config.attention_bias,
        "out_bias": config.attention_bias,
        "order": "sandwich",
        "norm_offset": 1.0,
        "score_scale": config.query_pre_attn_scalar**-0.5,
    }
    stack = {**windowed_layers(config), "embedding_scale": config.hidden_size**0.5}
    return llama_model(config, kind, block={**shared, **block}, stack=stack)


def _gemma2(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    return gemma_model(config, kind, score_cap=config.attn_logit_softcapping)


# The matrices of a layer, each a tensor of its own; `mapping.fused` gives the rules of those that share one.
PROJECTIONS = (
    *attention("layers.{}.self_attn", f"{_LAYER}/attention", ("q_proj", "k_proj", "v_proj", "o_proj")),
    *linear("layers.{}.mlp.gate_proj", f"{_LAYER}/mlp/gate"),
    *linear("layers.{}.mlp.up_proj", f"{_LAYER}/mlp/up"),
    *linear("layers.{}.mlp.down_proj", f"{_LAYER}/mlp/down"),
)


def llama_body(norms: Mapping[str, str], projections: tuple[Rule, ...] = PROJECTIONS) -> tuple[Rule, ...]:
    """Return the rules of everything but the head.

    Args:
        norms: of a layer, the name in the checkpoint to ours.
        projections: rules of the matrices of a layer.
    """
    return (
        *rule_table("embed_tokens", "token_embedding"),
        *projections,
        *norm("layers.{}.self_attn.q_norm", f"{_LAYER}/attention/query_norm"),
        *norm("layers.{}.self_attn.k_norm", f"{_LAYER}/attention/key_norm"),
        *(rule for name, target in norms.items() for rule in norm(f"layers.{{}}.{name}", f"{_LAYER}/{target}")),
        *norm("norm", "decoder/final_norm"),
    )


LLAMA = Family(
    shape=_llama,
    body=llama_body({"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}),
    prefix="model.",
    prefixes={"span": "transformer."},
    heads=DECODER_HEADS,
    architectures={
        None: "LlamaModel",
        "causal_lm": "LlamaForCausalLM",
        "classification": "LlamaForSequenceClassification",
        "span": "LlamaForQuestionAnswering",
    },
    ignored=(r".*rotary_emb\.inv_freq",),
    required=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
)


def named_like_llama(name: str) -> dict[HeadKind | None, str]:
    """The names of transformers' classes of a relative."""
    return {kind: architecture.replace("Llama", name) for kind, architecture in LLAMA.architectures.items()}


MISTRAL = replace(LLAMA, shape=_mistral, architectures=named_like_llama("Mistral"), prefixes={})
QWEN2 = replace(LLAMA, shape=_qwen2, architectures=named_like_llama("Qwen2"))
QWEN3 = replace(LLAMA, shape=_qwen3, architectures=named_like_llama("Qwen3"))
GEMMA2 = replace(
    LLAMA,
    shape=_gemma2,
    body=llama_body(
        {
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "attention_out_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_out_norm",
        }
    ),
    heads={kind: rules for kind, rules in DECODER_HEADS.items() if kind != "span"},
    architectures={kind: name for kind, name in named_like_llama("Gemma2").items() if kind != "span"},
)
