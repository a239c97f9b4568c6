"""Directories of sentence-transformers are read as they are, refused where they ask for more, and written again."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import fewshot_jax as fsj
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.sentence_transformers import TextVectors, read_vectors
from fewshot_jax.models.huggingface.vector_files import write_vectors
from tests.models.huggingface.sentence_directories import (
    CASES,
    DENSE,
    HIDDEN,
    TEXTS,
    write_description,
    write_directory,
)
from tests.models.huggingface.write_sentence_golden import FILE, excerpt

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))["golden"]


# The activations of a dense layer have closed forms.
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("dense, ")])
def test_vectors_are_those_that_sentence_transformers_gave(name, tmp_path):
    pretrained = fsj.load_pretrained(write_directory(tmp_path, CASES[name]))
    expected = np.array(GOLDEN[name])
    ours = excerpt(pretrained.embed(TEXTS, batch_size=8))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_directory(tmp_path_factory.mktemp("sentence") / "model", CASES["two dense, normalize"])


@pytest.fixture(scope="module")
def pretrained(directory):
    return fsj.load_pretrained(directory)


def test_a_saved_directory_says_the_same(pretrained, tmp_path):
    fsj.save_pretrained(tmp_path, pretrained)
    again = fsj.load_pretrained(tmp_path)
    assert again.vectors == pretrained.vectors and again.vectors.stated
    assert again.dense_params.keys() == {"dense_0", "dense_1"}
    jax.tree.map(np.testing.assert_array_equal, again.dense_params, pretrained.dense_params)


@pytest.mark.parametrize("name", CASES)
def test_a_description_is_written_as_it_was_read(name, tmp_path):
    case = CASES[name]
    vectors = read_vectors(write_description(tmp_path / "given", case)).vectors
    (tmp_path / "written").mkdir()
    write_vectors(tmp_path / "written", vectors, HIDDEN)
    assert read_vectors(tmp_path / "written").vectors == vectors


def test_the_names_of_the_first_releases_are_read(tmp_path):
    write_description(tmp_path, dataclasses.replace(CASES["mean"], folder="0_BERT", limits={"max_seq_length": 9}))
    listed = json.loads((tmp_path / "modules.json").read_text())
    listed[0]["type"] = "sentence_transformers.models.BERT"
    listed.append({"path": "2_Dropout", "type": "sentence_transformers.models.Dropout"})  # of training alone
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    vectors, body, dense = read_vectors(tmp_path)
    assert (body, dense) == (tmp_path / "0_BERT", ())
    assert vectors == TextVectors(max_length=9, stated=True)


def test_a_plain_model_takes_the_place_of_a_described_one(pretrained, tmp_path):
    fsj.save_pretrained(tmp_path, pretrained)
    fsj.save_pretrained(tmp_path, dataclasses.replace(pretrained, vectors=TextVectors(), dense_params={}))
    assert read_vectors(tmp_path).vectors == TextVectors()
    assert not (tmp_path / "modules.json").exists()


def test_texts_come_back_in_their_order_whatever_the_batches(pretrained):
    texts = [*TEXTS, "a b c " * 20]
    one = pretrained.embed(texts, batch_size=1)
    np.testing.assert_allclose(pretrained.embed(texts), one, atol=1e-6)
    np.testing.assert_allclose(pretrained.embed(texts[::-1], batch_size=4)[::-1], one, atol=1e-6)
    assert pretrained.embed([]).shape == (0, 4)


def test_many_lengths_are_a_few_programs(directory):
    pretrained = fsj.load_pretrained(directory)
    for words in range(1, 40):  # 30 tokens of 32 positions; batches of two, and one of one
        pretrained.embed(["a " * words, "b", "c " * (words // 2)], batch_size=2)
    assert pretrained._embedder._vectorize._cache_size() == 3


def test_the_module_itself_is_that_of_the_transformer(pretrained):
    out = pretrained.module.apply({"params": pretrained.params}, np.array([[2, 5, 3]]), np.ones((1, 3), bool))
    assert out.last_hidden_state.shape == (1, 3, HIDDEN)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("a text", {}, r"texts: expected a list of texts, not one text"),
        (["a", 3], {}, r"texts\[1\] is int: expected a text"),
        (["a"], {"batch_size": 0}, r"batch_size=0: expected at least 1"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(pretrained, texts, options, message):
    with pytest.raises(UserError, match=message):
        pretrained.embed(texts, **options)


def test_a_model_without_a_tokenizer_makes_no_vectors(pretrained):
    with pytest.raises(UserError, match=r"holds no tokenizer, which texts need; put the one beside it"):
        dataclasses.replace(pretrained, path=None).embed(["a"])


POOLING, FIRST, PROMPT = "1_Pooling/config.json", "3_Dense/config.json", "config_sentence_transformers.json"


def module(**changes):
    """A list of modules, the second with some changes."""
    listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
    made = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in listed]
    return [made[0], {**made[1], **changes}]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "{", r"modules.json: is not JSON"),
        ("modules.json", {}, r"modules.json: is no list of modules"),
        ("modules.json", [], r"modules.json: names the modules none; expected a Transformer, a Pooling"),
        ("modules.json", module(type=3), r"a module has no type or path that is a text"),
        ("modules.json", module(path="../1_Pooling"), r"the path '../1_Pooling' leads out of the directory"),
        ("modules.json", module(path="a/../../b"), r"leads out of the directory"),
        ("modules.json", module(path="/etc"), r"the path '/etc' leads out of the directory"),
        ("modules.json", module(path="C:\\models"), r"leads out of the directory"),
        ("modules.json", module(path="..\\models"), r"leads out of the directory"),
        ("modules.json", module(path="2_Pooling"), r"2_Pooling.config.json: no such file"),
        (
            "modules.json",
            module(type="sentence_transformers.models.WeightedLayerPooling"),
            r"the module 'sentence_transformers.models.WeightedLayerPooling' is not supported, only Transformer",
        ),
        (
            "modules.json",
            module(type="custom_st.Pooling"),
            r"'custom_st.Pooling' is not .* Code that comes with a model",
        ),
        (POOLING, {"pooling_mode": "median"}, r"pooling_mode='median': expected one or several of cls, max, mean"),
        (POOLING, {"pooling_mode": []}, r"pooling_mode=\[\]: expected one or several"),
        (POOLING, {"pooling_mode_cls_token": 1}, r"pooling_mode_cls_token=1: expected true or false"),
        (POOLING, [], r"1_Pooling.config.json: is no JSON object"),
        (POOLING, {"embedding_dimension": 12}, r"in_features=16, but the module before it gives 12 numbers"),
        (POOLING, {"pooling_mode": ["cls", "max"]}, r"gives 2 x 16 numbers to its first Dense module, which takes 16"),
        (FIRST, {**DENSE, "in_features": "16"}, r"in_features='16': expected a whole number of at least 1"),
        (FIRST, {"in_features": 16}, r"3_Dense.config.json: lacks in_features or out_features"),
        (FIRST, {**DENSE, "out_features": 7}, r"4_Dense.config.json: in_features=6, but the module before it gives 7"),
        (
            FIRST,
            {**DENSE, "bias": False},
            r"3_Dense: holds linear.bias \[6\], linear.weight .* describes linear.weight",
        ),
        (
            FIRST,
            {**DENSE, "activation_function": "os.system"},
            r"activation_function='os.system' is not supported, only",
        ),
        (FIRST, {**DENSE, "activation_function": []}, r"activation_function=\[\] is not supported, only"),
        (FIRST, {**DENSE, "use_residual": True}, r"use_residual=True is not supported, only False"),
        (PROMPT, {"prompts": ["a"]}, r"prompts: expected texts by name"),
        (
            PROMPT,
            {"prompts": {"a": "b"}, "default_prompt_name": "c"},
            r"default_prompt_name='c' is none of the prompts",
        ),
        (PROMPT, {"default_prompt_name": ["c"]}, r"default_prompt_name=\['c'\] is none of the prompts"),
        (PROMPT, {"model_type": "SparseEncoder"}, r"model_type='SparseEncoder' is not supported, only"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": 0},
            r"max_seq_length=0: expected a whole number of at least 1",
        ),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, r"transformer_task='fill-mask' is not supp"),
    ],
)
def test_a_directory_that_is_not_what_it_should_be_is_refused(file, content, message, directory):
    before = (directory / file).read_text(encoding="utf-8")
    (directory / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    try:
        with pytest.raises(UserError, match=message):
            fsj.load_pretrained(directory)
    finally:
        (directory / file).write_text(before, encoding="utf-8")


def test_weights_of_a_dense_layer_that_are_missing_or_a_pickle_are_refused(directory, tmp_path):
    copied = shutil.copytree(directory, tmp_path / "copy")
    (copied / "3_Dense" / "model.safetensors").rename(copied / "3_Dense" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"3_Dense: holds 'pytorch_model.bin', but not model.safetensors"):
        fsj.load_pretrained(copied)
    save_file({"linear.weight": np.zeros((6, 3), np.float32)}, copied / "3_Dense" / "model.safetensors")
    with pytest.raises(UserError, match=r"3_Dense: holds linear.weight \[6, 3\], but its config.json describes"):
        fsj.load_pretrained(copied)
