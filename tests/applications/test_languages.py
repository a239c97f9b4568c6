"""Languages of translation models: tokens stand around texts as their tokenizers put them there; mistakes are named."""

import json

import jax
import numpy as np
import pytest
from transformers import CONFIG_MAPPING, M2M100Tokenizer, MarianTokenizer, NllbTokenizer, PreTrainedTokenizerFast

import fewshot_jax as fsj
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.applications.writing import batch_of
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.examples import Example
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params
from tests.applications.test_text_model import bert_template, words
from tests.models.huggingface.sentencepiece_files import write_m2m_100, write_marian

LANGUAGES = ["eng_Latn", "fra_Latn", "deu_Latn"]
NLLB = {"source_language": "deu_Latn", "target_language": "fra_Latn"}
SIZES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def nllb(languages=LANGUAGES):
    """A tokenizer of NLLB's kind with a few words."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"whorteijan"]
    merges = [(word[:i], word[i]) for word in ("▁who", "▁wrote", "▁it", "▁jane") for i in range(1, len(word))]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *map("".join, merges)]))}
    return NllbTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), extra_special_tokens=languages)


def marian():
    """Words in which two languages of the target are tokens."""
    tokenizer = words(template=None)
    tokenizer.add_tokens([">>fra<<", ">>deu<<"])
    return tokenizer


@pytest.fixture(scope="module")
def nllb_directory(tmp_path_factory):
    return directory_of(tmp_path_factory.mktemp("nllb"), "m2m_100", nllb())


def directory_of(path, model_type, tokenizer, **fields):
    config = CONFIG_MAPPING[model_type](**SIZES, vocab_size=len(tokenizer), **fields)
    module = build(config, "causal_lm", np.float32)
    params = initial_params(module, jax.random.key(0))
    fsj.save_pretrained(path, Pretrained(config=config, module=module, params=params, head="causal_lm"))
    tokenizer.save_pretrained(str(path))
    return path


def open_model(path, directory=None, **tokenizer):
    sizes = {"max_length": 16, "buckets": [16], "target_max_length": 8, "target_buckets": [8]}
    config = from_dict(
        {
            "application": "translation",
            "model": {"pretrained": str(path), "architecture": "encoder_decoder"},
            "learner": {"name": "maml"},
            "data": {"source": "files", "path": "x"},
            "tokenizer": {**sizes, **tokenizer},
        }
    )
    return TextModel.open(config, directory)


def test_nllb_reads_and_writes_what_its_tokenizer_says(nllb_directory):
    codec = open_model(nllb_directory, **NLLB).codec
    (source, target), *_ = codec.encode([Example("jane wrote it", "who")])
    theirs = nllb()
    theirs.src_lang, theirs.tgt_lang = "deu_Latn", "fra_Latn"
    expected = theirs("jane wrote it", text_target="who")
    assert source.tolist() == expected["input_ids"]
    assert target.tolist() == expected["labels"]
    assert codec.target_begin == (theirs.convert_tokens_to_ids("fra_Latn"),)
    assert codec.decode(np.array([target])) == ["who"]


def test_a_long_target_keeps_its_language_and_its_end(nllb_directory):
    codec = open_model(nllb_directory, **NLLB, target_max_length=4, target_buckets=[4]).codec
    ((_, target),) = codec.encode([Example("it", "who who who who")])
    assert (len(target), target[0], target[-1]) == (4, codec.target_begin[0], codec.end)
    assert codec.cut == [0, 1]


def test_what_is_written_follows_the_language(nllb_directory):
    model = open_model(nllb_directory, **NLLB)
    functions = model.functions(training=False)
    params = functions.init_params(jax.random.key(0))
    drawn = [Drawn([Example("jane", "who")], [Example("it", "jane")])]
    batch = {name: leaf[0] for name, leaf in batch_of(drawn, model.codec, 1, 1).query.items()}
    written = jax.jit(functions.write_fn)(params, batch, jax.random.key(0))
    assert written.ids.shape == (1, 7)  # with the language eight tokens
    before = np.array([[2, *model.codec.target_begin]])
    out = model.module.apply({"params": params}, batch["input_ids"], batch["attention_mask"], decoder_input_ids=before)
    assert written.ids[0, 0] == out.logits[0, -1].argmax()


def test_the_language_is_kept_with_a_run_and_absent_in_one_of_before(nllb_directory, tmp_path):
    model = open_model(nllb_directory, **NLLB)
    model.save(tmp_path)
    fsj.save_pretrained(tmp_path / "model", fsj.load_pretrained(nllb_directory))
    again = open_model(nllb_directory, tmp_path, **NLLB).codec
    assert (again.begin, again.middle, again.target_begin) == (
        model.codec.begin,
        model.codec.middle,
        model.codec.target_begin,
    )
    file = tmp_path / "tokenizer" / "codec.json"
    around = json.loads(file.read_text())
    del around["target_begin"]
    file.write_text(json.dumps(around))
    assert open_model(nllb_directory, tmp_path, **NLLB).codec.target_begin == ()


def test_marian_is_told_the_language_of_the_target_before_the_source(tmp_path):
    tokenizer = marian()
    directory_of(tmp_path, "marian", tokenizer)
    codec = open_model(tmp_path, target_language="fra").codec
    (pair,) = codec.encode([Example("jane wrote it", "who")])
    source, target = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (">>fra<< jane wrote it", "who")
    )
    assert pair[0].tolist() == [*source, 2]
    assert pair[1].tolist() == [*target, 2]
    assert open_model(tmp_path, target_language=">>deu<<").codec.begin == (tokenizer.convert_tokens_to_ids(">>deu<<"),)


def test_m2m_100_reads_and_writes_what_its_tokenizer_says(tmp_path):
    pytest.importorskip("sentencepiece")
    size = write_m2m_100(tmp_path)
    config = CONFIG_MAPPING["m2m_100"](**SIZES, vocab_size=size + 108)  # languages, and rows that nothing uses
    module = build(config, "causal_lm", np.float32)
    params = initial_params(module, jax.random.key(0))
    fsj.save_pretrained(tmp_path, Pretrained(config=config, module=module, params=params, head="causal_lm"))
    codec = open_model(tmp_path, source_language="en", target_language="__fr__").codec
    ((source, target),) = codec.encode([Example("the cat", "le chat")])
    theirs = M2M100Tokenizer.from_pretrained(tmp_path, src_lang="en", tgt_lang="fr")
    expected = theirs("the cat", text_target="le chat")
    assert (source.tolist(), target.tolist()) == (expected["input_ids"], expected["labels"])
    assert codec.decode(np.array([target])) == ["le chat"]


@pytest.mark.parametrize(("file", "field"), [("generation_config.json", 0), ("config.json", 0), (None, None)])
def test_a_token_that_an_answer_is_forced_to_begin_with_begins_every_target(file, field, tmp_path):
    directory_of(tmp_path, "bart", words(template=bert_template()))
    if file is not None:
        old = json.loads((tmp_path / file).read_text()) if (tmp_path / file).exists() else {}
        (tmp_path / file).write_text(json.dumps({**old, "forced_bos_token_id": field}))
    codec = open_model(tmp_path).codec
    assert codec.target_begin == (() if field is None else (field,))


def test_a_translation_tokenizer_without_languages_is_refused(tmp_path):
    directory_of(tmp_path, "m2m_100", nllb(["<other>"]))
    with pytest.raises(UserError, match=r"lacks the tokens of its languages; put the tokenizer.json"):
        open_model(tmp_path)


MISTAKES = {
    "no source": ("m2m_100", {"target_language": "fra_Latn"}, r"source_language: .* knows 3 languages .*deu_Latn, eng"),
    "no target": ("m2m_100", {"source_language": "fra_Latn"}, r"tokenizer.target_language: .* must be told"),
    "unknown": (
        "m2m_100",
        {**NLLB, "target_language": "fr"},
        r"target_language=fr: is no language.*nearest are fra_Lat",
    ),
    "no languages": ("bart", {"target_language": "fra"}, r"target_language=fra: the tokenizer .* knows no languages"),
    "one side": ("marian", {"target_language": "fra", "source_language": "eng"}, "the language of the target alone"),
    "none": ("marian", {}, r"tokenizer.target_language: .* knows 2 languages .* one of deu, fra"),
    "short": (
        "m2m_100",
        {**NLLB, "target_max_length": 1, "target_buckets": [1]},
        "no room for a target beside 1 special",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_with_languages_is_named(case, tmp_path):
    model_type, options, message = MISTAKES[case]
    made = {"m2m_100": nllb, "marian": marian, "bart": lambda: words(template=bert_template())}
    directory_of(tmp_path, model_type, made[model_type]())
    with pytest.raises(UserError, match=message):
        open_model(tmp_path, **options)


def test_a_new_model_has_no_languages():
    with pytest.raises(UserError, match=r"tokenizer.source_language=eng: only a pretrained model of two stacks"):
        from_dict({"application": "translation", "tokenizer": {"kind": "bpe", "source_language": "eng"}})


def test_pieces_of_words_are_no_languages(tmp_path):
    tokenizer = words(template=bert_template())
    vocab = tokenizer.get_vocab() | {"abc_Defg": len(tokenizer)}
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    raw["model"]["vocab"] = vocab
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(raw)))
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>", "sep_token": "</s>"})
    directory_of(tmp_path, "bart", tokenizer)
    assert open_model(tmp_path).codec.target_begin == ()


def marian_pair(path):
    """A Marian model with two tokenizers in SentencePiece's files."""
    path.mkdir()
    size = write_marian(path)
    config = CONFIG_MAPPING["marian"](**{**SIZES, "eos_token_id": 0, "pad_token_id": size - 1}, vocab_size=size)
    module = build(config, "causal_lm", np.float32)
    params = initial_params(module, jax.random.key(0))
    model = Pretrained(config=config, module=module, params=params, head="causal_lm", path=path)
    fsj.save_pretrained(path, model)
    return path


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_a_model_with_two_tokenizers_reads_with_one_and_writes_with_the_other(tmp_path):
    pytest.importorskip("sentencepiece")
    path = marian_pair(tmp_path / "model")
    model = open_model(path, max_length=32, buckets=[32], target_max_length=24, target_buckets=[24])
    theirs = MarianTokenizer.from_pretrained(path)
    expected = theirs(">>fra<< where is the station", text_target="où est la gare")
    ((source, target),) = model.codec.encode([Example("where is the station", "où est la gare")])
    assert source.tolist() == expected["input_ids"]
    assert target.tolist() == expected["labels"]
    assert model.codec.decode(np.array([target])) == ["où est la gare"]
    model.save(tmp_path / "run")
    fsj.save_pretrained(tmp_path / "run" / "model", fsj.load_pretrained(path))
    for again in (open_model(path, tmp_path / "run"), open_model(tmp_path / "run" / "model")):
        ((read, written),) = again.codec.encode([Example("the dog", "le chien")])
        assert (read.tolist(), written.tolist()) == tuple(theirs(">>fra<< the dog", text_target="le chien").values())[
            ::2
        ]
