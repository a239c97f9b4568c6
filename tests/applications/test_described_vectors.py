"""A classifier on a pretrained model starts from the vectors that the model's directory describes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.adaptation.start import start_of_pretrained
from fewshot_jax.applications.text_model import TextModel, fingerprint_of_model
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.loader import text_batch
from tests.models.huggingface.sentence_directories import CASES, TEXTS, write_directory

LIMITS = {"max_length": 20, "buckets": [20]}


def features_of(model, params):
    """The features of the texts at the start, as unit vectors."""
    batch = text_batch(model.encode(TEXTS), np.arange(len(TEXTS)), max(model.codec.buckets))
    batch = {name: jnp.asarray(leaf) for name, leaf in batch.items()}
    vectors = jax.jit(model.functions(2, training=False).embed_fn)(params, batch, jax.random.key(0))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "name", ["several, old", "two dense, normalize", "prompt left out, others", "lower case", "old layout", "decoder"]
)
def test_features_start_as_the_described_vectors_and_a_saved_model_reads_the_same(name, tmp_path):
    home = write_directory(tmp_path / "home", CASES[name])
    expected = fsj.load_pretrained(home).embed(TEXTS)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    config = from_dict({"model": {"pretrained": str(home)}, "tokenizer": LIMITS})
    if name == "old layout":
        config = start_of_pretrained(home).config
    model = TextModel.open(config)
    params = model.functions(2, training=True).init_params(jax.random.key(0))
    np.testing.assert_allclose(features_of(model, params), expected, atol=2e-5)
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run")
    again = TextModel.open(config, tmp_path / "run", weights=False)
    assert again.vectors == model.vectors
    np.testing.assert_allclose(features_of(again, params), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("limits", "expected"), [({"max_seq_length": 6}, [6]), ({"max_seq_length": 20}, [16, 20]), ({}, [16, 20])]
)
def test_adapting_reads_as_many_tokens_as_the_directory_states(limits, expected, tmp_path):
    """The limit of the last case is that of the tokenizer."""
    case = dataclasses.replace(CASES["decoder"], limits=limits)
    start = start_of_pretrained(write_directory(tmp_path, case))
    assert start.config.tokenizer.buckets == tuple(expected)
    assert start.config.tokenizer.max_length == expected[-1]


def test_a_hash_of_the_model_covers_folders_beside_the_transformer(tmp_path):
    home = write_directory(tmp_path, CASES["dense"])
    config = from_dict({"model": {"pretrained": str(home)}})
    before = fingerprint_of_model(config)
    (home / "2_Dense" / "config.json").write_text((home / "2_Dense" / "config.json").read_text() + "\n")
    assert fingerprint_of_model(config) != before


def test_a_run_of_an_earlier_version_keeps_the_mean_that_it_was_trained_with(tmp_path):
    home = write_directory(tmp_path / "home", CASES["two dense, normalize"])
    config = from_dict({"model": {"pretrained": str(home)}, "tokenizer": LIMITS})
    (tmp_path / "run").mkdir()
    TextModel.open(config).save(tmp_path / "run")
    (tmp_path / "run" / "model" / "modules.json").unlink()  # which such a run does not have
    model = TextModel.open(config, tmp_path / "run")
    params = model.functions(2, training=True).init_params(jax.random.key(0))["features"]
    assert params.keys() == {"encoder", "pool", "log_scale"}
