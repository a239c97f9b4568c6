"""Gemma 3 without images (arXiv:2503.19786): Gemma 2 with normalised queries and keys, and without soft caps.

Layers that read a window have rotary positions of another base than those that read everything (section 2).
"""

from dataclasses import replace

from fewshot_jax.models.huggingface.family import FamilyConfig, expect
from fewshot_jax.models.huggingface.llama import GEMMA2, gemma_model
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import ModelShape


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    expect(config, "attn_logit_softcapping", None)  # transformers reads the field and does not use it
    return gemma_model(config, kind, qk_norm=True)


GEMMA3 = replace(
    GEMMA2,
    shape=_shape,
    architectures={
        None: "Gemma3TextModel",
        "causal_lm": "Gemma3ForCausalLM",
        "classification": "Gemma3TextForSequenceClassification",
    },
)
