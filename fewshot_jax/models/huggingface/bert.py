"""BERT (Devlin et al., NAACL 2019) and its relatives.

RoBERTa (Liu et al., arXiv:1907.11692), DistilBERT (Sanh et al., arXiv:1910.01108).
"""

from dataclasses import replace

from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of, expect
from fewshot_jax.models.huggingface.mapping import Rule, attention, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_LAYER = "encoder/blocks"
REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def _stack(config: FamilyConfig, *, mlp_width: int, activation: str, dropout: float, epsilon: float) -> StackShape:
    return StackShape(
        block=BlockShape(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            mlp_width=mlp_width,
            order="post",
            norm_epsilon=epsilon,
            activation=activation_of(activation),
            dropout=dropout,
        ),
        layers=config.num_hidden_layers,
        max_length=config.max_position_embeddings,
        token_types=getattr(config, "type_vocab_size", 0),
        embedding_norm=True,
    )


def bert_stack(config: FamilyConfig) -> StackShape:
    expect(config, "is_decoder", False)
    expect(config, "add_cross_attention", False)
    expect(config, "position_embedding_type", "absolute")
    return _stack(
        config,
        mlp_width=config.intermediate_size,
        activation=config.hidden_act,
        dropout=config.hidden_dropout_prob,
        epsilon=config.layer_norm_eps,
    )


def bert_head(kind: HeadKind | None, config: FamilyConfig, lm_activation: str, classifier: str) -> HeadShape | None:
    """The heads of BERT and its relatives: a dense layer before the words, another before the classes."""
    if kind is None:
        return None
    if kind == "masked_lm":
        tied = config.tie_word_embeddings
        return HeadShape(kind=kind, dense=activation_of(lm_activation), dense_norm=True, tied=tied)
    if kind == "span":
        return HeadShape(kind=kind)
    return HeadShape(kind=kind, labels=config.num_labels, dense=activation_of(classifier))


