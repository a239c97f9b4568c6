"""A classifier whose encoder was pretrained: by `fewshot-jax pretrain`, or by others."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertTokenizerFast

import fewshot_jax as fsj
from fewshot_jax.adaptation.classifier import load
from fewshot_jax.adaptation.start import start_of_pretrained
from fewshot_jax.applications.table import build_application
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params
from fewshot_jax.models.sources.names import find_files
from fewshot_jax.notes import Caution
from tests.applications.test_text_model import bert_template, words
from tests.models.huggingface.tiny import tiny

WORDS = ["please", "just", "open", "copy", "book", "the", "tickets", "then", "lunch", "now", "print", "photos"]
SMALL = {
    "data": {"groups": 30, "texts_per_class": 8},
    "episodes": {"shots": 1, "queries": 2},
    "tokenizer": {"max_length": 16, "buckets": [16]},
    "inner": {"steps": 1},
    "outer": {"steps": 2, "tasks": 2},
    "evaluation": {"every": 2, "validation_episodes": 2, "episodes": 4, "shots": [1], "queries": 2, "tasks": 2},
    "baselines": {"steps": 1, "rates": [0.01], "episodes": 2, "multi_task": False},
}


def config(home, **sections):
    return {**SMALL, "model": {"pretrained": str(home)}, **sections}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small BERT of random numbers, with a tokenizer of its own."""
    directory = tmp_path_factory.mktemp("bert")
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n", encoding="utf-8")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = BertConfig(vocab_size=5 + len(WORDS), max_position_embeddings=32, **sizes)
    module = build(made, None, np.float32)
    params = initial_params(module, jax.random.key(0))
    fsj.save_pretrained(directory, Pretrained(config=made, module=module, params=params))
    BertTokenizerFast(vocab_file=str(vocabulary)).save_pretrained(str(directory))
    return directory


@pytest.mark.parametrize("objective", ["masked_lm", pytest.param("causal_lm", marks=pytest.mark.slow)])
def test_pretraining_feeds_training_feeds_adaptation_feeds_prediction(objective, tmp_path):
    stage = {
        "objective": objective,
        "corpus": {"source": "generated", "name": "text_classification", "documents": 400},
        "tokenizer": {"kind": "word", "vocab_size": 256},
        "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
        "optimizer": {"steps": 2},
        "batch": {"sequences": 8, "length": 16},
        "evaluation": {"every": 2, "batches": 1},
    }
    pretrained, run, model = (tmp_path / name for name in ("pretrained", "run", "model"))
    (tmp_path / "pretrain.yaml").write_text(json.dumps(stage), encoding="utf-8")
    (tmp_path / "train.yaml").write_text(json.dumps(config(pretrained)), encoding="utf-8")
    assert main(["pretrain", str(tmp_path / "pretrain.yaml"), "--run-dir", str(pretrained), "--quiet"]) == 0
    assert main(["train", str(tmp_path / "train.yaml"), "--run-dir", str(run), "--quiet"]) == 0
    rows = json.loads((run / "evaluation.json").read_text())["accuracy"]
    beside = ["TF-IDF centroid", "pretrained, prototypes", "untrained, prototypes"]
    assert list(rows) == ["maml", *beside, "pretrained, fine-tuned", "untrained, fine-tuned", "chance"]
    data, output = tmp_path / "data.csv", tmp_path / "out.csv"
    data.write_text("text,label\nplease open it,a\njust copy that,b\n", encoding="utf-8")
    assert main(["adapt", str(run), "--data", str(data), "--output", str(model)]) == 0
    before = load(model).predict_proba(["please copy"])
    for path in pretrained.rglob("*.safetensors"):  # what was adapted stands alone
        path.unlink()
    np.testing.assert_array_equal(load(model).predict_proba(["please copy"]), before)
    assert main(["predict", str(model), "--input", str(data), "--output", str(output)]) == 0


