"""New models of small sizes in the formats of known families, so that what is trained here is read elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp

from fewshot_jax.models.huggingface.family import FamilyConfig
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.transformer import Architecture, Transformer
from fewshot_jax.types import Params

LANGUAGE_MODEL: dict[Architecture, HeadKind] = {
    "encoder": "masked_lm",
    "decoder": "causal_lm",
    "encoder_decoder": "causal_lm",
}


def new_module(
    architecture: Architecture,
    *,
    vocab_size: int,
    width: int,
    layers: int,
    heads: int,
    mlp_width: int,
    head: HeadKind | None = None,
    num_labels: int = 2,
    pad_id: int = 0,
    bos_id: int = 2,
    eos_id: int = 3,
    dropout: float = 0.0,
    compute_dtype: Any = jnp.float32,
) -> tuple[FamilyConfig, Transformer, HeadKind]:
    """Return the config, module and kind of head of a new model: ModernBERT (encoder), Llama (decoder) or T5 (both).

    All three have positions without a limit of length, norms before the layers and gated units.
    Has more than 8 parameters because the three families' configs have other names for each size.

    Args:
        architecture: which stacks.
        vocab_size: of the tokenizer, ``V``.
        width, layers, heads, mlp_width: sizes; of "encoder_decoder", ``layers`` of each stack.
        head: None for the one that predicts tokens.
        num_labels: classes of a classification.
        pad_id, bos_id, eos_id: special tokens; the decoder of two stacks starts with ``pad_id``, as T5 does.
        dropout: rate.
        compute_dtype: of the computation, on float32 parameters.

    Raises:
        UserError: the sizes contradict each other.
    """
    from transformers import CONFIG_MAPPING

    tokens = {"pad_token_id": pad_id, "bos_token_id": bos_id, "eos_token_id": eos_id}
    families: dict[Architecture, tuple[str, dict[str, Any]]] = {
        "encoder": (
            "modernbert",
            {
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "intermediate_size": mlp_width,
                "global_attn_every_n_layers": 1,
                "mlp_dropout": dropout,
                "cls_token_id": bos_id,
                "sep_token_id": eos_id,
            },
        ),
        "decoder": (
            "llama",
            {
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": heads,
                "intermediate_size": mlp_width,
                "tie_word_embeddings": True,
            },
        ),
        "encoder_decoder": (
            "t5",
            {
                "d_model": width,
                "d_kv": width // heads,
                "num_layers": layers,
                "num_decoder_layers": layers,
                "num_heads": heads,
                "d_ff": mlp_width,
                "feed_forward_proj": "gated-gelu",
                "dropout_rate": dropout,
                "decoder_start_token_id": pad_id,
            },
        ),
    }
    family, sizes = families[architecture]
    config = CONFIG_MAPPING[family].from_dict({"vocab_size": vocab_size, "num_labels": num_labels, **sizes, **tokens})
    kind = LANGUAGE_MODEL[architecture] if head is None else head
    return config, build(config, kind, compute_dtype), kind


def new_model(architecture: Architecture, *, seed: int = 0, **sizes: Any) -> Pretrained:
    """A model that has learned nothing yet.

    Args:
        architecture: which stacks.
        seed: of the parameters.
        sizes: as of `new_module`.

    Raises:
        UserError: the sizes contradict each other.
    """
    config, module, head = new_module(architecture, **sizes)
    return Pretrained(config=config, module=module, params=new_params(module, jax.random.key(seed)), head=head)


def new_params(module: Any, key: jax.Array) -> Params:
    """Initial parameters; where attention scores are not scaled (T5), the queries are."""
    params = initial_params(module, key)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * _query_scale(module, path) if _is_query(path) else leaf, params
    )


def _is_query(path: tuple[Any, ...]) -> bool:
    return [key.key for key in path[-2:]] == ["query", "kernel"]


def _query_scale(module: Any, path: tuple[Any, ...]) -> float:
    stack = module.shape.encoder if path[0].key == "encoder" else module.shape.decoder
    own = stack.block.features_of_head**-0.5
    return own if stack.block.score_scale == 1.0 else 1.0
