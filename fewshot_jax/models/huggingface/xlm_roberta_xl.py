"""XLM-RoBERTa-XL (Goyal et al., arXiv:2105.00572): RoBERTa with norms before the layers, read without a head."""

from dataclasses import replace

from fewshot_jax.models.huggingface.bert import REQUIRED, bert_stack
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.mapping import attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import ModelShape

_LAYER = "encoder/blocks"


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    del kind  # there are no heads
    before = config.pad_token_id + 1
    stack = bert_stack(config)
    stack = replace(
        stack,
        block=replace(stack.block, order="pre"),
        max_length=config.max_position_embeddings - before,
        position_offset=before,
        positions_skip_padding=True,
        embedding_norm=False,
        final_norm=True,
    )
    return ModelShape(vocab_size=config.vocab_size, encoder=stack, pad_id=config.pad_token_id)


XLM_ROBERTA_XL = Family(
    shape=_shape,
    body=(
        *rule_table("embeddings.word_embeddings", "token_embedding"),
        *rule_table("embeddings.position_embeddings", "encoder/position_embedding"),
        *rule_table("embeddings.token_type_embeddings", "encoder/type_embedding"),
        *norm("encoder.layer.{}.attention.self_attn_layer_norm", f"{_LAYER}/attention_norm"),
        *attention(
            "encoder.layer.{}.attention",
            f"{_LAYER}/attention",
            ("self.query", "self.key", "self.value", "output.dense"),
        ),
        *norm("encoder.layer.{}.LayerNorm", f"{_LAYER}/mlp_norm"),
        *linear("encoder.layer.{}.intermediate.dense", f"{_LAYER}/mlp/up"),
        *linear("encoder.layer.{}.output.dense", f"{_LAYER}/mlp/down"),
        *norm("encoder.LayerNorm", "encoder/final_norm"),
    ),
    prefix="roberta.",
    heads={},
    architectures={None: "XLMRobertaXLModel"},
    ignored=(r"(.*\.)?embeddings\.(position_ids|token_type_ids)", r"pooler\..*"),
    required=(*REQUIRED, "pad_token_id"),
)
