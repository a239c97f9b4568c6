"""Adapters that peft writes are read with its outputs, and those that we write give ours in peft."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.models.adapters import combined, only
from fewshot_jax.models.lora import lora
from tests.models.huggingface.test_peft import perturbed

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from tests.models.huggingface.torch_models import inputs_of, same, saved, torch_model  # noqa: E402

pytestmark = pytest.mark.parity

# Family, head, peft's target modules, our targets.
CASES = [
    ("bert", "classification", ["query", "value"], "query|value"),
    ("bert", "masked_lm", ["query", "intermediate.dense"], "query|mlp/up"),
    ("roberta", "classification", ["key", "output.dense"], "key|attention/out|mlp/down"),
    ("xlm-roberta", "span", ["query", "intermediate.dense"], "query|mlp/up"),
    ("mpnet", "classification", ["q", "v", "output.dense"], "query|value|mlp/down"),
    ("electra", "masked_lm", ["embeddings_project", "key", "output.dense"], "projection|key|attention/out|mlp/down"),
    ("deberta", "classification", ["query_proj", "key_proj"], "query|key"),
    ("deberta-new", "span", ["query_proj", "pos_key_proj", "pos_query_proj"], "query|content"),
    ("distilbert", "span", ["q_lin", "lin2"], "query|mlp/down"),
    ("modernbert", "classification", ["Wqkv", "Wo"], "attention|mlp/down"),
    ("gpt2", "causal_lm", ["c_attn"], "query|value"),
    ("gpt2", "classification", ["c_attn", "c_fc"], "key|up"),
    ("llama", "causal_lm", "all-linear", "attention|mlp"),
    ("gemma2", "classification", ["q_proj", "down_proj"], "query|mlp/down"),
    ("gemma3", "causal_lm", ["k_proj", "gate_proj"], "key|mlp/gate"),
    ("gpt-neox", "causal_lm", ["query_key_value"], "query|value"),
    ("gpt-neox", "classification", ["query_key_value", "dense_h_to_4h"], "key|up"),
    ("smollm3", "span", ["q_proj", "down_proj"], "query|mlp/down"),
    ("t5", "causal_lm", ["q", "v"], "query|value"),
    ("bart", "classification", ["q_proj", "fc1"], "query|up"),
    ("mt5", "causal_lm", ["k", "wi_1"], "key|up"),
    ("marian", "causal_lm", ["q_proj", "fc2"], "query|mlp/down"),
    ("m2m-100", "causal_lm", ["v_proj", "fc1"], "value|up"),
]


def outputs(model, given):
    with torch.no_grad():
        return model.eval()(**{key: torch.tensor(value) for key, value in given.items()})


def compare(ours, out, given):
    mask = None if "decoder_input_ids" in given else given["attention_mask"]
    for field in ("logits", "start_logits", "end_logits"):
        if out.get(field) is not None:
            same(getattr(ours, field), out[field], mask)


def run(pretrained, adapter, trained, given):
    frozen = pretrained.split(adapter)[1]
    return jax.jit(adapter.bind(pretrained.module))(trained, frozen, **jax.tree.map(jnp.asarray, given))


SPECIAL = {
    "gpt2": {"use_rslora": True, "layers_to_transform": [1]},
    "llama": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 5}, "alpha_pattern": {"v_proj": 3}},
    "bart": {"use_rslora": True, "rank_pattern": {"fc1": 4}},
}


@pytest.mark.parametrize(
    ("family", "kind", "theirs", "special"),
    [
        *((family, kind, theirs, {}) for family, kind, theirs, _ in CASES),
        *((family, kind, theirs, SPECIAL[family]) for family, kind, theirs, _ in CASES if family in SPECIAL),
    ],
)
def test_what_peft_writes_gives_its_outputs_here(family, kind, theirs, special, tmp_path):
    base = torch_model(family, kind)
    pretrained = fsj.load_pretrained(saved(base, tmp_path / "base"))
    writes = "SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM"
    task = {"classification": "SEQ_CLS", "causal_lm": writes}.get(kind)
    fused = {"fan_in_fan_out": True} if family == "gpt2" else {}
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=theirs, task_type=task, **fused, **special)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for leaf in model.parameters():
            if leaf.requires_grad:
                leaf.add_(torch.randn_like(leaf) * 0.1)
    given = inputs_of(base, kind)
    expected = outputs(model, given)
    model.save_pretrained(tmp_path / "adapter")
    trained, adapter = fsj.load_adapter(tmp_path / "adapter", pretrained)
    compare(run(pretrained, adapter, trained, given), expected, given)


@pytest.mark.parametrize(
    ("family", "kind", "targets", "alpha"),
    [(family, kind, targets, (None, 3.0)[i % 2]) for i, (family, kind, _, targets) in enumerate(CASES)],
)
def test_what_is_written_here_gives_its_outputs_in_peft(family, kind, targets, alpha, tmp_path):
    base = torch_model(family, kind)
    pretrained = fsj.load_pretrained(saved(base, tmp_path / "base"))
    adapter = lora(rank=2, alpha=alpha, targets=targets)
    if kind in ("classification", "span"):
        adapter = combined(adapter, only("^head/"))
    trained = perturbed(pretrained.split(adapter)[0])
    given = inputs_of(base, kind)
    if kind == "span":
        given.pop("token_type_ids", None)  # peft's model for spans takes them and does not pass them on
    ours = run(pretrained, adapter, trained, given)
    fsj.save_adapter(tmp_path / "adapter", pretrained, trained, adapter)
    before = outputs(base, given)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    after = outputs(model, given)
    compare(ours, after, given)
    field = "logits" if after.get("logits") is not None else "start_logits"
    assert not np.allclose(before[field], after[field], atol=1e-3)


@pytest.mark.parametrize(
    "family",
    [
        *("bert", "roberta", "mpnet", "electra", "electra-untied", "deberta", "deberta-new", "deberta-untied"),
        *("distilbert", "modernbert", "bert-untied"),
    ],
)
def test_a_trained_masked_lm_head_is_saved_and_read(family, tmp_path):
    base = torch_model(family, "masked_lm")
    pretrained = fsj.load_pretrained(saved(base, tmp_path / "base"))
    adapter = combined(lora(rank=2), only("^head/"))
    trained = perturbed(pretrained.split(adapter)[0])
    given = inputs_of(base, "masked_lm")
    ours = run(pretrained, adapter, trained, given)
    fsj.save_adapter(tmp_path / "adapter", pretrained, trained, adapter)
    compare(ours, outputs(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"), given), given)
    again, read = fsj.load_adapter(tmp_path / "adapter", pretrained)
    same(run(pretrained, read, again, given).logits, torch.tensor(np.asarray(ours.logits)), given["attention_mask"])
