"""T5 (Raffel et al., JMLR 2020), with plain or gated units (version 1.1, Flan)."""

from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of
from fewshot_jax.models.huggingface.mapping import Rule, attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_NAMES = ("q", "k", "v", "o")


def _stack(config: FamilyConfig, layers: int, *, causal: bool) -> StackShape:
    block = BlockShape(
        width=config.d_model,
        heads=config.num_heads,
        mlp_width=config.d_ff,
        head_width=config.d_kv,
        norm="rms",
        norm_epsilon=config.layer_norm_epsilon,
        activation=activation_of(config.dense_act_fn),
        gated=config.is_gated_act,
        attention_bias=False,
        out_bias=False,
        mlp_bias=False,
        score_scale=1.0,
        cross=causal,
        dropout=config.dropout_rate,
    )
    return StackShape(
        block=block,
        layers=layers,
        causal=causal,
        final_norm=True,
        relative_buckets=config.relative_attention_num_buckets,
        relative_farthest=config.relative_attention_max_distance,
    )


def _head(config: FamilyConfig, kind: HeadKind | None) -> HeadShape | None:
    if kind is None or kind == "encoder":
        return None
    if kind == "causal_lm":
        scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        return HeadShape(kind=kind, bias=False, scale=scale, tied=config.tie_word_embeddings)
    if kind == "span":
        return HeadShape(kind=kind)
    return HeadShape(kind=kind, labels=config.num_labels, pooling="eos", dense="tanh")


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    start = getattr(config, "decoder_start_token_id", None)
    return ModelShape(
        vocab_size=config.vocab_size,
        encoder=_stack(config, config.num_layers, causal=False),
        decoder=None if kind == "encoder" else _stack(config, config.num_decoder_layers, causal=True),
        head=_head(config, kind),
        start_id=config.pad_token_id if start is None else start,
        pad_id=config.pad_token_id,
        eos_id=config.eos_token_id,
    )


def _side(side: str, mlp: int) -> tuple[Rule, ...]:
    """The rules of one stack, whose feed-forward layers are the sub-layer ``mlp`` of a block."""
    layer, blocks = f"{side}.block.{{}}.layer", f"{side}/blocks"
    bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return (
        *attention(f"{layer}.0.SelfAttention", f"{blocks}/attention", _NAMES),
        *norm(f"{layer}.0.layer_norm", f"{blocks}/attention_norm"),
        *linear(f"{layer}.{mlp}.DenseReluDense.wi_0", f"{blocks}/mlp/gate"),
        *linear(f"{layer}.{mlp}.DenseReluDense.wo", f"{blocks}/mlp/down"),
        *norm(f"{layer}.{mlp}.layer_norm", f"{blocks}/mlp_norm"),
        *rule_table(bias, f"{side}/relative_bias"),
        *norm(f"{side}.final_layer_norm", f"{side}/final_norm"),
    )


def _up(config: FamilyConfig) -> tuple[Rule, ...]:
    """The layer that the gate multiplies has another name where there is none."""
    name = "wi_1" if config.is_gated_act else "wi"
    return tuple(
        rule
        for side, mlp in (("encoder", 1), ("decoder", 2))
        for rule in linear(f"{side}.block.{{}}.layer.{mlp}.DenseReluDense.{name}", f"{side}/blocks/mlp/up")
    )


T5 = Family(
    shape=_shape,
    body=(
        *rule_table("shared", "token_embedding", others=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")),
        *_side("encoder", 1),
        *_side("decoder", 2),
        *attention("decoder.block.{}.layer.1.EncDecAttention", "decoder/blocks/cross_attention", _NAMES),
        *norm("decoder.block.{}.layer.1.layer_norm", "decoder/blocks/cross_attention_norm"),
    ),
    more=_up,
    prefix="",
    prefixes={"classification": "transformer."},
    heads={
        "causal_lm": tuple(linear("lm_head", "head/output")),
        "classification": (
            *linear("classification_head.dense", "head/dense"),
            *linear("classification_head.out_proj", "head/output"),
        ),
        "span": tuple(linear("qa_outputs", "head/output")),
        "encoder": (),
    },
    architectures={
        None: "T5Model",
        "causal_lm": "T5ForConditionalGeneration",
        "classification": "T5ForSequenceClassification",
        "span": "T5ForQuestionAnswering",
        "encoder": "T5EncoderModel",
    },
    ignored=(r"(transformer\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    required=("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
)
