"""The same vectors as sentence-transformers, for all that a directory can say."""

import numpy as np
import pytest

import fewshot_jax as fsj
from tests.models.huggingface.sentence_directories import CASES, TEXTS, write_directory

pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")

pytestmark = pytest.mark.parity


def theirs_of(directory, **options):
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return model.encode(TEXTS, **options)


def same(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_of_sentence_transformers_also_of_what_is_saved(name, tmp_path):
    source = write_directory(tmp_path / "theirs", CASES[name])
    pretrained = fsj.load_pretrained(source)
    ours = pretrained.embed(TEXTS, batch_size=4)
    same(ours, theirs_of(source))
    fsj.save_pretrained(tmp_path / "ours", pretrained)
    same(ours, theirs_of(tmp_path / "ours"))


@pytest.mark.parametrize("name", ["prompt", "prompt left out, mean", "prompt left out, others"])
def test_a_prompt_is_named_or_given(name, tmp_path):
    source = write_directory(tmp_path, CASES[name])
    pretrained = fsj.load_pretrained(source)
    same(pretrained.embed(TEXTS, prompt="none"), theirs_of(source, prompt_name="none"))
    same(pretrained.embed(TEXTS, prompt="the text : "), theirs_of(source, prompt="the text : "))


def test_a_decoder_has_the_same_vectors_where_its_batches_are_padded_on_the_left(tmp_path):
    source = write_directory(tmp_path, CASES["decoder"])
    model = sentence_transformers.SentenceTransformer(
        str(source), device="cpu", local_files_only=True, processor_kwargs={"padding_side": "left"}
    )
    same(fsj.load_pretrained(source).embed(TEXTS), model.encode(TEXTS))


def test_what_sentence_transformers_saves_anew_is_read(tmp_path):
    source = write_directory(tmp_path / "old", CASES["two dense, normalize"])
    model = sentence_transformers.SentenceTransformer(str(source), device="cpu", local_files_only=True)
    model.max_seq_length = 6
    model.save_pretrained(str(tmp_path / "new"))
    again = fsj.load_pretrained(tmp_path / "new")
    assert again.vectors.max_length == 6
    same(again.embed(TEXTS), model.encode(TEXTS))
