"""Tokenizers: reproducible, readable by transformers, padded and cut as promised."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

from fewshot_jax.data.tokenization import (
    SPECIAL_TOKENS,
    encode,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from fewshot_jax.errors import UserError

KINDS = ("wordpiece", "word", "bpe")


def tied_texts():
    """Random words of equally frequent letters: almost every merge is a tie."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzßø中文,!"
    words = ["".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(1500)]
    return [" ".join(words[i : i + 5]) for i in range(0, len(words), 5)]


@pytest.fixture(scope="module", params=["wordpiece", "word"])
def tokenizer(request):
    texts = ["Please BOOK the café, now!", "please cancel the booking", "book the table now"]
    return train_tokenizer(texts, kind=request.param, vocab_size=120, min_frequency=1)


def test_special_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))


@pytest.mark.parametrize("kind", KINDS)
def test_more_special_tokens_follow_the_others_and_are_never_split(kind, tmp_path):
    more = [f"<extra_id_{n}>" for n in range(3)]
    made = train_tokenizer(tied_texts(), kind=kind, vocab_size=300, extra_special=more)
    assert [made.token_to_id(token) for token in (*SPECIAL_TOKENS, *more)] == list(range(8))
    assert made.get_vocab_size() <= 300
    save_tokenizer(made, tmp_path)
    ids = made.encode("ab <extra_id_1>").ids
    assert 6 in ids
    assert "extra" not in load_tokenizer(tmp_path).decode(ids), "decoding leaves it out"
    with pytest.raises(UserError, match="choose at least"):
        train_tokenizer(tied_texts(), kind=kind, vocab_size=8, extra_special=more)


def test_a_text_starts_with_cls_and_nothing_follows_it(tokenizer):
    tokens = tokenizer.encode("Book the CAFE now!").tokens
    assert tokens[0] == "[CLS]" and "[SEP]" not in tokens
    assert tokens[-2:] == ["now", "!"]
    assert "[UNK]" not in tokens  # lowercased, accents stripped
    assert tokenizer.encode("book", "table").tokens.count("[SEP]") == 1


def test_an_unknown_word_splits_into_pieces_or_is_unknown():
    texts = ["book table", "book cable"] * 3
    pieces = train_tokenizer(texts).encode("bookable").tokens
    assert pieces[1] == "book" and pieces[2].startswith("##")
    assert train_tokenizer(texts, kind="word").encode("bookable").tokens == ["[CLS]", "[UNK]"]


