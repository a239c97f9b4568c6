"""Marian (Junczys-Dowmunt et al., ACL 2018), the models of OPUS-MT: BART with sinusoidal positions."""

from dataclasses import replace

import numpy as np

from fewshot_jax.models.huggingface.bart import BART, bart_model
from fewshot_jax.models.huggingface.family import FamilyConfig, expect
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.positions import SinusoidalPositions
from fewshot_jax.models.transformer import ModelShape

_POSITIONS = SinusoidalPositions()


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    expect(config, "share_encoder_decoder_embeddings", True)
    expect(config, "decoder_vocab_size", config.vocab_size)
    expect(config, "tie_word_embeddings", True)  # transformers has three tables otherwise
    shape = bart_model(config, None if kind is None else HeadShape(kind=kind), sinusoid=_POSITIONS)
    # Padding starts the decoder and got a row after training: its logit is zero, which may be the largest.
    never = () if config.pad_token_id is None else (config.pad_token_id,)
    return replace(shape, never_ids=never)


def _constants(config: FamilyConfig) -> dict[str, np.ndarray]:
    """The positions, which transformers' model without a head expects in the file."""
    table = _POSITIONS.table(config.max_position_embeddings, config.d_model)
    return {f"{side}.embed_positions.weight": table for side in ("encoder", "decoder")}


MARIAN = replace(
    BART,
    shape=_shape,
    heads={"causal_lm": BART.heads["causal_lm"]},
    architectures={None: "MarianModel", "causal_lm": "MarianMTModel"},
    ignored=(r"(model\.)?(encoder|decoder)\.embed_positions\.weight",),
    constants=_constants,
)
