"""GGUF files read by transformers with torch, and directories written from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from tests.models.gguf.tiny_gguf import model_of, parts_of, write, write_tiny

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(0).integers(3, 40, (2, 12))
# What transformers does not read from the file.
NOT_READ = {
    "gemma2": {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7},
    "gemma3": {"query_pre_attn_scalar": 8, "rope_parameters": model_of("gemma3").config.rope_parameters},
    "gpt2": {"n_positions": 32},
    "qwen3": {"head_dim": 6},
}


def ours(path, ids=IDS):
    pretrained = fsj.load_pretrained(path)
    return jax.jit(pretrained.module.apply)({"params": pretrained.params}, jnp.asarray(ids))


def theirs(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids))


def same(first, second):
    second = second.numpy()
    np.testing.assert_allclose(first, second, atol=1e-5 * max(1, np.abs(second).max()), rtol=0)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt2", "llama", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers_own_reader(name, tmp_path):
    _, metadata, tensors = parts_of(name, tmp_path)
    metadata["tokenizer.ggml.tokens"] = [f"{i}" for i in range(40)]  # which it counts
    path = write(tmp_path / "a.gguf", name, metadata, tensors)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager", **NOT_READ.get(name, {})
    )
    same(ours(path).logits, theirs(model).logits)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "llama-tied", "qwen3"])
def test_transformers_reads_what_is_saved_from_a_gguf_file(name, tmp_path):
    _, path = write_tiny(name, tmp_path)
    fsj.save_pretrained(tmp_path / "saved", fsj.load_pretrained(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    same(ours(path).logits, theirs(model).logits)


def test_transformers_divides_frequencies_by_the_factors_of_a_file(tmp_path):
    _, metadata, tensors = parts_of("llama", tmp_path)
    factors = {"rope_freqs.weight": np.array([2.0, 1.5, 3.0], np.float32)}
    path = write(tmp_path / "a.gguf", "llama", metadata, tensors | factors)
    plain = ours(write(tmp_path / "b.gguf", "llama", metadata, tensors)).logits
    fsj.save_pretrained(tmp_path / "saved", fsj.load_pretrained(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    same(ours(path).logits, theirs(model).logits)
    assert np.abs(plain - ours(path).logits).max() > 1e-3


def test_an_encoder_is_that_which_was_converted(tmp_path):
    _, path = write_tiny("bert", tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path / "huggingface", attn_implementation="eager")
    same(ours(path).last_hidden_state, theirs(model).last_hidden_state)
