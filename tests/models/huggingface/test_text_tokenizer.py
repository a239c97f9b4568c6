"""Where a tokenizer and a model meet: every id has a row in the embedding, but for padding."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import fewshot_jax as fsj
from fewshot_jax.models.generation import generate
from fewshot_jax.models.huggingface.text_tokenizer import check_rows
from tests.models.huggingface.tiny import VOCABULARY, tiny

WORDS = ["<pad>", "<s>", "</s>", *(f"word{number}" for number in range(VOCABULARY - 3))]


def word_tokenizer(padding="[PAD]", **special):
    """Words with the ids of a tiny model, and a padding token after them that was added without a row."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=padding, eos_token="</s>", **special)


def with_tokenizer(directory, name, kind, tokenizer):
    fsj.save_pretrained(directory, tiny(name, kind))
    tokenizer.save_pretrained(directory)
    return fsj.load_pretrained(directory)


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "causal_lm"), ("bert", None), ("deberta", None), ("t5", "classification")]
)
def test_a_padding_token_without_a_row_changes_nothing_at_real_tokens(name, kind, tmp_path):
    pretrained = with_tokenizer(tmp_path, name, kind, word_tokenizer())
    texts = ["word1 word2 word3 </s>", "word5 </s>"]
    read = pretrained.tokenizer(texts, padding=True, return_tensors="np")
    assert read["input_ids"].max() == VOCABULARY  # the padding token
    apply = lambda ids, mask: pretrained.module.apply({"params": pretrained.params}, ids, mask)  # noqa: E731
    together = apply(jnp.asarray(read["input_ids"]), jnp.asarray(read["attention_mask"]))
    for row, text in enumerate(texts):
        ids = jnp.asarray(pretrained.tokenizer(text, return_tensors="np")["input_ids"])
        alone = apply(ids, jnp.ones_like(ids))
        field = "last_hidden_state" if kind is None else "logits"
        found, expected = getattr(together, field)[row], getattr(alone, field)[0]
        np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-5)


def test_generation_goes_on_beside_a_row_that_has_ended_with_padding_without_a_row(tmp_path):
    pretrained = with_tokenizer(tmp_path, "gpt2", "causal_lm", word_tokenizer())
    ids = jnp.array([[3, 4], [5, VOCABULARY]])
    call = {"max_new_tokens": 6, "pad_id": VOCABULARY}
    first = generate(pretrained.module, pretrained.params, ids, ids < VOCABULARY, **call)
    ends = int(first.ids[0, 1])
    found = generate(pretrained.module, pretrained.params, ids, ids < VOCABULARY, eos_id=ends, **call)
    assert (found.ids[0, 2:] == VOCABULARY).all()
    assert np.isfinite(found.score).all()
    until = int(np.argmax(np.append(first.ids[1] == ends, True))) + 1
    np.testing.assert_array_equal(found.ids[1, :until], first.ids[1, :until])


def test_an_added_token_without_a_row_is_refused_whether_or_not_a_text_has_it(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<new>"])
    pretrained = with_tokenizer(tmp_path, "gpt2", "causal_lm", tokenizer)
    with pytest.raises(fsj.UserError) as error:
        _ = pretrained.tokenizer
    for part in (str(tmp_path), "'<new>' has the id 41", "40 rows", "resize_token_embeddings(42)"):
        assert part in str(error.value)


def test_a_padding_token_that_also_ends_texts_needs_a_row(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.eos_token = "[PAD]"
    with pytest.raises(fsj.UserError, match=r"'\[PAD\]' has the id 40"):
        _ = with_tokenizer(tmp_path, "gpt2", "causal_lm", tokenizer).tokenizer


def test_a_word_that_stands_twice_in_a_vocabulary_is_seen_by_its_ids(tmp_path):
    fsj.save_pretrained(tmp_path, tiny("bert", None))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(VOCABULARY - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:-1], "word0", words[-1]]) + "\n")
    pretrained = fsj.load_pretrained(tmp_path)
    with pytest.raises(fsj.UserError, match=r"'word34' has the id 40.*40 rows.*a token may stand twice"):
        _ = pretrained.tokenizer
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    assert len(fsj.load_pretrained(tmp_path).tokenizer) == VOCABULARY


def test_fewer_tokens_than_rows_are_no_fault():
    check_rows({"a": 0, "b": 38}, 39, "model", padding=None)
    check_rows({"a": 0, "pad": 39}, 39, "model", padding=39)
    with pytest.raises(fsj.UserError, match="2 tokens are beyond it"):
        check_rows({"a": 39, "b": 40, "pad": 41}, 39, "model", padding=41)


INCOMPLETE = {
    "sentencepiece": ("tokenizer.model", b"\n\x05\n\x01a\x15", r"pip install 'fewshot-jax\[sentencepiece\]'"),
    "its other name": ("spm.model", b"\n\x05\n\x01a\x15", r"pip install 'fewshot-jax\[sentencepiece\]'"),
    "tiktoken": ("tokenizer.model", b"IQ== 0\n", "pip install tiktoken"),
    "merges": ("vocab.json", b'{"a": 0}', "no merges.txt"),
    "damaged": ("tokenizer.json", b"{", "cannot be read .*copy its files again"),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_tokenizer_that_cannot_be_read_is_told_what_it_lacks(case, tmp_path, monkeypatch):
    name, content, message = INCOMPLETE[case]
    find = importlib.util.find_spec
    absent = ("sentencepiece", "tiktoken")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else find(name, *more))
    fsj.save_pretrained(tmp_path, tiny("llama", None))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(fsj.UserError, match=message):
        _ = fsj.load_pretrained(tmp_path).tokenizer
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
