"""Tokenizers that are a SentencePiece model alone have the ids that SentencePiece gives, as each family counts them."""

import json

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

import fewshot_jax as fsj
from fewshot_jax.models.huggingface.text_tokenizer import has_tokenizer, load_text_tokenizer
from tests.models.huggingface.tiny import VOCABULARY, tiny

LINES = ["the cat ate the hat", "a hen ran at the cart", "she has tea then rest", "there are ten trees 12 13"] * 9
TEXTS = [
    *("the cat ate ten hats", "zebra eats  ½ tea ", " the\ncat\tran", "", "Hé nets 12 13!"),
    # Letters and spaces that SentencePiece's own table makes plain ones.
    *("ｔｈｅ　ｃａｔ", "the\u00a0cat\u200bran", "① ② tea\u0301", "the\x07 rest"),
]
_DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]"}
_T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def _as_xlm(ids):
    return [0, *(3 if index == 0 else index + 1 for index in ids), 2]


def _as_camembert(ids):
    return [5, *(3 if index == 0 else index + 4 for index in ids), 6]


# model_type: the file, the tokenizer's class, how its SentencePiece was trained, ids from those of SentencePiece
LAYOUTS = {
    "xlm-roberta": ("sentencepiece.bpe.model", "XLMRobertaTokenizer", {}, _as_xlm),
    "camembert": ("sentencepiece.bpe.model", "CamembertTokenizer", {}, _as_camembert),
    "deberta-v2": (
        *("spm.model", "DebertaV2Tokenizer", {**_DEBERTA, "eos_piece": "[SEP]", "unk_piece": "[UNK]"}),
        lambda ids: [1, *ids, 2],
    ),
    "t5": ("spiece.model", "T5Tokenizer", _T5, lambda ids: [*ids, 1]),
    "mt5": ("spiece.model", "T5Tokenizer", _T5, lambda ids: [*ids, 1]),
}


def sentencepiece_model(directory, file, **options):
    """A SentencePiece model of 30 pieces at most."""
    with (directory / file).open("wb") as writer:
        SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=writer, vocab_size=30, hard_vocab_limit=False, **options
        )
    return SentencePieceProcessor(model_file=str(directory / file))


def write_tokenizer(directory, model_type, **more):
    file, name, options, _ = LAYOUTS[model_type]
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **more}))
    return sentencepiece_model(directory, file, **options, minloglevel=2)


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_ids_are_those_of_sentencepiece(model_type, tmp_path):
    theirs = write_tokenizer(tmp_path, model_type)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert has_tokenizer(tmp_path)
    ours = load_text_tokenizer(tmp_path)
    (tmp_path / "again").mkdir()
    ours.save_pretrained(tmp_path / "again")
    again = load_text_tokenizer(tmp_path / "again")  # from tokenizer.json
    for text in TEXTS:
        expected = LAYOUTS[model_type][3](theirs.encode(text))
        assert ours(text)["input_ids"] == again(text)["input_ids"] == expected, text
        assert ours.backend_tokenizer.encode(text).ids == expected


def test_a_damaged_model_is_told_so(tmp_path):
    fsj.save_pretrained(tmp_path, tiny("deberta", None))
    (tmp_path / "spm.model").write_bytes(b"\n\x05\n")
    with pytest.raises(fsj.UserError, match=r"spm.model: is no SentencePiece model .*copy it again"):
        _ = fsj.load_pretrained(tmp_path).tokenizer


def with_added(directory, added, kind=None):
    """A DeBERTa whose tokenizer is a SentencePiece model and tokens that were added after its pieces."""
    fsj.save_pretrained(directory, tiny("deberta", kind))
    theirs = write_tokenizer(directory, "deberta-v2")
    tokens = ["[MASK]", *added(len(theirs))]
    (directory / "added_tokens.json").write_text(json.dumps({t: len(theirs) + i for i, t in enumerate(tokens)}))
    return fsj.load_pretrained(directory), theirs


def test_an_added_token_with_a_row_is_read_by_it(tmp_path):
    pretrained, theirs = with_added(tmp_path, lambda pieces: ["<cat>"])
    new = len(theirs) + 1
    assert new < VOCABULARY
    read = pretrained.tokenizer("the<cat> ran")["input_ids"]
    assert read == [1, *theirs.encode("the"), new, *theirs.encode("ran"), 2]
    apply = lambda params: pretrained.module.apply({"params": params}, np.array([read])).last_hidden_state  # noqa: E731
    table = pretrained.params["token_embedding"]["embedding"]
    moved = {**pretrained.params, "token_embedding": {"embedding": table.at[new, 0].add(1.0)}}
    assert not np.allclose(apply(pretrained.params), apply(moved))


def test_an_added_token_without_a_row_is_refused(tmp_path):
    pretrained, _ = with_added(tmp_path, lambda pieces: [f"<new{i}>" for i in range(VOCABULARY - pieces)])
    with pytest.raises(fsj.UserError, match=r"has the id 40, and the model's embedding has 40 rows"):
        _ = pretrained.tokenizer


@pytest.mark.parametrize("inside", [False, True])
def test_a_chat_template_goes_along(inside, tmp_path):
    template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    fsj.save_pretrained(tmp_path / "base", tiny("deberta", None))
    write_tokenizer(tmp_path / "base", "deberta-v2", **({"chat_template": template} if inside else {}))
    if not inside:
        (tmp_path / "base" / "chat_template.jinja").write_text(template)
    fsj.save_pretrained(tmp_path / "copy", fsj.load_pretrained(tmp_path / "base"))
    tokenizer = fsj.load_pretrained(tmp_path / "copy").tokenizer
    assert tokenizer.chat_template == template
    said = tokenizer.apply_chat_template([{"role": "user", "content": "tea"}], tokenize=False)
    assert said == "user: tea"
