"""BART (Lewis et al., ACL 2020)."""

from typing import Any

from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of
from fewshot_jax.models.huggingface.mapping import Rule, attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")


def _stack(config: FamilyConfig, side: str, **options: Any) -> StackShape:
    """Build the shape of a side, "encoder" or "decoder", with a relative's own fields.

    Its blocks are ``order="post"``; ``block=...`` gives other fields of theirs.
    """
    causal, own = side == "decoder", options.pop("block", {})
    block = BlockShape(
        width=config.d_model,
        heads=getattr(config, f"{side}_attention_heads"),
        mlp_width=getattr(config, f"{side}_ffn_dim"),
        norm_epsilon=1e-5,
        activation=activation_of(config.activation_function),
        cross=causal,
        dropout=config.dropout,
        **{"order": "post", **own},
    )
    return StackShape(
        block=block,
        layers=getattr(config, f"{side}_layers"),
        causal=causal,
        max_length=config.max_position_embeddings,
        embedding_scale=config.d_model**0.5 if config.scale_embedding else None,
        **options,
    )


def _head(config: FamilyConfig, kind: HeadKind | None) -> HeadShape | None:
    if kind is None:
        return None
    if kind == "classification":
        return HeadShape(kind=kind, labels=config.num_labels, pooling="eos", dense="tanh")
    return HeadShape(kind=kind, tied=config.tie_word_embeddings)


def bart_model(config: FamilyConfig, head: HeadShape | None, **stack: Any) -> ModelShape:
    """Build the shape that BART and its relatives share, with a relative's own fields of both stacks."""
    return ModelShape(
        vocab_size=config.vocab_size,
        encoder=_stack(config, "encoder", **stack),
        decoder=_stack(config, "decoder", **stack),
        head=head,
        start_id=config.decoder_start_token_id,
        pad_id=config.pad_token_id,
        eos_id=config.eos_token_id,
    )


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    return bart_model(config, _head(config, kind), position_offset=2, embedding_norm=True)


def _side(side: str) -> tuple[Rule, ...]:
    layer, blocks = f"{side}.layers.{{}}", f"{side}/blocks"
    return (
        *rule_table(f"{side}.embed_positions", f"{side}/position_embedding"),
        *norm(f"{side}.layernorm_embedding", f"{side}/embedding_norm"),
        *attention(f"{layer}.self_attn", f"{blocks}/attention", _NAMES),
        *norm(f"{layer}.self_attn_layer_norm", f"{blocks}/attention_norm"),
        *linear(f"{layer}.fc1", f"{blocks}/mlp/up"),
        *linear(f"{layer}.fc2", f"{blocks}/mlp/down"),
        *norm(f"{layer}.final_layer_norm", f"{blocks}/mlp_norm"),
    )


BART = Family(
    shape=_shape,
    body=(
        *rule_table("shared", "token_embedding", others=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")),
        *_side("encoder"),
        *_side("decoder"),
        *attention("decoder.layers.{}.encoder_attn", "decoder/blocks/cross_attention", _NAMES),
        *norm("decoder.layers.{}.encoder_attn_layer_norm", "decoder/blocks/cross_attention_norm"),
    ),
    prefix="model.",
    heads={
        "causal_lm": (
            Rule("lm_head.weight", "head/output/kernel", inputs=1, transposed=True),
            Rule("final_logits_bias", "head/bias", inputs=0),
            Rule("final_logits_bias", "head/output/bias", inputs=0),
        ),
        "classification": (
            *linear("classification_head.dense", "head/dense"),
            *linear("classification_head.out_proj", "head/output"),
        ),
        "span": tuple(linear("qa_outputs", "head/output")),
    },
    architectures={
        None: "BartModel",
        "causal_lm": "BartForConditionalGeneration",
        "classification": "BartForSequenceClassification",
        "span": "BartForQuestionAnswering",
    },
    optional=("final_logits_bias",),
    required=("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads"),
)
