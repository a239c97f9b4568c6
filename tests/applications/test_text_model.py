"""Pretrained models that differ from the usual ones: few positions, a padding token without a row, other separators."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

import fewshot_jax as fsj
from fewshot_jax.adaptation.classifier import AdaptedClassifier, load
from fewshot_jax.adaptation.named import find_model
from fewshot_jax.adaptation.readers import NameReader
from fewshot_jax.adaptation.start import start_of
from fewshot_jax.adaptation.writer import Writer
from fewshot_jax.applications.label_scoring import one_task
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.applications.writing import batch_of
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.examples import Example
from fewshot_jax.data.loader import encode_texts
from fewshot_jax.data.spans import encode_windows
from fewshot_jax.data.squad import Question
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = ["who", "wrote", "it", "jane", "did", "please", "open", "copy", "then", "now"]
ROWS = len(SPECIAL) + len(WORDS)
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TOKENS = {"vocab_size": ROWS, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CONFIGS = {
    "bert": {**SIZES, **TOKENS, "max_position_embeddings": 16},
    "roberta": {**SIZES, **TOKENS, "max_position_embeddings": 18, "type_vocab_size": 1},
    "deberta-v2": {
        **SIZES,
        **TOKENS,
        "relative_attention": True,
        "pos_att_type": ["c2p"],
        "position_biased_input": False,
    },
    "gpt2": {**TOKENS, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20},
    "bart": {
        **TOKENS,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 12,
        "decoder_start_token_id": 2,
    },
}


def words(padding="<pad>", template=None):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        tokenizer.post_processor = template
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": padding}
    if template is not None:
        special |= {"cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def bert_template():
    tokens = [("<s>", 0), ("</s>", 2)]
    return processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=tokens)


def roberta_template():
    return processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)


def directory_of(path, name, head, tokenizer, **fields):
    config = CONFIG_MAPPING[name](**{**CONFIGS[name], **fields})
    module = build(config, head, np.float32)
    params = initial_params(module, jax.random.key(0))
    fsj.save_pretrained(path, Pretrained(config=config, module=module, params=params, head=head))
    tokenizer.save_pretrained(str(path))
    return path


def model_of(path, architecture, **sections):
    given = {
        "application": "question_answering",
        "model": {"pretrained": str(path), "architecture": architecture},
        "learner": {"name": "maml"},
        "data": {"source": "files", "path": "x"},
        "tokenizer": {"max_length": 32, "buckets": [8, 32], "target_max_length": 16, "target_buckets": [8, 16]},
        **sections,
    }
    config = from_dict(given)
    return config, TextModel.open(config)


LONG = "who wrote it jane did please open copy then now " * 4


@pytest.mark.parametrize(("name", "template"), [("bert", bert_template), ("roberta", roberta_template)])
def test_a_question_and_its_context_are_read_as_the_tokenizer_reads_a_pair(name, template, tmp_path):
    tokenizer = words(template=template())
    directory_of(tmp_path, name, "span", tokenizer)
    _, model = model_of(tmp_path, "encoder")
    (windows,) = encode_windows(model.codec, [Question("jane did", "who wrote it", (), "", "")])
    assert windows.ids[0].tolist() == tokenizer("who wrote it", "jane did")["input_ids"]
    (long,) = encode_windows(model.codec, [Question(LONG, LONG, (), "", "")])
    assert len(long.ids[0]) == 16  # the positions of either model
    assert model.codec.buckets == (8, 16)
    assert model.codec.cut == [2, 0]


@pytest.mark.parametrize(("name", "template"), [("bert", bert_template), ("roberta", roberta_template)])
def test_a_text_alone_is_read_as_the_tokenizer_reads_it(name, template, tmp_path):
    tokenizer = words(template=template())
    directory_of(tmp_path, name, None, tokenizer)
    codec = start_of(find_model(tmp_path)).model.codec
    assert codec.sources(["jane wrote it"])[0].tolist() == tokenizer("jane wrote it")["input_ids"]


def test_an_added_token_is_read_by_its_row_and_refused_without_one(tmp_path):
    tokenizer = words(template=bert_template())
    tokenizer.add_tokens(["jane_ate"])
    directory_of(tmp_path, "deberta-v2", None, tokenizer, vocab_size=ROWS + 1)
    codec = start_of(find_model(tmp_path)).model.codec
    assert codec.sources(["who jane_ate it"])[0].tolist() == [0, 4, ROWS, 6, 2]
    directory_of(tmp_path, "deberta-v2", None, tokenizer)
    with pytest.raises(UserError, match=rf"'jane_ate' has the id {ROWS}, and the model's embedding has {ROWS} rows"):
        start_of(find_model(tmp_path))


def test_a_padding_token_without_a_row_gives_way_to_the_end(tmp_path):
    directory_of(tmp_path, "deberta-v2", None, words("[PAD]", bert_template()))
    assert fsj.load_pretrained(tmp_path).tokenizer.pad_token_id == ROWS
    codec = start_of(find_model(tmp_path)).model.codec
    assert (codec.pad, codec.rows) == (codec.end, ROWS)


def test_the_lengths_of_two_stacks_are_each_its_own(tmp_path):
    directory_of(tmp_path, "bart", "causal_lm", words(template=bert_template()))
    codec = model_of(tmp_path, "encoder_decoder")[1].codec
    assert (codec.max_length, codec.target_max_length) == (12, 12)
    assert (codec.buckets, codec.target_buckets) == ((8, 12), (8, 12))


def test_a_source_and_its_target_share_the_positions_of_a_decoder(tmp_path):
    directory_of(tmp_path, "gpt2", "causal_lm", words("[PAD]"))
    _, model = model_of(tmp_path, "decoder")
    codec = model.codec
    assert (codec.max_length, codec.target_max_length) == (10, 10)
    assert codec.pad == codec.end  # '[PAD]' has no row
    tasks = [Drawn([Example(LONG, LONG), Example("who [PAD] it", "jane")], [Example("copy", "now")])]
    support = {name: leaf[0] for name, leaf in batch_of(tasks, codec, 2, 1).support.items()}
    assert max(leaf.max() for leaf in support.values()) < ROWS
    assert codec.cut == [1, 1]
    functions = model.functions(training=False)
    written = jax.jit(functions.write_fn)(functions.init_params(jax.random.key(0)), support, jax.random.key(0))
    assert np.isfinite(written.nats).all()
    assert written.ids.shape == (2, 10)


def test_examples_that_a_decoder_has_no_positions_for_are_refused(tmp_path):
    directory_of(tmp_path, "gpt2", "causal_lm", words())
    _, model = model_of(tmp_path, "decoder", learner={"name": "metaicl"})
    functions = model.functions(training=False)
    episode = batch_of([Drawn([Example("who", "jane")] * 3, [Example("copy", "now")])], model.codec, 3, 1)
    support, query = ({name: leaf[0] for name, leaf in side.items()} for side in episode)
    params = functions.init_params(jax.random.key(0))
    with pytest.raises(UserError, match=r"tokens of examples.*20 positions; give fewer examples"):
        jax.eval_shape(functions.output_fn, params, functions.join_fn(support, query), jax.random.key(0))


def in_context(path, example, **changes):
    """A writer and a classifier of a model of 20 positions, with an example twice before each text."""
    sizes = {"max_length": 6, "buckets": [3, 6], "target_max_length": 3, "target_buckets": [3], **changes}
    directory_of(path, "gpt2", "causal_lm", words())
    config, model = model_of(path, "decoder", learner={"name": "metaicl"}, tokenizer=sizes)
    params = model.functions(training=False).init_params(jax.random.key(0))
    drawn = [Drawn([example] * 2, [Example("copy", "now")])]
    support = {name: leaf[0] for name, leaf in batch_of(drawn, model.codec, 2, 1).support.items()}
    writer = Writer({"params": params, "support": support}, model, config)
    reader = NameReader(model, [example.target, "now"])
    support = one_task(model.codec, model.codec.sources([example.source] * 2), reader.names, np.zeros(2, np.int32))
    return writer, AdaptedClassifier({"params": params, "support": support}, ["jane", "now"], config, reader)


def test_padding_of_examples_takes_no_positions_of_an_adapted_model(tmp_path):
    writer, classifier = in_context(
        tmp_path, Example("who", "jane"), buckets=[6]
    )  # 8 tokens in 18 slots, and 9 slots of a text
    for model, outputs in ((writer, writer.predict(["open"])), (classifier, classifier.predict_proba(["open"]))):
        model.check()
        assert len(outputs) == 1
    functions = writer.model.functions(training=False)
    drawn = [Drawn([Example("who", "jane")] * 2, [Example("open", "now")])]
    support, query = (
        {name: leaf[0] for name, leaf in side.items()} for side in batch_of(drawn, writer.model.codec, 2, 1)
    )
    expected, found = (
        functions.output_fn(writer.adapted["params"], functions.join_fn(one, query), None).nats
        for one in (support, writer.adapted["support"])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    many = {name: np.repeat(leaf, 5, axis=0) for name, leaf in support.items()}  # known arrays: tokens are counted
    with pytest.raises(UserError, match=r"40 tokens of examples and 4 of a text and its target: the model has 20"):
        functions.output_fn(writer.adapted["params"], functions.join_fn(many, query), None)


def test_examples_that_leave_no_positions_for_the_longest_text_are_refused_when_they_are_adapted_to(tmp_path):
    # 12 tokens in as many slots: after them a text of 3 tokens and its target fit, and one of 6 does not.
    for model in in_context(tmp_path, Example("who wrote", "jane did")):
        with pytest.raises(UserError, match=r"12 tokens of examples and 9 of a text.*20 positions; give fewer"):
            model.check()


def test_a_classifier_of_few_positions_is_adapted_saved_and_refused_with_a_token_too_many(tmp_path, capsys):
    directory, model, data = (
        directory_of(tmp_path / "bert", "bert", None, words(template=bert_template())),
        tmp_path / "m",
        tmp_path / "data.csv",
    )
    data.write_text(f"text,label\njane wrote it,a\nplease open,b\n{LONG}jane,a\n{LONG}copy,b\n", encoding="utf-8")
    call = ["adapt", str(directory), "--data", str(data), "--output", str(model), "--folds", "0", "--save", "adapted"]
    assert main(call) == 0
    assert "2 texts longer than 16 tokens; the rest is not read" in capsys.readouterr().err
    assert main(["predict", str(model), "--input", str(data)]) == 0
    out = capsys.readouterr()
    assert "2 texts longer than 16 tokens" in out.err and "NaN" not in out.out
    tokenizer = Tokenizer.from_file(str(model / "tokenizer" / "tokenizer.json"))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(model / "tokenizer" / "tokenizer.json"))
    with pytest.raises(UserError, match=r"'<new>' has the id 14.*14 rows"):
        load(model)
    words(template=bert_template()).save_pretrained(str(directory))
    larger = words(template=bert_template())
    larger.add_tokens(["<new>"])
    larger.save_pretrained(str(directory))
    with pytest.raises(UserError, match=r"'<new>' has the id 14.*14 rows"):
        start_of(find_model(directory))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds nothing, which is no model; give a run of .*'default'"),
        (["weights.npz", "notes.txt"], r"holds notes\.txt, weights\.npz, which is no model"),
        (["adapter_config.json"], "holds an adapter in peft's format; give the directory of its base model"),
    ],
)
def test_a_directory_that_is_no_model_is_told_what_it_holds(names, message, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        start_of(find_model(tmp_path))


def test_a_config_of_an_unknown_family_is_told_before_a_missing_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(
        UserError, match=r"model_type 'mamba' is not supported; .*take a model of one of the families bart, bert"
    ):
        start_of(find_model(tmp_path))


def test_a_new_classifier_reads_a_text_as_its_own_tokenizer_does():
    texts = ["open the tickets", "please print it now and then again", "copy"]
    sizes = {"kind": "word", "max_length": 5, "buckets": [5]}
    model = TextModel.open(from_dict({"tokenizer": sizes}), texts=lambda: texts)
    encoded, expected = model.encode(texts), encode_texts(model.codec.tokenizer, texts, max_length=5)
    np.testing.assert_array_equal(encoded.input_ids, expected.input_ids)
    np.testing.assert_array_equal(encoded.lengths, expected.lengths)


def test_lora_of_matrices_that_a_model_lacks_is_refused(tmp_path):
    directory_of(tmp_path, "bert", None, words())
    given = {"model": {"pretrained": str(tmp_path), "lora_rank": 2, "lora_targets": ["gate"]}}
    with pytest.raises(
        UserError, match=r"lora_targets=\['gate'\]: the model has none.*query, key, value, out, up, down"
    ):
        TextModel.open(from_dict(given))
