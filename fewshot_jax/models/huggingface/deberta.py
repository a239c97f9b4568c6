"""DeBERTa, version 3, and 2 without its convolution (He et al., arXiv:2006.03654 and arXiv:2111.09543).

transformers has two forms of the head that predicts tokens, and the config's ``legacy`` says which. They compute the
same under other names; version 3's own checkpoints hold the newer one whatever their config says.
"""

from dataclasses import replace

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.disentangled import Disentangled, Term
from fewshot_jax.models.huggingface.bert import REQUIRED, bert_head
from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of, expect
from fewshot_jax.models.huggingface.mapping import Rule, attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_LAYER, _SELF = "encoder/blocks", "encoder.layer.{}.attention.self"
_TERMS: dict[str, Term] = {"c2p": "content_to_position", "p2c": "position_to_content"}


def _disentangled(config: FamilyConfig, types: set[str]) -> Disentangled | None:
    if not config.relative_attention:
        return None
    require(bool(types), f"config.json: pos_att_type={config.pos_att_type!r}: expected 'c2p', 'p2c' or both")
    farthest = config.max_relative_positions
    farthest = config.max_position_embeddings if farthest < 1 else farthest
    buckets = getattr(config, "position_buckets", -1)
    given = getattr(config, "norm_rel_ebd", "none")
    require(isinstance(given, str), f"config.json: norm_rel_ebd={given!r}: expected 'layer_norm' or 'none'")
    norms = [one.strip() for one in given.lower().split("|")]
    return Disentangled(
        terms=tuple(term for name, term in _TERMS.items() if name in types),
        span=buckets if buckets > 0 else farthest,
        farthest=farthest if buckets > 0 else None,
        shared=getattr(config, "share_att_key", False),
        norm="layer_norm" in norms,
    )


def _stack(config: FamilyConfig) -> StackShape:
    expect(config, "embedding_size", config.hidden_size)
    expect(config, "attention_head_size", config.hidden_size // config.num_attention_heads)
    expect(config, "pooler_hidden_size", config.hidden_size)
    if getattr(config, "conv_kernel_size", 0) > 0:
        raise UserError(
            f"config.json: conv_kernel_size={config.conv_kernel_size}: a convolution beside the first layer (as in "
            "deberta-v2-xlarge and deberta-v2-xxlarge) is not supported; take a model of the family without it, such "
            "as deberta-v3-large or mdeberta-v3-base"
        )
    types = set(config.pos_att_type or ()) & _TERMS.keys()
    block = BlockShape(
        width=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        order="post",
        norm_epsilon=config.layer_norm_eps,
        activation=activation_of(config.hidden_act),
        dropout=config.hidden_dropout_prob,
        disentangled=_disentangled(config, types),
        score_scale=(config.hidden_size // config.num_attention_heads * (1 + len(types))) ** -0.5,  # section 3.1
    )
    return StackShape(
        block=block,
        layers=config.num_hidden_layers,
        max_length=config.max_position_embeddings if config.position_biased_input else None,
        token_types=config.type_vocab_size,
        embedding_norm=True,
    )


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    head = bert_head(kind, config, config.hidden_act, config.pooler_hidden_act)
    if head is not None and kind == "masked_lm" and not config.legacy:
        head = replace(head, tied=True)  # whatever tie_word_embeddings says
    return ModelShape(vocab_size=config.vocab_size, encoder=_stack(config), head=head, pad_id=config.pad_token_id)


def _masked_lm(name: str, other: str) -> tuple[Rule, ...]:
    """The layers of a head that predicts tokens, which in some files has the name of the other form."""
    return (
        *linear(f"{name}.dense", "head/dense", other=f"{other}.dense"),
        *norm(f"{name}.LayerNorm", "head/norm", other=f"{other}.LayerNorm"),
    )


def _form(config: FamilyConfig) -> Family:
    """The family with the names of the config's head."""
    return DEBERTA if config.legacy else replace(DEBERTA, heads={**DEBERTA.heads, "masked_lm": _NEW}, copies={})


_OLD_BIAS, _NEW_BIAS = "cls.predictions.bias", "lm_predictions.lm_head.bias"
_OLD_COPY = "cls.predictions.decoder.bias"
_WEIGHT, _BIAS = linear("cls.predictions.decoder", "head/output")
_OLD = (
    *_masked_lm("cls.predictions.transform", "lm_predictions.lm_head"),
    _WEIGHT,
    replace(_BIAS, others=(_OLD_BIAS,)),
    Rule(_OLD_BIAS, "head/bias", others=(_OLD_COPY, _NEW_BIAS)),
)
_NEW = (
    *_masked_lm("lm_predictions.lm_head", "cls.predictions.transform"),
    Rule(_NEW_BIAS, "head/bias", others=(_OLD_BIAS, _OLD_COPY)),
)

DEBERTA = Family(
    shape=_shape,
    body=(
        *rule_table("embeddings.word_embeddings", "token_embedding"),
        *rule_table("embeddings.position_embeddings", "encoder/position_embedding"),
        *rule_table("embeddings.token_type_embeddings", "encoder/type_embedding"),
        *norm("embeddings.LayerNorm", "encoder/embedding_norm"),
        *rule_table("encoder.rel_embeddings", "encoder/distance_embedding"),
        *norm("encoder.LayerNorm", "encoder/distance_norm"),
        *attention(
            "encoder.layer.{}.attention",
            f"{_LAYER}/attention",
            ("self.query_proj", "self.key_proj", "self.value_proj", "output.dense"),
        ),
        *linear(f"{_SELF}.pos_key_proj", f"{_LAYER}/attention/content_to_position"),
        *linear(f"{_SELF}.pos_query_proj", f"{_LAYER}/attention/position_to_content"),
        *norm("encoder.layer.{}.attention.output.LayerNorm", f"{_LAYER}/attention_norm"),
        *linear("encoder.layer.{}.intermediate.dense", f"{_LAYER}/mlp/up"),
        *linear("encoder.layer.{}.output.dense", f"{_LAYER}/mlp/down"),
        *norm("encoder.layer.{}.output.LayerNorm", f"{_LAYER}/mlp_norm"),
    ),
    prefix="deberta.",
    heads={
        "masked_lm": _OLD,
        "classification": (*linear("pooler.dense", "head/dense"), *linear("classifier", "head/output")),
        "span": tuple(linear("qa_outputs", "head/output")),
    },
    architectures={
        None: "DebertaV2Model",
        "masked_lm": "DebertaV2ForMaskedLM",
        "classification": "DebertaV2ForSequenceClassification",
        "span": "DebertaV2ForQuestionAnswering",
    },
    form=_form,
    copies={_OLD_BIAS: _OLD_COPY},
    # Checkpoints of version 3 hold the layers of their pretraining's second model.
    ignored=(r"(.*\.)?embeddings\.position_(ids|embeddings\.weight)", r"mask_predictions\..*"),
    required=REQUIRED,
)
