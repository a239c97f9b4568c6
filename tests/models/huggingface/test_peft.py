"""LoRA in peft's format: what one side writes the other computes with, and wrong files are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import fewshot_jax as fsj
from fewshot_jax.models.adapters import combined, only
from fewshot_jax.models.lora import lora
from tests.models.huggingface.tiny import VOCABULARY, tiny

IDS = np.random.default_rng(0).integers(3, VOCABULARY, (4, 6))
EVERY = "attention/(query|key|value|out)|mlp/(up|gate|down)"


def perturbed(tree):
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(structure, [leaf + jnp.float32(rng.normal(0, 0.2, leaf.shape)) for leaf in leaves])


def run(pretrained, trained, adapter):
    return jax.jit(adapter.bind(pretrained.module))(trained, pretrained.split(adapter)[1], jnp.asarray(IDS))


@pytest.mark.parametrize(
    ("family", "kind", "targets", "with_head"),
    [
        ("bert", "classification", "query|value", True),
        ("bert", "classification", EVERY, False),
        ("gpt2", "causal_lm", "query|value", False),
        ("gpt2", "classification", "query|mlp", True),
        ("modernbert", "classification", "key|mlp/up", True),
        ("qwen2", "causal_lm", EVERY, False),
    ],
)
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_what_is_saved_computes_the_same_when_it_is_loaded(family, kind, targets, with_head, alpha, tmp_path):
    pretrained = tiny(family, kind)
    adapter = lora(rank=2, alpha=alpha, targets=targets)
    if with_head:
        adapter = combined(adapter, only("^head/"))
    trained = perturbed(pretrained.split(adapter)[0])
    fsj.save_adapter(tmp_path, pretrained, trained, adapter)
    again, read = fsj.load_adapter(tmp_path, pretrained)
    given, expected = run(pretrained, again, read), run(pretrained, trained, adapter)
    np.testing.assert_allclose(given.logits, expected.logits, rtol=1e-5, atol=1e-5)
    plain = jax.jit(pretrained.module.apply)({"params": pretrained.params}, jnp.asarray(IDS))
    assert jnp.abs(expected.logits - plain.logits).max() > 0.01
    has_head = any(path.startswith("head/") for path in flatten_dict(again, sep="/"))
    assert has_head == (kind == "classification"), "a classifier's head goes with it, trained or not"


def write(path, **fields):
    pretrained = tiny("bert", "classification")
    adapter = lora(rank=2)
    fsj.save_adapter(path, pretrained, perturbed(pretrained.split(adapter)[0]), adapter)
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return pretrained


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' is not supported"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"r": 0}, "r=0: expected a positive integer"),
        ({"r": None}, "r=None: expected a positive integer"),
        ({"lora_alpha": "much"}, "lora_alpha='much': expected a positive number"),
        ({"lora_alpha": 0}, "lora_alpha=0: expected a positive number"),
        ({"rank_pattern": {"(": 2}}, "not a regular expression"),
        ({"rank_pattern": [2]}, "rank_pattern is not a JSON object"),
        ({"alpha_pattern": {"query": None}}, "expected a positive number"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base model's weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=.* is not supported"),
        (
            {"r": 3},
            r"does not fit the model, which is bert .*\n.*lora_A.weight has shape \[2, 16\].* expected shape \[3",
        ),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(fields, message, tmp_path):
    pretrained = write(tmp_path, **fields)
    with pytest.raises(fsj.UserError, match=message):
        fsj.load_adapter(tmp_path, pretrained)


def test_files_that_are_not_there_or_no_json_are_named(tmp_path):
    pretrained = write(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(fsj.UserError, match=r"neither adapter_model\.safetensors"):
        fsj.load_adapter(tmp_path, pretrained)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(fsj.UserError, match="is not JSON"):
        fsj.load_adapter(tmp_path, pretrained)
    with pytest.raises(fsj.UserError, match=r"adapter_config\.json: cannot be read"):
        fsj.load_adapter(tmp_path / "nowhere", pretrained)


def test_another_model_or_another_head_is_refused_with_all_names(tmp_path):
    write(tmp_path)
    with pytest.raises(fsj.UserError, match=r"(is not LoRA of the model's body, nor its head.*\n.*){15}"):
        fsj.load_adapter(tmp_path, tiny("gpt2", "classification"))
    with pytest.raises(fsj.UserError, match=r"base model with the adapter's head(.*\n)*.*classifier.weight has shape"):
        fsj.load_adapter(tmp_path, tiny("bert", "classification", num_labels=7))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (only("^head/"), "has no LoRA"),
        (combined(lora(rank=2), only("norm")), r"not .*norm/scale \(not LoRA of this model or its head\)"),
        (lora(rank=2, targets="dense|query"), r"head/dense/lora_a \(LoRA of the head\)"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(adapter, message, tmp_path):
    pretrained = tiny("bert", "classification")
    with pytest.raises(ValueError, match=message):
        fsj.save_adapter(tmp_path, pretrained, pretrained.split(adapter)[0], adapter)


def test_shapes_that_are_not_one_tasks_are_refused_with_all_names(tmp_path):
    pretrained, adapter = tiny("llama", "causal_lm"), lora(rank=2)
    trained = pretrained.split(adapter)[0]
    for tree, message in [
        (jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), trained), r"one task's tree is saved\), .*one task's tree"),
        (jax.tree.map(lambda leaf: leaf[:2], trained), r"shape \(2, 16, 2\), expected \(3, 16, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            fsj.save_adapter(tmp_path, pretrained, tree, adapter)
    trained["decoder"]["blocks"]["attention"]["query"].pop("lora_b")
    with pytest.raises(ValueError, match=r"query/lora_a \(without its lora_b\)"):
        fsj.save_adapter(tmp_path, pretrained, trained, adapter)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["gpt2", "modernbert", "llama"])
def test_saving_and_loading_again_and_again_changes_no_leaf(family, tmp_path):
    pretrained, adapter = tiny(family, "classification"), lora(rank=2, targets="query|value|mlp")
    trained = perturbed(pretrained.split(adapter)[0])
    fsj.save_adapter(tmp_path, pretrained, trained, adapter)
    first, read = fsj.load_adapter(tmp_path, pretrained)
    body = {path: leaf for path, leaf in flatten_dict(first, sep="/").items() if not path.startswith("head/")}
    assert body.keys() == flatten_dict(trained, sep="/").keys()
    for path, leaf in flatten_dict(trained, sep="/").items():
        np.testing.assert_array_equal(leaf, body[path])
    fsj.save_adapter(tmp_path / "again", pretrained, first, read)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_pickled_adapter_is_refused_with_a_way_to_convert_it(tmp_path):
    pretrained = write(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(fsj.UserError, match=r"pickles least of all.*PeftModel.from_pretrained\(base"):
        fsj.load_adapter(tmp_path, pretrained)
