"""A text encoder of our own in the format of a known family, which transformers reads with the same numbers.

With norms before the layers it is XLM-RoBERTa-XL, with norms after them BERT, but for what these have beside: a row of
positions for padding, and token types. Both are written as zeros.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from fewshot_jax.models.huggingface.bert import BERT
from fewshot_jax.models.huggingface.family import Family, FamilyConfig
from fewshot_jax.models.huggingface.mapping import Rule
from fewshot_jax.models.huggingface.pretrained import Pretrained
from fewshot_jax.models.huggingface.xlm_roberta_xl import XLM_ROBERTA_XL
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.layers import NormOrder
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape, Transformer
from fewshot_jax.types import Params

_STACK = "encoder/"


def _flat(family: Family, *, rows_before: int = 0) -> Family:
    """Return a family's rules for a flat encoder, whose positions have so many rows of zeros before them."""

    def shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
        given = family.shape(config, kind)
        stack = replace(cast(StackShape, given.encoder), position_offset=0, positions_skip_padding=False, token_types=0)
        return replace(given, encoder=stack, flat=True)

    def own(rule: Rule) -> Rule:
        before = rows_before if rule.target == f"{_STACK}position_embedding/embedding" else 0
        return replace(rule, target=rule.target.removeprefix(_STACK), before=before)

    def constants(config: FamilyConfig) -> dict[str, np.ndarray]:
        return {"embeddings.token_type_embeddings.weight": np.zeros((1, config.hidden_size), np.float32)}

    return replace(family, shape=shape, body=tuple(map(own, family.body)), constants=constants)


# The model_type and the rules for each order of norms. XLM-RoBERTa's first row is of padding, whose id is 0.
FORMATS: dict[NormOrder, tuple[str, Family]] = {
    "pre": ("xlm-roberta-xl", _flat(XLM_ROBERTA_XL, rows_before=1)),
    "post": ("bert", _flat(BERT)),
}


def config_of(shape: ModelShape, tokens: Mapping[str, int]) -> FamilyConfig:
    """Return the config of transformers for a text encoder.

    Args:
        shape: from `text_encoder.text_encoder_shape`.
        tokens: ids of special tokens by the config's names, such as ``bos_token_id``.
    """
    from transformers import CONFIG_MAPPING

    stack = shape.last
    block, (model_type, _) = stack.block, FORMATS[stack.block.order]
    assert stack.max_length is not None and shape.pad_id is not None
    fields = {
        "vocab_size": shape.vocab_size,
        "hidden_size": block.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": block.heads,
        "intermediate_size": block.mlp_width,
        "max_position_embeddings": stack.max_length + (shape.pad_id + 1 if block.order == "pre" else 0),
        "type_vocab_size": 1,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": block.norm_epsilon,
        "hidden_dropout_prob": block.dropout,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": shape.pad_id,
    }
    return CONFIG_MAPPING[model_type].from_dict({**fields, **tokens})


def exported_text_encoder(
    module: Transformer, params: Params, *, tokens: Mapping[str, int], path: Path | None = None
) -> Pretrained:
    """Return a text encoder as `save_pretrained` takes it, without the context of a task.

    Args:
        module: of the text encoder.
        params: its parameters.
        tokens: ids of special tokens, see `config_of`.
        path: directory of its tokenizer.
    """
    shape = module.shape
    bare = replace(shape, encoder=replace(shape.last, context_width=0))
    return Pretrained(
        config=config_of(shape, tokens),
        module=Transformer(bare),
        params={name: leaf for name, leaf in params.items() if name != "context"},
        path=path,
        layout=FORMATS[shape.last.block.order][1],
    )
