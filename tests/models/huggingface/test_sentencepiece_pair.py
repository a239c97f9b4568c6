"""Fast tokenizers of Marian and M2M-100 give the ids and the texts that transformers' slow ones give."""

import importlib.util
import json

import pytest
from transformers import MarianTokenizer

import fewshot_jax as fsj
from fewshot_jax.models.huggingface.text_tokenizer import load_text_tokenizer, read_target_tokenizer
from tests.models.huggingface.sentencepiece_files import write_m2m_100, write_marian

pytest.importorskip("sentencepiece")
pytest.importorskip("google.protobuf")
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXTS = [
    "the cat runs  to london",
    "  the dog ",
    "where is 日本 the 日",
    "it's ﬁne",  # a ligature
    "",
    "the\tchair\nplease",
    "chat▁dog",
    "a </s> the",
    "où est le chat",
]


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    directory = tmp_path_factory.mktemp("marian")
    write_marian(directory)
    return directory


@pytest.fixture(scope="module")
def m2m_100(tmp_path_factory):
    directory = tmp_path_factory.mktemp("m2m")
    write_m2m_100(directory)
    return directory


@pytest.mark.parametrize("text", TEXTS)
def test_both_sides_of_marian_are_those_of_transformers(text, marian):
    theirs = MarianTokenizer.from_pretrained(marian)
    source, target = load_text_tokenizer(marian), read_target_tokenizer(marian)
    assert source(text)["input_ids"] == theirs(text)["input_ids"]
    ids = theirs(text_target=text)["input_ids"]
    assert target.encode(text).ids == ids
    assert target.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True).strip()


def test_what_the_other_side_writes_is_read_too(marian):
    source, target = load_text_tokenizer(marian), read_target_tokenizer(marian)
    for text in ("the cat sleeps", "where is the station"):
        assert target.decode(source(text)["input_ids"]) == text  # pieces that only the source has
    assert (source.eos_token_id, source.unk_token_id) == (0, 1)
    assert source.pad_token_id == source.vocab_size - 1


def test_a_language_before_a_source_is_one_token(marian):
    theirs, ours = MarianTokenizer.from_pretrained(marian), load_text_tokenizer(marian)
    assert ours(">>fra<< the cat")["input_ids"] == theirs(">>fra<< the cat")["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_m2m_100_is_that_of_transformers(text, m2m_100):
    from transformers import M2M100Tokenizer

    theirs, ours = M2M100Tokenizer.from_pretrained(m2m_100, src_lang="fr"), load_text_tokenizer(m2m_100)
    language, *ids = theirs(text)["input_ids"]
    assert ours(text)["input_ids"] == ids
    assert ours.convert_tokens_to_ids("__fr__") == language
    assert ours.decode(ids, skip_special_tokens=True).strip() == theirs.decode(ids, skip_special_tokens=True).strip()
    assert read_target_tokenizer(m2m_100) is None


def test_a_missing_package_is_named_with_its_extra(marian, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else found(name))
    with pytest.raises(fsj.UserError, match=r"source.spm: reading it takes the package sentencepiece.*jax\[sentencep"):
        load_text_tokenizer(marian)


def damaged(directory):
    (directory / "target.spm").write_bytes(b"\n\xff\xff")


def empty(directory):
    (directory / "target.spm").write_bytes(b"")


def without_end(directory):
    edit(directory / "vocab.json", {"</s>": None})


def bad_ids(directory):
    edit(directory / "vocab.json", {"▁le": "two"})


def separate(directory):
    edit(directory / "tokenizer_config.json", {"separate_vocabs": True})


def no_json(directory):
    (directory / "vocab.json").write_text("{")


def edit(file, changes):
    found = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, r"target.spm: is no SentencePiece model"),
        (empty, r"target.spm: is no SentencePiece model \(it has no pieces\)"),
        (without_end, r"vocab.json: lacks </s>"),
        (bad_ids, r"vocab.json: expected a JSON object of tokens and their ids"),
        (separate, r"vocabulary of its own \(separate_vocabs\)"),
        (no_json, r"vocab.json: cannot be read"),
    ],
)
def test_damaged_files_are_named(spoil, message, tmp_path):
    write_marian(tmp_path)
    spoil(tmp_path)
    with pytest.raises(fsj.UserError, match=message):
        read_target_tokenizer(tmp_path)


def test_pieces_of_bpe_without_an_id_are_refused(tmp_path):
    write_m2m_100(tmp_path)
    edit(tmp_path / "vocab.json", {"▁the": None})
    with pytest.raises(fsj.UserError, match=r"1 of its pieces have no id in vocab.json \('▁the' is the first\)"):
        load_text_tokenizer(tmp_path)
