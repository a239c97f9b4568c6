"""The same numbers as transformers with torch, family by family."""

import jax
import jax.numpy as jnp
import pytest

import fewshot_jax as fsj
from fewshot_jax.models.attention import Attention
from fewshot_jax.models.block import Block
from fewshot_jax.models.disentangled import Disentangled
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.layers import FeedForward
from tests.models.huggingface.tiny import CONFIGS

torch = pytest.importorskip("torch")
from tests.models.huggingface.torch_models import inputs_of, run, same, saved, torch_model  # noqa: E402

pytestmark = pytest.mark.parity

CASES = [
    (name, kind)
    for name, (model_type, _) in CONFIGS.items()
    for kind in FAMILIES[model_type].architectures
    if not (name == "modernbert-mean" and kind == "masked_lm")
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_are_those_of_transformers(name, kind, tmp_path):
    model = torch_model(name, kind)
    given = inputs_of(model, kind)
    with torch.no_grad():
        theirs = model(**{key: torch.tensor(value) for key, value in given.items()}, output_hidden_states=True)
    pretrained = fsj.load_pretrained(saved(model, tmp_path))
    assert pretrained.head == kind
    assert pretrained.created == ()
    ours = run(pretrained, given)
    mask = None if "decoder_input_ids" in given or model.config.is_encoder_decoder else given["attention_mask"]
    hidden = (theirs.get("decoder_hidden_states") or theirs.hidden_states)[-1]
    same(ours.last_hidden_state, hidden, mask)
    for field in ("last_hidden_state", "logits", "start_logits", "end_logits", "pooler_output"):
        if theirs.get(field) is not None:
            same(getattr(ours, field), theirs[field], mask)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_is_saved_is_what_was_loaded(name, kind, tmp_path):
    model = torch_model(name, kind)
    pretrained = fsj.load_pretrained(saved(model, tmp_path / "theirs"))
    fsj.save_pretrained(tmp_path / "ours", pretrained)
    again, report = type(model).from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys()
    unused = () if model.config.tie_word_embeddings else FAMILIES[CONFIGS[name][0]].copies.keys()
    for key, value in theirs.items():
        assert key in unused or torch.equal(value, ours[key]), key
    given = {key: torch.tensor(value) for key, value in inputs_of(model, kind).items()}
    with torch.no_grad():
        for a, b in zip(model(**given).values(), again.eval()(**given).values(), strict=True):
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b)


# Of a base model: names of the torch modules whose outputs are those of our attention, feed-forward layers and block.
_LLAMA = {"decoder": ("layers.{}.self_attn.o_proj", "layers.{}.mlp", "layers.{}")}
_BERT = {"encoder": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense", "encoder.layer.{}")}
_T5 = {
    "encoder": (
        "encoder.block.{}.layer.0.SelfAttention.o",
        "encoder.block.{}.layer.1.DenseReluDense",
        "encoder.block.{}",
    ),
    "decoder": (
        "decoder.block.{}.layer.0.SelfAttention.o",
        "decoder.block.{}.layer.2.DenseReluDense",
        "decoder.block.{}",
        "decoder.block.{}.layer.1.EncDecAttention.o",
    ),
}
_BART = {
    "encoder": ("encoder.layers.{}.self_attn.out_proj", "encoder.layers.{}.fc2", "encoder.layers.{}"),
    "decoder": (
        "decoder.layers.{}.self_attn.out_proj",
        "decoder.layers.{}.fc2",
        "decoder.layers.{}",
        "decoder.layers.{}.encoder_attn.out_proj",
    ),
}
PARTS = {
    "bert": _BERT,
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "electra", "deberta-v2"), _BERT),
    "mpnet": {"encoder": ("encoder.layer.{}.attention.attn.o", "encoder.layer.{}.output.dense", "encoder.layer.{}")},
    "distilbert": {
        "encoder": ("transformer.layer.{}.attention.out_lin", "transformer.layer.{}.ffn", "transformer.layer.{}")
    },
    "modernbert": {"encoder": ("layers.{}.attn.Wo", "layers.{}.mlp", "layers.{}")},
    "gpt2": {"decoder": ("h.{}.attn.c_proj", "h.{}.mlp", "h.{}")},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"), _LLAMA),
    "gpt_neox": {"decoder": ("layers.{}.attention.dense", "layers.{}.mlp", "layers.{}")},
    **dict.fromkeys(("t5", "mt5"), _T5),
    **dict.fromkeys(("bart", "marian", "m2m_100"), _BART),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_of_every_layer_is_that_of_transformers(name, tmp_path):
    model_type = CONFIGS[name][0]
    kind = None if None in FAMILIES[model_type].architectures else "pooler"
    model = torch_model(name, kind)
    given, seen = inputs_of(model, kind), {}

    def keep(name):
        return lambda _, inputs, output: seen.__setitem__(name, output[0] if isinstance(output, tuple) else output)

    for module_name, module in model.named_modules():
        module.register_forward_hook(keep(module_name))
    with torch.no_grad():
        model(**{key: torch.tensor(value) for key, value in given.items()})
    pretrained = fsj.load_pretrained(saved(model, tmp_path))
    _, state = pretrained.module.apply(
        {"params": pretrained.params},
        **jax.tree.map(jnp.asarray, given),
        capture_intermediates=lambda module, _: isinstance(module, Attention | FeedForward | Block),
        mutable=["intermediates"],
    )
    for stack, names in PARTS[model_type].items():
        blocks = state["intermediates"][stack]["blocks"]
        parts = [blocks["attention"], blocks["mlp"], blocks, *([blocks["cross_attention"]] if len(names) == 4 else [])]
        mask = given["attention_mask"] if stack == "encoder" or "decoder_input_ids" not in given else None
        for part, theirs in zip(parts, names, strict=True):
            (ours,) = part["__call__"]
            ours = ours[0] if isinstance(ours, tuple) else ours
            assert len(ours) == getattr(pretrained.module.shape, stack).layers
            for layer, output in enumerate(ours):
                same(output, seen[theirs.format(layer)], mask)


@pytest.mark.parametrize(("span", "farthest"), [(256, 512), (64, 512), (8, 32)])
def test_distances_have_the_rows_of_debertas_buckets(span, farthest):
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = torch.arange(farthest + 99, -farthest - 100, -1)
    theirs = torch.clamp(make_log_bucket_position(distances, span, farthest).long() + span, 0, 2 * span - 1)
    ours = Disentangled(span=span, farthest=farthest).rows(farthest + 100)
    assert ours.tolist() == theirs.tolist()
