"""ModernBERT (Warner et al., arXiv:2412.13663): rotary positions, gated units, most layers local."""

from dataclasses import replace

from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of, rotary_of
from fewshot_jax.models.huggingface.mapping import Rule, fused, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.layer_kinds import LayerKind
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_LAYER = "encoder/blocks"


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    block = BlockShape(
        width=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        norm_epsilon=config.norm_eps,
        norm_bias=config.norm_bias,
        activation=activation_of(config.hidden_activation),
        gated=True,
        attention_bias=config.attention_bias,
        out_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        dropout=config.mlp_dropout,
    )
    kinds = (
        LayerKind(rotary=rotary_of(config.rope_parameters["full_attention"])),
        LayerKind(rotary=rotary_of(config.rope_parameters["sliding_attention"]), window=config.local_attention // 2),
    )
    types = [int(kind == "sliding_attention") for kind in config.layer_types]
    stack = StackShape(
        block=block,
        layers=config.num_hidden_layers,
        embedding_norm=True,
        final_norm=True,
        kinds=(*kinds, replace(kinds[types[0]], attention_norm=False)),  # the first reads the normalised embeddings
        pattern=(len(kinds), *types[1:]),
    )
    return ModelShape(vocab_size=config.vocab_size, encoder=stack, head=_head(config, kind), pad_id=config.pad_token_id)


def _head(config: FamilyConfig, kind: HeadKind | None) -> HeadShape | None:
    if kind is None:
        return None
    if kind == "classification" and config.classifier_pooling not in ("cls", "mean"):
        raise UserError(f"config.json: classifier_pooling={config.classifier_pooling!r}: expected 'cls' or 'mean'")
    return HeadShape(
        kind=kind,
        labels=config.num_labels,
        pooling="mean" if config.classifier_pooling == "mean" else "first",
        dense=activation_of(config.classifier_activation),
        dense_bias=config.classifier_bias,
        dense_norm=True,
        bias=config.decoder_bias if kind == "masked_lm" else True,
        tied=config.tie_word_embeddings,
    )


_DENSE = (*linear("head.dense", "head/dense"), *norm("head.norm", "head/norm"))

MODERNBERT = Family(
    shape=_shape,
    body=(
        *rule_table("embeddings.tok_embeddings", "token_embedding"),
        *norm("embeddings.norm", "encoder/embedding_norm"),
        *norm("layers.{}.attn_norm", f"{_LAYER}/attention_norm", first=1),
        *fused("layers.{}.attn.Wqkv", [f"{_LAYER}/attention/{part}" for part in ("query", "key", "value")]),
        *linear("layers.{}.attn.Wo", f"{_LAYER}/attention/out", inputs=2),
        *norm("layers.{}.mlp_norm", f"{_LAYER}/mlp_norm"),
        *fused("layers.{}.mlp.Wi", [f"{_LAYER}/mlp/{part}" for part in ("gate", "up")]),
        *linear("layers.{}.mlp.Wo", f"{_LAYER}/mlp/down"),
        *norm("final_norm", "encoder/final_norm"),
    ),
    prefix="model.",
    heads={
        "masked_lm": (*_DENSE, *linear("decoder", "head/output"), Rule("decoder.bias", "head/bias")),
        "classification": (*_DENSE, *linear("classifier", "head/output")),
        "span": (*_DENSE, *linear("classifier", "head/output")),
    },
    architectures={
        None: "ModernBertModel",
        "masked_lm": "ModernBertForMaskedLM",
        "classification": "ModernBertForSequenceClassification",
        "span": "ModernBertForQuestionAnswering",
    },
    required=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
)
