"""GPT-NeoX (Black et al., arXiv:2204.06745) and Pythia (Biderman et al., arXiv:2304.01373)."""

from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of, rotary_of
from fewshot_jax.models.huggingface.gpt2 import DECODER_HEADS, decoder_head
from fewshot_jax.models.huggingface.mapping import fused, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind
from fewshot_jax.models.layer_kinds import LayerKind
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_LAYER = "decoder/blocks"


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    block = BlockShape(
        width=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        parallel=config.use_parallel_residual,
        norm_epsilon=config.layer_norm_eps,
        activation=activation_of(config.hidden_act),
        attention_bias=config.attention_bias,
        out_bias=config.attention_bias,
        dropout=config.hidden_dropout,
    )
    decoder = StackShape(
        block=block,
        layers=config.num_hidden_layers,
        causal=True,
        kinds=(LayerKind(rotary=rotary_of(config.rope_parameters, partial=True)),),
        final_norm=True,
    )
    head = decoder_head(config, kind)
    return ModelShape(vocab_size=config.vocab_size, decoder=decoder, head=head, pad_id=config.pad_token_id)


GPT_NEOX = Family(
    shape=_shape,
    body=(
        *rule_table("embed_in", "token_embedding"),
        *norm("layers.{}.input_layernorm", f"{_LAYER}/attention_norm"),
        *fused(
            "layers.{}.attention.query_key_value",
            [f"{_LAYER}/attention/{part}" for part in ("query", "key", "value")],
            by_head=True,
        ),
        *linear("layers.{}.attention.dense", f"{_LAYER}/attention/out", inputs=2),
        *norm("layers.{}.post_attention_layernorm", f"{_LAYER}/mlp_norm"),
        *linear("layers.{}.mlp.dense_h_to_4h", f"{_LAYER}/mlp/up"),
        *linear("layers.{}.mlp.dense_4h_to_h", f"{_LAYER}/mlp/down"),
        *norm("final_layer_norm", "decoder/final_norm"),
    ),
    prefix="gpt_neox.",
    heads={**DECODER_HEADS, "causal_lm": tuple(linear("lm_head", "head/output", other="embed_out"))},
    architectures={
        None: "GPTNeoXModel",
        "causal_lm": "GPTNeoXForCausalLM",
        "classification": "GPTNeoXForSequenceClassification",
        "span": "GPTNeoXForQuestionAnswering",
    },
    written={"lm_head.weight": "embed_out.weight"},
    ignored=(r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    required=("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
)
