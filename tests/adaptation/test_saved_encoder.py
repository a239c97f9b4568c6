"""The pretrained encoder of a saved classifier lies in a directory of its own, which others load, and nowhere else."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

import fewshot_jax as fsj
from fewshot_jax.adaptation.classifier import AdaptedClassifier
from fewshot_jax.adaptation.encoder_files import store_encoder
from fewshot_jax.adaptation.named import find_model
from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.errors import UserError
from tests.models.huggingface.sentence_directories import CASES, TEXTS, write_directory

EXAMPLES = {"red": ["the light is red", "a red light"], "green": ["green", "the light is green"]}


def changed(classifier):
    """The same with other weights, as if all of them had been tuned."""
    rng = np.random.default_rng(0)
    adapted = jax_map(lambda leaf: leaf + leaf.dtype.type(0.01) * rng.normal(size=leaf.shape), classifier.adapted)
    return AdaptedClassifier(adapted, classifier.labels, classifier.config, classifier.reader)


def jax_map(change, tree):
    return jax.tree.map(
        lambda leaf: (
            np.asarray(change(np.asarray(leaf)), leaf.dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf
        ),
        tree,
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    home = write_directory(tmp_path_factory.mktemp("home") / "given", CASES["two dense, normalize"])
    texts, labels = zip(*((text, label) for label, texts in EXAMPLES.items() for text in texts), strict=True)
    with pytest.warns(UserWarning, match="without folds"):
        return changed(fsj.adapt(str(home), texts, labels, folds=0))


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "classifier"
    classifier.save(path)
    return path


def test_each_weight_is_stored_once_and_the_loaded_model_says_the_same(classifier, saved):
    own = load_file(saved / "model.safetensors").keys()
    assert own and not any(path.startswith(("features/encoder", "features/vectors")) for path in own)
    assert (saved / "model" / "model.safetensors").is_file()
    again = fsj.load(saved)
    before, after = (flatten_dict(one.adapted, sep="/") for one in (classifier, again))
    assert before.keys() == after.keys() and before.keys() > own
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), classifier.predict_proba(TEXTS))


def test_the_directory_of_the_encoder_is_a_described_model_with_the_adapted_weights(classifier, saved):
    encoder = fsj.load_pretrained(saved / "model")
    assert encoder.vectors == classifier.reader.model.vectors
    mine = flatten_dict(classifier.adapted["features"]["encoder"]["transformer"], sep="/")
    for path, leaf in flatten_dict(encoder.params, sep="/").items():
        np.testing.assert_array_equal(leaf, mine[path], err_msg=path)
    assert encoder.embed(TEXTS).shape == (len(TEXTS), 4)


def test_what_the_directory_cannot_hold_stays_beside_the_head(classifier):
    model, adapted = classifier.reader.model, classifier.adapted
    flat = flatten_dict(adapted, sep="/")
    added = {"features/encoder/transformer/encoder/blocks/attention/query/lora_a": np.zeros((3, 16, 2), np.float32)}
    stored = store_encoder(model, {"params": unflatten_dict({**flat, **added}, sep="/")})
    assert stored.record == {"encoder": "params/features/"}
    beside = {f"params/{path}" for path in (*flat, *added)} - stored.elsewhere
    assert {f"params/{path}" for path in added} < beside
    assert {path for path in beside if "kernel" in path} == {"params/head/kernel", "params/features/pool/score/kernel"}
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), adapted)
    for other in (half, {"one": adapted, "two": adapted}, {"head": adapted["head"]}):
        assert not store_encoder(model, other).elsewhere


def test_a_model_of_an_earlier_version_holds_all_weights_itself_and_is_read(classifier, tmp_path):
    model = classifier.reader.model
    record = {"labels": classifier.labels, "temperature": classifier.temperature}
    save_model(tmp_path / "old", classifier.adapted, classifier.config, record, model.save)
    assert not (tmp_path / "old" / "model" / "model.safetensors").exists()
    np.testing.assert_array_equal(fsj.load(tmp_path / "old").predict_proba(TEXTS), classifier.predict_proba(TEXTS))


@pytest.mark.parametrize("damage", ["missing", "other sizes", "no number"])
def test_a_damaged_encoder_is_one_message(classifier, tmp_path, damage):
    classifier.save(tmp_path / "model")
    inner = tmp_path / "model" / "model"
    if damage == "missing":
        (inner / "model.safetensors").unlink()
    elif damage == "other sizes":
        config = json.loads((inner / "config.json").read_text())
        (inner / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    else:
        raw = bytearray((inner / "model.safetensors").read_bytes())
        raw[-4:] = b"\xff\xff\xff\xff"
        (inner / "model.safetensors").write_bytes(raw)
    with pytest.raises(UserError):
        fsj.load(tmp_path / "model")


@pytest.mark.parametrize("source", [None, 5, ["name"]])
def test_a_damaged_record_of_the_start_is_one_message(source, tmp_path):
    (tmp_path / "examples.jsonl").touch()
    (tmp_path / "model.json").write_text(json.dumps({"kind": "simple", "start": "default", "source": source}))
    with pytest.raises(UserError, match="cannot read what it was adapted from"):
        find_model(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(classifier, tmp_path):
    adapted = jax_map(lambda leaf: leaf * np.nan, classifier.adapted)
    broken = AdaptedClassifier(adapted, classifier.labels, classifier.config, classifier.reader)
    with pytest.raises(UserError, match=r"are not all finite numbers. Nothing is saved"):
        broken.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parity
def test_sentence_transformers_loads_the_encoder(saved):
    pytest.importorskip("torch")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(saved / "model"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(fsj.load_pretrained(saved / "model").embed(TEXTS), theirs.encode(TEXTS), atol=1e-5)


@pytest.mark.parity
def test_transformers_loads_the_encoder(saved):
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, AutoTokenizer

    encoder = fsj.load_pretrained(saved / "model")
    read = AutoTokenizer.from_pretrained(saved / "model")(["the light is red"], return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(saved / "model")(**read).last_hidden_state.numpy()
    ours = encoder.module.apply({"params": encoder.params}, read["input_ids"].numpy()).last_hidden_state
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