def _bert(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    return ModelShape(
        vocab_size=config.vocab_size,
        encoder=bert_stack(config),
        head=bert_head(kind, config, config.hidden_act, "tanh"),
        pad_id=config.pad_token_id,
    )


def _roberta(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    # The table's first rows are those before the padding token's id, and its own.
    before = config.pad_token_id + 1
    stack = replace(
        bert_stack(config),
        max_length=config.max_position_embeddings - before,
        position_offset=before,
        positions_skip_padding=True,
    )
    return ModelShape(
        vocab_size=config.vocab_size,
        encoder=stack,
        head=bert_head(kind, config, "gelu", "tanh"),
        pad_id=config.pad_token_id,
    )


def _distilbert(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    stack = _stack(
        config, mlp_width=config.hidden_dim, activation=config.activation, dropout=config.dropout, epsilon=1e-12
    )
    return ModelShape(
        vocab_size=config.vocab_size,
        encoder=stack,
        head=bert_head(kind, config, config.activation, "relu"),
        pad_id=config.pad_token_id,
    )


def _output(source: str, bias: str) -> list[Rule]:
    """An output layer that is not tied, whose bias is once or twice in the file."""
    weight, own = linear(source, "head/output")
    return [weight, replace(own, others=(bias,))]


_BERT_BODY = (
    *rule_table("embeddings.word_embeddings", "token_embedding"),
    *rule_table("embeddings.position_embeddings", "encoder/position_embedding"),
    *rule_table("embeddings.token_type_embeddings", "encoder/type_embedding"),
    *norm("embeddings.LayerNorm", "encoder/embedding_norm"),
    *attention(
        "encoder.layer.{}.attention", f"{_LAYER}/attention", ("self.query", "self.key", "self.value", "output.dense")
    ),
    *norm("encoder.layer.{}.attention.output.LayerNorm", f"{_LAYER}/attention_norm"),
    *linear("encoder.layer.{}.intermediate.dense", f"{_LAYER}/mlp/up"),
    *linear("encoder.layer.{}.output.dense", f"{_LAYER}/mlp/down"),
    *norm("encoder.layer.{}.output.LayerNorm", f"{_LAYER}/mlp_norm"),
)
_POSITION_IDS = r"(.*\.)?embeddings\.position_ids"

BERT = Family(
    shape=_bert,
    body=_BERT_BODY,
    prefix="bert.",
    heads={
        "masked_lm": (
            *linear("cls.predictions.transform.dense", "head/dense"),
            *norm("cls.predictions.transform.LayerNorm", "head/norm"),
            *_output("cls.predictions.decoder", "cls.predictions.bias"),
            Rule("cls.predictions.bias", "head/bias", others=("cls.predictions.decoder.bias",)),
        ),
        "classification": (
            *linear("bert.pooler.dense", "head/dense", other="pooler.dense"),
            *linear("classifier", "head/output"),
        ),
        "span": tuple(linear("qa_outputs", "head/output")),
        "pooler": tuple(linear("pooler.dense", "head/dense", other="bert.pooler.dense")),
    },
    architectures={
        "pooler": "BertModel",
        "masked_lm": "BertForMaskedLM",
        "classification": "BertForSequenceClassification",
        "span": "BertForQuestionAnswering",
    },
    readable={"BertForPreTraining": "masked_lm"},
    copies={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    ignored=(_POSITION_IDS, r"cls\.seq_relationship\..*"),
    required=REQUIRED,
)

ROBERTA = Family(
    shape=_roberta,
    body=_BERT_BODY,
    prefix="roberta.",
    heads={
        "masked_lm": (
            *linear("lm_head.dense", "head/dense"),
            *norm("lm_head.layer_norm", "head/norm"),
            *_output("lm_head.decoder", "lm_head.bias"),
            Rule("lm_head.bias", "head/bias", others=("lm_head.decoder.bias",)),
        ),
        "classification": (*linear("classifier.dense", "head/dense"), *linear("classifier.out_proj", "head/output")),
        "span": tuple(linear("qa_outputs", "head/output")),
        "pooler": tuple(linear("pooler.dense", "head/dense", other="roberta.pooler.dense")),
    },
    architectures={
        "pooler": "RobertaModel",
        "masked_lm": "RobertaForMaskedLM",
        "classification": "RobertaForSequenceClassification",
        "span": "RobertaForQuestionAnswering",
    },
    copies={"lm_head.bias": "lm_head.decoder.bias"},
    ignored=(_POSITION_IDS,),
    required=(*REQUIRED, "pad_token_id"),
)

_D = "transformer.layer.{}"
DISTILBERT = Family(
    shape=_distilbert,
    body=(
        *rule_table("embeddings.word_embeddings", "token_embedding"),
        *rule_table("embeddings.position_embeddings", "encoder/position_embedding"),
        *norm("embeddings.LayerNorm", "encoder/embedding_norm"),
        *attention(f"{_D}.attention", f"{_LAYER}/attention", ("q_lin", "k_lin", "v_lin", "out_lin")),
        *norm(f"{_D}.sa_layer_norm", f"{_LAYER}/attention_norm"),
        *linear(f"{_D}.ffn.lin1", f"{_LAYER}/mlp/up"),
        *linear(f"{_D}.ffn.lin2", f"{_LAYER}/mlp/down"),
        *norm(f"{_D}.output_layer_norm", f"{_LAYER}/mlp_norm"),
    ),
    prefix="distilbert.",
    heads={
        "masked_lm": (
            *linear("vocab_transform", "head/dense"),
            *norm("vocab_layer_norm", "head/norm"),
            *linear("vocab_projector", "head/output"),
            Rule("vocab_projector.bias", "head/bias"),
        ),
        "classification": (*linear("pre_classifier", "head/dense"), *linear("classifier", "head/output")),
        "span": tuple(linear("qa_outputs", "head/output")),
    },
    architectures={
        None: "DistilBertModel",
        "masked_lm": "DistilBertForMaskedLM",
        "classification": "DistilBertForSequenceClassification",
        "span": "DistilBertForQuestionAnswering",
    },
    ignored=(_POSITION_IDS,),
    required=("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim"),
)
