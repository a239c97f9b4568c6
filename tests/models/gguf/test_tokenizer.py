"""Tokenizers of GGUF files: the same ids as the tokenizers that were converted into the metadata."""

import random
import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, LlamaConfig

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.pre_tokenizers import SPLITTINGS
from fewshot_jax.models.gguf.vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED
from fewshot_jax.models.huggingface.text_tokenizer import has_tokenizer, load_text_tokenizer, read_tokenizer
from fewshot_jax.notes import Note
from tests.models.gguf.tiny_gguf import write

WORDS = ["the", "cat", "sleeps", "on", "a", "chair,", "it", "doesn't", "wake;", "Der", "Hund", "läuft", "1234", "Meter"]
WORDS += ["in", "56", "s.", "猫", "café", "naïve", "☃", "WE'LL", "x_y\n"]
CORPUS = [" ".join(random.Random(i).choices(WORDS, k=12)) for i in range(200)]
TEXTS = [
    *CORPUS[:20],
    *(
        "",
        " ",
        "   leading",
        "trailing  ",
        "a  b   c    d",
        "tabs\t\tand\n\n\nlines \n",
        "don't DON'T I'LL",
        "日本 🙂 ﬀ",
    ),
    *("".join(random.Random(i).choices("ab the  \n.,12é猫🙂", k=30)) for i in range(100)),
]
TENSORS = {"token_embd.weight": np.zeros((3, 4), np.float32)}


