"""ELECTRA (Clark et al., ICLR 2020, arXiv:2003.10555): BERT whose embeddings may be narrower than its layers.

The discriminator is read without the layers that tell which tokens were replaced.
"""

from dataclasses import replace

from fewshot_jax.models.huggingface.bert import BERT, REQUIRED, bert_head, bert_stack
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.mapping import Rule, linear, norm
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import ModelShape


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    stack = bert_stack(config)
    if config.embedding_size != config.hidden_size:
        stack = replace(stack, embedding_width=config.embedding_size)
    head = bert_head(kind, config, "gelu", "gelu")
    return ModelShape(vocab_size=config.vocab_size, encoder=stack, head=head, pad_id=config.pad_token_id)


ELECTRA = Family(
    shape=_shape,
    body=(*BERT.body, *linear("embeddings_project", "encoder/embedding_projection")),
    prefix="electra.",
    heads={
        "masked_lm": (
            *linear("generator_predictions.dense", "head/dense"),
            *norm("generator_predictions.LayerNorm", "head/norm"),
            *linear("generator_lm_head", "head/output"),
            Rule("generator_lm_head.bias", "head/bias"),
        ),
        "classification": (*linear("classifier.dense", "head/dense"), *linear("classifier.out_proj", "head/output")),
        "span": tuple(linear("qa_outputs", "head/output")),
    },
    architectures={
        None: "ElectraModel",
        "masked_lm": "ElectraForMaskedLM",
        "classification": "ElectraForSequenceClassification",
        "span": "ElectraForQuestionAnswering",
    },
    readable={"ElectraForPreTraining": None},
    ignored=(r"(.*\.)?embeddings\.(position_ids|token_type_ids)",),
    required=(*REQUIRED, "embedding_size"),
)