def test_texts_are_read_and_weights_begin_as_the_checkpoint_says(bert):
    given = from_dict(config(bert))
    application = build_application(given)
    texts = ["please open the tickets", "copy"]
    encoded = application.model.encode(texts)
    own = BertTokenizerFast.from_pretrained(str(bert))(texts)["input_ids"]
    assert [row[:length].tolist() for row, length in zip(*encoded[:2], strict=True)] == own
    functions = application.functions(training=True)
    params = functions.init_params(jax.random.key(1))
    loaded = fsj.load_pretrained(bert, head=None)
    jax.tree.map(np.testing.assert_array_equal, params["features"]["encoder"]["transformer"], loaded.params)
    scratch = functions.scratch_params(jax.random.key(1))["features"]["encoder"]["transformer"]
    assert jax.tree.structure(scratch) == jax.tree.structure(loaded.params)
    assert (
        np.abs(
            np.asarray(scratch["token_embedding"]["embedding"] - loaded.params["token_embedding"]["embedding"])
        ).max()
        > 0
    )


def test_texts_that_are_cut_are_counted_in_training(bert):
    notes = build_application(from_dict(config(bert, tokenizer={"max_length": 4, "buckets": [4]}))).notes
    assert "texts have more than 4 tokens; the rest is not read (raise tokenizer.max_length)" in notes[-1]


def test_a_pretrained_model_with_weights_that_are_not_finite_is_refused_by_name(bert, tmp_path):
    damaged = shutil.copytree(bert, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][3, 2] = np.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"damaged: the weights '.*token_embedding/embedding' of the model are not all"):
        start_of_pretrained(str(damaged))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"episodes": {"token_remap": 0.5}}, r"episodes.token_remap=0.5: a pretrained model knows its words"),
        ({"learner": {"name": "cavia"}, "model": {"pretrained": "x", "context_width": 4}}, r"takes no context"),
    ],
)
def test_what_does_not_go_with_a_pretrained_model_is_refused(sections, message):
    with pytest.raises(UserError, match=message):
        from_dict(config("x", **sections))


def test_a_model_of_two_stacks_is_refused(tmp_path):
    fsj.save_pretrained(tmp_path, tiny("bart", None))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"a classifier reads with one stack; give an encoder or a decoder"):
        build_application(from_dict(config(tmp_path)))


def test_a_saved_classifier_remembers_its_model_and_tells_when_that_has_changed(bert, tmp_path):
    home, output = shutil.copytree(bert, tmp_path / "home"), tmp_path / "model"
    texts = ["please open", "open now", "print photos", "print the photos"]
    fsj.adapt(str(home), texts, ["a", "a", "b", "b"], folds=0).save(output)
    source = json.loads((output / "model.json").read_text(encoding="utf-8"))["source"]
    assert source == find_files(home).record()
    with warnings.catch_warnings(record=True) as caught:
        fsj.adapt(output, ["copy lunch"], ["b"], folds=0)
    assert not [one for one in caught if "have changed" in str(one.message)]
    (home / "tokenizer_config.json").write_text((home / "tokenizer_config.json").read_text(encoding="utf-8") + "\n")
    with pytest.warns(Caution, match=r"home is not what .*model was adapted from: its files have changed"):
        fsj.adapt(output, ["copy lunch"], ["b"], folds=0)


@pytest.mark.parametrize("kind", ["encoder", "causal_lm"])
def test_a_classifier_reads_with_the_encoder_of_a_t5(kind, tmp_path):
    home, output = tmp_path / "home", tmp_path / "model"
    fsj.save_pretrained(home, tiny("t5-gated", kind))
    words(template=bert_template()).save_pretrained(str(home))
    texts = ["the a", "a the", "b c", "c b"]
    made = fsj.adapt(str(home), texts, ["x", "x", "y", "y"], folds=0, save="adapted")
    made.save(output)
    assert json.loads((output / "model" / "config.json").read_text(encoding="utf-8"))["architectures"] == [
        "T5EncoderModel"
    ]
    np.testing.assert_allclose(load(output).predict_proba(texts), made.predict_proba(texts), atol=1e-6)
