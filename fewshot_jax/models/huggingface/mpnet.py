"""MPNet (Song et al., NeurIPS 2020, arXiv:2004.09297): BERT's layers with T5's bias by distance, one for all layers."""

from dataclasses import replace

from fewshot_jax.models.huggingface.bert import REQUIRED, ROBERTA, bert_head, bert_stack
from fewshot_jax.models.huggingface.family import Family, FamilyConfig, expect
from fewshot_jax.models.huggingface.mapping import attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import ModelShape

_LAYER = "encoder/blocks"
# Numbers that transformers' modeling_mpnet.py has in its code, whatever the config says.
_PADDING, _BUCKETS, _FARTHEST = 1, 32, 128


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    expect(config, "pad_token_id", _PADDING)
    expect(config, "relative_attention_num_buckets", _BUCKETS)
    # The table's first rows are those before the padding token's id, and its own.
    stack = replace(
        bert_stack(config),
        max_length=config.max_position_embeddings - _PADDING - 1,
        position_offset=_PADDING + 1,
        positions_skip_padding=True,
        relative_buckets=_BUCKETS,
        relative_farthest=_FARTHEST,
    )
    head = bert_head(kind, config, "gelu", "tanh")
    return ModelShape(vocab_size=config.vocab_size, encoder=stack, head=head, pad_id=_PADDING)


MPNET = Family(
    shape=_shape,
    body=(
        *rule_table("embeddings.word_embeddings", "token_embedding"),
        *rule_table("embeddings.position_embeddings", "encoder/position_embedding"),
        *norm("embeddings.LayerNorm", "encoder/embedding_norm"),
        *rule_table("encoder.relative_attention_bias", "encoder/relative_bias"),
        *attention("encoder.layer.{}.attention.attn", f"{_LAYER}/attention", ("q", "k", "v", "o")),
        *norm("encoder.layer.{}.attention.LayerNorm", f"{_LAYER}/attention_norm"),
        *linear("encoder.layer.{}.intermediate.dense", f"{_LAYER}/mlp/up"),
        *linear("encoder.layer.{}.output.dense", f"{_LAYER}/mlp/down"),
        *norm("encoder.layer.{}.output.LayerNorm", f"{_LAYER}/mlp_norm"),
    ),
    prefix="mpnet.",
    heads={**ROBERTA.heads, "pooler": tuple(linear("pooler.dense", "head/dense", other="mpnet.pooler.dense"))},
    architectures={
        "pooler": "MPNetModel",
        "masked_lm": "MPNetForMaskedLM",
        "classification": "MPNetForSequenceClassification",
        "span": "MPNetForQuestionAnswering",
    },
    copies=ROBERTA.copies,
    ignored=(r"(.*\.)?embeddings\.position_ids",),
    required=REQUIRED,
)
