"""Checkpoints of GGUF files: names and layouts of transformers, and damaged files."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.checkpoint import GGUFCheckpoint
from fewshot_jax.models.gguf.file import read_file
from fewshot_jax.models.huggingface.text_tokenizer import read_tokenizer
from tests.models.gguf.tiny_gguf import parts_of, write, write_tiny

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581", "\u2581a", "<0x0A>", "[UNK]", "[CLS]", "[SEP]"]
METADATA = {
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1, 6, 1, 1, 1],
    "tokenizer.ggml.scores": [-float(i) for i in range(12)],
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.add_bos_token": True,
}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_tensors_have_the_names_and_layouts_of_transformers(name, tmp_path):
    _, path = write_tiny(name, tmp_path)
    expected = load_file(tmp_path / "huggingface" / "model.safetensors")
    with GGUFCheckpoint(path) as checkpoint:
        assert checkpoint.tensors.keys() == expected.keys()
        for one, array in expected.items():
            assert checkpoint.tensors[one].shape == array.shape
            np.testing.assert_array_equal(checkpoint.view(one), array)
            checkpoint.release(one)
            np.testing.assert_array_equal(checkpoint.view(one), array)
        with pytest.raises(KeyError):
            checkpoint.view("nobody")


def test_several_threads_may_read(tmp_path):
    _, path = write_tiny("llama", tmp_path)
    expected = load_file(tmp_path / "huggingface" / "model.safetensors")
    with GGUFCheckpoint(path) as checkpoint, ThreadPoolExecutor(4) as pool:
        names = list(expected) * 20
        for name, found in zip(names, pool.map(checkpoint.view, names), strict=True):
            np.testing.assert_array_equal(found, expected[name])


@pytest.mark.filterwarnings("ignore::fewshot_jax.notes.Note")
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_damaged_header_is_read_or_refused(kind, tmp_path):
    _, metadata, tensors = parts_of("llama", tmp_path)
    given = metadata | METADATA | {"tokenizer.ggml.model": kind}
    path = write(tmp_path / "model.gguf", "llama", given, tensors)
    raw, rng, found = path.read_bytes(), random.Random(0), set()
    end = min(tensor.start for tensor in read_file(path).tensors.values())
    for _ in range(250):
        changed = bytearray(raw)
        for place in rng.choices(range(end), k=rng.choice([1, 1, 2])):
            changed[place] = rng.choice([0, 1, 255, changed[place] ^ 1 << rng.randrange(8)])
        path.write_bytes(changed)
        found |= {outcome(read_all, path), outcome(tokenize, path)}
    assert found == {(read_all, "read"), (read_all, "refused"), (tokenize, "read"), (tokenize, "refused")}


def read_all(path):
    with GGUFCheckpoint(path) as checkpoint:
        for name in checkpoint.tensors:
            checkpoint.view(name)


def tokenize(path):
    tokenizer = read_tokenizer(path)
    tokenizer.decode(tokenizer("ab a\nb")["input_ids"])


def outcome(read, path):
    message = ""
    try:
        read(path)
    except UserError as error:
        message = str(error)
    assert message.startswith(str(path)) or not message
    return read, "refused" if message else "read"