def test_case_is_kept_on_request():
    tokenizer = train_tokenizer(["Book book"], kind="word", min_frequency=1, lowercase=False)
    ids = tokenizer.encode("Book book").ids
    assert ids[1] != ids[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", [7, 40, 270, 1000])
def test_the_vocabulary_keeps_to_its_size(kind, vocab_size):
    vocab_size = max(vocab_size, 261) if kind == "bpe" else vocab_size
    tokenizer = train_tokenizer(tied_texts(), kind=kind, vocab_size=vocab_size, min_frequency=1)
    assert tokenizer.get_vocab_size() <= vocab_size
    assert kind == "wordpiece" or tokenizer.get_vocab_size() == vocab_size


def test_training_gives_the_same_tokenizer_in_every_process(tmp_path):
    # The wordpiece trainer of tokenizers 0.23 alone fails this: see _wordpiece_vocabulary.
    (tmp_path / "texts.json").write_text(json.dumps(tied_texts()))
    program = f"""
import json
from fewshot_jax.data.tokenization import train_tokenizer
texts = json.load(open({str(tmp_path / "texts.json")!r}))
for kind in {KINDS}:
    print(train_tokenizer(texts, kind=kind, vocab_size=300, min_frequency=1).to_str())
"""
    here = [train_tokenizer(tied_texts(), kind=kind, vocab_size=300, min_frequency=1).to_str() for kind in KINDS]
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == "\n".join(here).splitlines()


@pytest.mark.parametrize("config", [None, {"model_type": "bert"}])
def test_transformers_loads_what_is_saved_and_gives_the_same_ids(tokenizer, tmp_path, config):
    import transformers

    save_tokenizer(tokenizer, tmp_path / "saved")
    if config:
        (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = ["Please book the CAFÉ", "now, now! [MASK] unheard-of", ""]
    ids, lengths = encode(tokenizer, texts, max_length=64)
    batch = theirs(texts, padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], ids)
    np.testing.assert_array_equal(batch["attention_mask"].sum(1), lengths)
    assert theirs.pad_token_id == 0 and theirs.mask_token_id == 4 and theirs.cls_token_id == 2
    ours, _ = encode(load_tokenizer(tmp_path / "saved"), texts, max_length=64)
    np.testing.assert_array_equal(ours, ids)


def test_encoding_pads_with_zeros_to_the_longest(tokenizer):
    ids, lengths = encode(tokenizer, ["book the table now", "book", ""], max_length=64)
    assert ids.dtype == np.int32 and lengths.dtype == np.int32
    assert ids.shape == (3, lengths.max()) and lengths[2] == 1
    np.testing.assert_array_equal(ids != 0, np.arange(ids.shape[1]) < lengths[:, None])
    for row, length, text in zip(ids, lengths, ["book the table now", "book", ""], strict=True):
        assert row[:length].tolist() == tokenizer.encode(text).ids


def test_encoding_cuts_words_but_no_special_tokens(tokenizer):
    long, short = "book the table now please", "book"
    ids, lengths = encode(tokenizer, [long, short], max_length=3)
    assert ids.shape == (2, 3) and lengths[0] == 3
    assert ids[0].tolist() == tokenizer.encode(long).ids[:3]
    assert tokenizer.truncation is None and tokenizer.padding is None


def test_encoding_keeps_a_closing_special_token_of_another_tokenizer():
    from tokenizers.processors import TemplateProcessing

    tokenizer = train_tokenizer(["book the table"], kind="word", min_frequency=1)
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    ids, _ = encode(tokenizer, ["book the table"], max_length=4)
    assert ids[0, 0] == 2 and ids[0, -1] == 3 and ids.shape == (1, 4)


def test_no_texts_give_empty_arrays(tokenizer):
    ids, lengths = encode(tokenizer, [], max_length=8)
    assert ids.shape == (0, 0) and lengths.shape == (0,)


def test_loading_ignores_stored_padding_and_truncation(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    stored = load_tokenizer(tmp_path)
    stored.enable_truncation(2)
    stored.enable_padding(length=9)
    stored.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("book the table").ids == tokenizer.encode("book the table").ids


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([" "], {}, "there is no text"),
        ("a b", {}, "texts is one string"),
        (["a"], {"kind": "char"}, "tokenizer kind 'char': choose 'wordpiece' or 'word' or 'bpe'"),
        (["a"], {"kind": "bpe", "vocab_size": 260}, "vocab_size is 260: choose at least 261"),
        (["a"], {"vocab_size": 6}, "vocab_size is 6: choose at least 7"),
        (["a"], {"min_frequency": 0}, "min_frequency is 0: choose at least 1"),
    ],
)
def test_a_wrong_argument_is_refused(texts, options, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts, **options)


def test_a_max_length_without_room_for_text_is_refused(tokenizer):
    with pytest.raises(UserError, match="max_length is 1: choose at least 2"):
        encode(tokenizer, ["book"], max_length=1)


def test_bytes_give_every_text_back_and_frequent_words_are_one_token(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat", "the dog"] * 3, kind="bpe", vocab_size=300)
    for text in ("The  CAT\n sat,", "nie gesehen: ß 中文 🙂", " ", ""):
        ids = tokenizer.encode(text).ids
        assert ids[0] == SPECIAL_TOKENS.index("[CLS]")
        assert tokenizer.decode(ids) == text
    assert "Ġthe" in tokenizer.get_vocab()
    assert len(tokenizer.encode("on the mat").ids) < len("on the mat")
    save_tokenizer(tokenizer, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("the cat 🙂").input_ids == tokenizer.encode("the cat 🙂").ids
    lower = train_tokenizer(["the cat"], kind="bpe", vocab_size=261, lowercase=True)
    assert lower.decode(lower.encode("THE CAFÉ").ids) == "the cafe"
