"""SmolLM3 (Hugging Face, 2025): Llama whose every fourth layer has no positions.

References:
    Yang et al. RoPE to NoPE and Back Again. arXiv:2501.18795 (layers without positions).
"""

from dataclasses import replace

from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.family import FamilyConfig, activation_of
from fewshot_jax.models.huggingface.llama import LLAMA, llama_model, named_like_llama, windowed_layers
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import ModelShape


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    if len(config.no_rope_layers) < config.num_hidden_layers:
        raise UserError(
            f"config.json: no_rope_layers has {len(config.no_rope_layers)} entries, expected one for each of the "
            f"{config.num_hidden_layers} layers"
        )
    windowed = windowed_layers(config)
    with_positions = windowed["kinds"]
    without = tuple(replace(one, rotary=None) for one in with_positions)
    stack = {
        "kinds": (*with_positions, *without),
        "pattern": tuple(
            which if rotary else len(with_positions) + which
            for which, rotary in zip(windowed["pattern"], config.no_rope_layers, strict=False)
        ),
    }
    block = {
        "attention_bias": config.attention_bias,
        "out_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "activation": activation_of(config.hidden_act),
    }
    return llama_model(config, kind, block=block, stack=stack)


SMOLLM3 = replace(LLAMA, shape=_shape, architectures=named_like_llama("SmolLM3"))