def file_of(path, kind, tokens, metadata, types=None):
    found = {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": tokens, "llama.context_length": 64}
    if types is not None:
        found["tokenizer.ggml.token_type"] = types
    return write(path / "model.gguf", "llama", {**found, **metadata}, TENSORS)


def by_id(tokenizer):
    return [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]


def same_ids(ours, theirs):
    """``theirs``: from a text to its ids."""
    for text in TEXTS:
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs(text), repr(text)


PRE_TOKENIZERS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


def byte_level(pre_tokenizer):
    """A tokenizer as GPT-2's, trained."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>", "<|begin|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def merges_of(tokenizer, path):
    """The merges of a trained tokenizer, as lines."""
    tokenizer.model.save(str(path))
    return (path / "merges.txt").read_text().splitlines()[1:]


@pytest.fixture
def gpt2_file(tmp_path):
    """A function that makes a byte-level tokenizer and writes its file."""

    def make(pre="gpt-2", **metadata):
        tokenizer = byte_level(PRE_TOKENIZERS.get(pre, PRE_TOKENIZERS["gpt-2"]))
        given = {
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.merges": merges_of(tokenizer, tmp_path),
            "tokenizer.ggml.eos_token_id": 0,
            "tokenizer.ggml.bos_token_id": 1,
            **{f"tokenizer.{key}": value for key, value in metadata.items()},
        }
        tokens = by_id(tokenizer)
        types = [CONTROL, CONTROL, *[NORMAL] * (len(tokens) - 2)]
        return tokenizer, file_of(tmp_path, "gpt2", tokens, given, types)

    return make


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_byte_level_tokenizers_give_the_ids_of_the_converted_one(pre, gpt2_file):
    theirs, path = gpt2_file(pre)
    ours = read_tokenizer(path)
    same_ids(ours, lambda text: theirs.encode(text).ids)
    for text in TEXTS:
        assert ours.decode(ours(text)["input_ids"]) == text
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == ("<|begin|>", "<|end|>", None)
    assert ours("a<|end|>b")["input_ids"].count(0) == 1 and ours.decode([0, 1], skip_special_tokens=True) == ""
    assert ours.model_max_length == 64 and ours.is_fast and set(ours("a")) == {"input_ids", "attention_mask"}


def test_what_is_written_around_a_text_is_what_the_file_says(gpt2_file):
    _, path = gpt2_file(**{"ggml.add_bos_token": True, "ggml.add_eos_token": True})
    ours = read_tokenizer(path)
    bare = ours("cat", add_special_tokens=False)["input_ids"]
    assert ours("cat")["input_ids"] == [1, *bare, 0] and ours("cat", "cat")["input_ids"] == [1, *bare, 0] * 2
    _, path = gpt2_file("llama-bpe")  # Llama 3's begin with a token for that
    assert read_tokenizer(path)("cat")["input_ids"] == [1, *bare]


def test_a_token_that_is_none_is_none(gpt2_file):
    _, path = gpt2_file(**{"ggml.padding_token_id": 2**32 - 1})
    assert read_tokenizer(path).pad_token is None


def test_a_chat_template_comes_along(gpt2_file):
    template = "{% for m in messages %}<|begin|>{{ m['content'] }}{% endfor %}"
    _, path = gpt2_file(chat_template=template)
    ours = read_tokenizer(path)
    assert ours.apply_chat_template([{"role": "user", "content": "cat"}], tokenize=False) == "<|begin|>cat"


def test_what_is_saved_is_read_by_transformers_with_the_same_ids(gpt2_file, tmp_path):
    _, path = gpt2_file("smollm", **{"ggml.add_bos_token": True, "chat_template": "{{ messages }}"})
    ours = read_tokenizer(path)
    ours.save_pretrained(tmp_path / "saved")
    LlamaConfig().save_pretrained(tmp_path / "saved")  # whose own kind of tokenizer splits in another way
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [again(text)["input_ids"] for text in TEXTS] == [ours(text)["input_ids"] for text in TEXTS]
    assert again.special_tokens_map == ours.special_tokens_map and again.chat_template == ours.chat_template


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_every_way_to_split_loses_nothing(pre):
    splitting = SPLITTINGS[pre]
    for text in TEXTS:
        pieces = [text[start:end] for _, (start, end) in splitting.pre_tokenizer().pre_tokenize_str(text)]
        assert "".join(pieces) == text
        digits = [piece for piece in pieces if re.search(r"\d", piece)]
        most = 1 if splitting.digits or pre in ("qwen2", "tekken", "stablelm2", "deepseek-r1-qwen") else 3
        assert splitting.pattern is None or all(len(re.findall(r"\d", piece)) <= most for piece in digits)


def test_llama_3_and_qwen_2_split_as_their_own_files_say():
    parts = {
        "llama-bpe": ["Don", "'t", " wait", " ", "123", "456", " ", "7", "...\n\n", " ", " it", "'LL"],
        "qwen2": ["Don", "'t", " wait", " ", *"123456", " ", "7", "...\n\n", " ", " it", "'LL"],
    }
    for pre, expected in parts.items():
        text = "Don't wait 123456 7...\n\n  it'LL"
        found = SPLITTINGS[pre].pre_tokenizer().pre_tokenize_str(text)
        assert [text[start:end] for _, (start, end) in found] == expected


def test_a_file_that_does_not_say_how_to_split_is_read_as_gpt_2_with_a_note(gpt2_file):
    theirs, path = gpt2_file("default")
    with pytest.warns(Note, match="does not say how its tokenizer splits a text"):
        ours = read_tokenizer(path)
    same_ids(ours, lambda text: theirs.encode(text).ids)


SYMBOLS = ("\n", "\n\n", "<sep>", SPACE * 2, SPACE * 3)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A function from whether texts begin with a space to a trained SentencePiece model of the BPE kind."""
    package = pytest.importorskip("sentencepiece")
    made = {}

    def get(prefix):
        if prefix not in made:
            stem = tmp_path_factory.mktemp("pieces") / f"{prefix}"
            package.SentencePieceTrainer.train(
                sentence_iterator=iter([*CORPUS, "aa aaa aaaa aaaaa  aaaa   a"] * 3),
                model_prefix=str(stem),
                model_type="bpe",
                vocab_size=380,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=prefix,
                remove_extra_whitespaces=False,
                user_defined_symbols=[] if prefix else list(SYMBOLS),
                minloglevel=2,
            )
            made[prefix] = package.SentencePieceProcessor(model_file=f"{stem}.model")
        return made[prefix]

    return get


def type_of(model, index):
    flags = {UNKNOWN: model.is_unknown, CONTROL: model.is_control, BYTE: model.is_byte}
    found = next((kind for kind, flag in flags.items() if flag(index)), NORMAL)
    return USER_DEFINED if 2 < index < 8 and model.id_to_piece(index) in SYMBOLS else found


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_with_scores_are_merged_as_sentencepiece_does(prefix, pieces, tmp_path):
    theirs = pieces(prefix)
    types = [type_of(theirs, i) for i in range(len(theirs))]
    tokens = [theirs.id_to_piece(i) for i in range(len(theirs))]
    # llama.cpp's converter writes user-defined tokens with spaces.
    tokens = [
        token.replace(SPACE, " ") if kind == USER_DEFINED else token for token, kind in zip(tokens, types, strict=True)
    ]
    metadata = {
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(len(theirs))],
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    ours = read_tokenizer(file_of(tmp_path, "llama", tokens, metadata, types))
    same_ids(ours, theirs.encode)
    for text in [*TEXTS, "a<sep>b", "aaaaaa aaaaaaa"]:
        ids = theirs.encode(text)
        assert ours(text)["input_ids"] == [1, *ids]  # with the token that begins a text
        assert ours.decode(ids) == text
    assert (ours.unk_token, ours.bos_token, ours.eos_token) == ("<unk>", "<s>", "</s>")


def test_pieces_without_scores_are_merged_in_the_order_of_their_ids(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", *"abc", "bc", "ab"]
    flags = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    ours = read_tokenizer(file_of(tmp_path, "llama", tokens, flags | {"tokenizer.ggml.scores": [-1000.0] * 8}))
    assert ours.tokenize("abc") == ["a", "bc"] and ours.tokenize("aba") == ["ab", "a"]


@pytest.mark.parametrize("cased", [False, True])
def test_word_pieces_are_those_of_bert(cased, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "the", "cat", "sleep", "##s", "##t", "don", "'"]
    words += [
        "t",
        "12",
        "##34",
        ".",
        ",",
        "cafe",
        "café",
        "猫",
        "a",
        "##b",
        "[",
        "b",
        "i",
        *(["Der", "WE"] if cased else []),
    ]
    theirs = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=not cased)
    stored = [
        word if word.startswith("[") and word.endswith("]") else word[2:] if word.startswith("##") else SPACE + word
        for word in words
    ]
    ids = {"seperator": 3, "padding": 0, "cls": 2, "mask": 4, "unknown": 1}
    metadata = {f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items()}
    ours = read_tokenizer(file_of(tmp_path, "bert", stored, metadata))
    same_ids(ours, lambda text: theirs(text, add_special_tokens=False)["input_ids"])
    for text in TEXTS:
        assert dict(ours(text, text)) == dict(theirs(text, text))
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.get_vocab() == theirs.get_vocab()


def test_a_file_without_a_tokenizer_has_none(tmp_path):
    path = file_of(tmp_path, "none", ["a"], {})
    assert not has_tokenizer(path)
    with pytest.raises(UserError, match=r"model.gguf: holds no tokenizer; expected"):
        load_text_tokenizer(path)


BAD = {
    "unknown kind": ("t5", {}, "tokenizer.ggml.model='t5' is not one of bert, gpt2, llama"),
    "unknown splitting": ("gpt2", {"pre": "bloom"}, "tokenizer.ggml.pre='bloom' is not one of"),
    "no merges": ("gpt2", {"pre": "gpt-2"}, "the metadata lacks tokenizer.ggml.merges"),
    "merge of one part": ("gpt2", {"pre": "gpt-2", "merges": ["ab"]}, "the tokenizer cannot be built"),
    "merge of no token": ("gpt2", {"pre": "gpt-2", "merges": ["b c"]}, "the tokenizer cannot be built"),
    "no scores": ("llama", {}, "the metadata lack tokenizer.ggml.scores"),
    "too few scores": ("llama", {"scores": [1.0]}, "tokenizer.ggml.scores=.*: expected 3 numbers"),
    "too few types": ("llama", {"token_type": [1]}, "tokenizer.ggml.token_type=.*: expected 3 numbers"),
    "no token for the end": (
        "gpt2",
        {"pre": "gpt-2", "merges": ["a b"], "eos_token_id": 9},
        "eos_token_id=9: there is no",
    ),
    "no unknown piece": ("bert", {}, "do not say which token is the unk_token"),
    "no list": ("gpt2", {"tokens": "abc"}, "tokenizer.ggml.tokens='abc': expected a list"),
}


@pytest.mark.parametrize("what", BAD)
def test_damaged_metadata_are_refused(what, tmp_path):
    kind, metadata, message = BAD[what]
    given = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    with pytest.raises(UserError, match=f"model.gguf: .*{message}"):
        read_tokenizer(file_of(tmp_path, kind, ["a", "b", "ab"], given))
