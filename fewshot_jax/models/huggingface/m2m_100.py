"""M2M-100 (Fan et al., JMLR 2021) and NLLB (arXiv:2207.04672): BART with norms before the layers.

Their positions are sinusoidal and count the tokens that are no padding.
"""

from dataclasses import replace

from fewshot_jax.models.huggingface.bart import BART, bart_model
from fewshot_jax.models.huggingface.family import FamilyConfig, expect
from fewshot_jax.models.huggingface.mapping import linear, norm
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.positions import SinusoidalPositions
from fewshot_jax.models.transformer import ModelShape


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    expect(config, "tie_word_embeddings", True)  # transformers has three tables otherwise
    return bart_model(
        config,
        None if kind is None else HeadShape(kind=kind, bias=False),
        block={"order": "pre"},
        final_norm=True,
        sinusoid=SinusoidalPositions(inclusive=True),
        position_offset=config.pad_token_id + 1,
        positions_skip_padding=True,
    )


M2M_100 = replace(
    BART,
    shape=_shape,
    body=(
        *BART.body,
        *norm("encoder.layer_norm", "encoder/final_norm"),
        *norm("decoder.layer_norm", "decoder/final_norm"),
    ),
    heads={"causal_lm": tuple(linear("lm_head", "head/output"))},
    architectures={None: "M2M100Model", "causal_lm": "M2M100ForConditionalGeneration"},
    ignored=(r"(model\.)?(encoder|decoder)\.embed_positions\.weights?",),
    optional=(),
)
