"""GPT-2 (Radford et al., 2019)."""

from fewshot_jax.models.huggingface.family import Family, FamilyConfig, activation_of, expect
from fewshot_jax.models.huggingface.mapping import Rule, conv1d, linear, norm, rule_table
from fewshot_jax.models.language_head import HeadKind, HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape

_LAYER = "decoder/blocks"

DECODER_HEADS: dict[HeadKind, tuple[Rule, ...]] = {
    "causal_lm": tuple(linear("lm_head", "head/output")),
    "classification": tuple(linear("score", "head/output")),
    "span": tuple(linear("qa_outputs", "head/output")),
}


def decoder_head(config: FamilyConfig, kind: HeadKind | None, **options: float | None) -> HeadShape | None:
    """The heads of a decoder: one linear layer each."""
    if kind is None:
        return None
    tied = bool(config.tie_word_embeddings)
    return HeadShape(
        kind=kind,
        labels=config.num_labels,
        pooling="last",
        bias=kind == "span",
        tied=tied,
        **options if kind == "causal_lm" else {},  # type: ignore[arg-type]
    )


def _shape(config: FamilyConfig, kind: HeadKind | None) -> ModelShape:
    for name, value in (
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
        ("scale_attn_weights", True),
    ):
        expect(config, name, value)
    block = BlockShape(
        width=config.n_embd,
        heads=config.n_head,
        mlp_width=4 * config.n_embd if config.n_inner is None else config.n_inner,
        norm_epsilon=config.layer_norm_epsilon,
        activation=activation_of(config.activation_function),
        dropout=config.resid_pdrop,
    )
    stack = StackShape(block=block, layers=config.n_layer, causal=True, max_length=config.n_positions, final_norm=True)
    return ModelShape(vocab_size=config.vocab_size, decoder=stack, head=decoder_head(config, kind))


GPT2 = Family(
    shape=_shape,
    body=(
        *rule_table("wte", "token_embedding"),
        *rule_table("wpe", "decoder/position_embedding"),
        *norm("h.{}.ln_1", f"{_LAYER}/attention_norm"),
        *conv1d("h.{}.attn.c_attn", f"{_LAYER}/attention/query", part=0),
        *conv1d("h.{}.attn.c_attn", f"{_LAYER}/attention/key", part=1),
        *conv1d("h.{}.attn.c_attn", f"{_LAYER}/attention/value", part=2),
        *conv1d("h.{}.attn.c_proj", f"{_LAYER}/attention/out", inputs=2),
        *norm("h.{}.ln_2", f"{_LAYER}/mlp_norm"),
        *conv1d("h.{}.mlp.c_fc", f"{_LAYER}/mlp/up"),
        *conv1d("h.{}.mlp.c_proj", f"{_LAYER}/mlp/down"),
        *norm("ln_f", "decoder/final_norm"),
    ),
    prefix="transformer.",
    heads=DECODER_HEADS,
    architectures={
        None: "GPT2Model",
        "causal_lm": "GPT2LMHeadModel",
        "classification": "GPT2ForSequenceClassification",
        "span": "GPT2ForQuestionAnswering",
    },
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),
    required=("vocab_size", "n_embd", "n_layer", "n_head"),
)
