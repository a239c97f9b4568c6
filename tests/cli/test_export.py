"""An exported run is read by load_pretrained, and by transformers, with the numbers of the run's own model."""

import contextlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.table import build_application
from fewshot_jax.applications.text_features import text_features
from fewshot_jax.applications.text_to_text import logits_of_targets
from fewshot_jax.cli.main import main
from fewshot_jax.config import ModelConfig
from fewshot_jax.data.tokenization import save_tokenizer, train_tokenizer
from fewshot_jax.models.huggingface.fresh import new_model
from fewshot_jax.models.huggingface.text_encoder import exported_text_encoder
from fewshot_jax.models.lora import lora
from fewshot_jax.models.text_encoder import text_encoder
from fewshot_jax.training.experiment import Experiment
from fewshot_jax.training.run_directory import RunDirectory
from tests.models.huggingface.sentence_directories import CASES, write_directory
from tests.small_run import RUN, merged, saved_run

TRANSLATION = {
    "application": "translation",
    "episodes": {"shots": 2, "queries": 2},
    "tokenizer": {"kind": "word", "max_length": 16, "buckets": [16], "target_max_length": 8, "target_buckets": [8]},
    "model": {"architecture": "decoder", "width": 16, "layers": 2, "heads": 2, "mlp_width": 24, "lora_rank": 2},
    "learner": {"name": "meta_sgd"},
    "evaluation": {"shots": [2], "queries": 2},
}


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation")
    run = saved_run(folder, TRANSLATION)
    assert main(["export", str(run), "--output", str(folder / "out")]) == 0
    return run, folder / "out"


@pytest.fixture(scope="module")
def classification(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")
    run = saved_run(folder, RUN)
    assert main(["export", str(run), "--output", str(folder / "out")]) == 0
    return run, folder / "out"


@pytest.fixture(scope="module")
def from_pretrained(tmp_path_factory):
    """A classifier that started from a pretrained encoder, trained with LoRA."""
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = train_tokenizer(["please book tickets then cancel lunch", "print photos now"], min_frequency=1)
    save_tokenizer(tokenizer, folder / "given")
    made = new_model("encoder", vocab_size=tokenizer.get_vocab_size(), width=16, layers=1, heads=2, mlp_width=16)
    fsj.save_pretrained(folder / "given", made)
    model = {"pretrained": str(folder / "given"), "width": 64, "layers": 2, "heads": 4, "mlp_width": 128}
    run = saved_run(folder, merged(RUN, model={**model, "lora_rank": 2}, tokenizer={"kind": "wordpiece"}))
    assert main(["export", str(run), "--output", str(folder / "out")]) == 0
    return run, folder / "out"


def best(run_path):
    """The application of a run and its trained meta-parameters."""
    run = RunDirectory(run_path)
    application = build_application(run.config(), run.path)
    return application, Experiment(application).restore_best(run)[0]


def close(one, other):
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=2e-5, atol=2e-5)


def hidden(application, meta_params, batch):
    """Hidden states of the run's own encoder, before anything is made of them."""
    config = application.config
    encoder = text_features(config.model, application.model.module).encoder
    params = meta_params["params"]["features"]["encoder"]
    rank = config.model.lora_rank
    with lora(rank=rank).active() if rank else contextlib.nullcontext():
        return encoder.apply({"params": params}, batch["input_ids"], batch["attention_mask"])


def support_of(application):
    return {name: leaf[0] for name, leaf in application.training_stream()(0, 1).support.items()}


def test_a_writers_export_has_the_logits_of_the_meta_learned_initialisation(translation):
    run, out = translation
    application, meta_params = best(run)
    module, batch = application.model.module, support_of(application)
    with lora(rank=2).active():
        expected = logits_of_targets(module, meta_params["params"], batch)
    loaded = fsj.load_pretrained(out)
    assert loaded.head == "causal_lm"
    close(logits_of_targets(loaded.module, loaded.params, batch), expected)
    assert loaded.tokenizer("the dog", add_special_tokens=False).input_ids == (
        application.codec.tokenizer.encode("the dog", add_special_tokens=False).ids
    )


def test_an_own_encoder_is_exported_as_a_family_that_has_the_same_layers(classification):
    run, out = classification
    application, meta_params = best(run)
    batch = support_of(application)
    assert not batch["attention_mask"].all(), "some text is padded"
    loaded = fsj.load_pretrained(out)
    assert loaded.config.model_type == "xlm-roberta-xl"
    real = batch["attention_mask"]
    states = loaded.module.apply({"params": loaded.params}, batch["input_ids"], real).last_hidden_state
    close(np.asarray(states)[real], np.asarray(hidden(application, meta_params, batch))[real])
    texts = application.texts("train")[:3]
    assert loaded.tokenizer(texts).input_ids == [application.model.codec.tokenizer.encode(text).ids for text in texts]
    assert loaded.tokenizer.model_max_length == application.config.tokenizer.max_length


def test_a_classifier_from_a_pretrained_model_is_exported_as_that_family_with_lora_folded_in(from_pretrained):
    run, out = from_pretrained
    application, meta_params = best(run)
    batch = support_of(application)
    loaded = fsj.load_pretrained(out)
    assert loaded.config.model_type == "modernbert"
    states = loaded.module.apply({"params": loaded.params}, batch["input_ids"], batch["attention_mask"])
    real = batch["attention_mask"]
    close(np.asarray(states.last_hidden_state)[real], np.asarray(hidden(application, meta_params, batch))[real])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_either_order_of_norms_has_its_family(norm, tmp_path):
    config = ModelConfig(width=16, layers=2, heads=2, mlp_width=24, norm=norm, context_width=3)
    encoder = text_encoder(config, vocab_size=30, max_length=9)
    ids = jax.random.randint(jax.random.key(0), (3, 9), 1, 30)
    mask = np.arange(9)[None] < np.array([9, 4, 1])[:, None]
    ids = jnp.where(mask, ids, 0)
    params = encoder.init(jax.random.key(1), ids, mask)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    made = exported_text_encoder(encoder.transformer, params, tokens={})
    assert made.family.shape(made.config, None).last.block == encoder.shape.last.block
    fsj.save_pretrained(tmp_path, made)
    loaded = fsj.load_pretrained(tmp_path)
    states = loaded.module.apply({"params": loaded.params}, ids, mask).last_hidden_state
    close(np.asarray(states)[mask], np.asarray(encoder.apply({"params": params}, ids, mask))[mask])
    assert loaded.config.model_type == {"pre": "xlm-roberta-xl", "post": "bert"}[norm]
    assert not loaded.params["encoder"]["type_embedding"]["embedding"].any()


@pytest.mark.parity
@pytest.mark.parametrize("fixture", ["translation", "classification", "from_pretrained"])
def test_transformers_reads_an_export_with_the_same_numbers(fixture, request):
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, AutoModelForCausalLM

    _, out = request.getfixturevalue(fixture)
    loaded = fsj.load_pretrained(out)
    texts = ["please book tickets", "then cancel lunch now please"]
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "right"
    batch = tokenizer(texts, padding=True, return_tensors="np", return_token_type_ids=False)
    ours = loaded.module.apply({"params": loaded.params}, batch["input_ids"], batch["attention_mask"])
    kind = AutoModelForCausalLM if fixture == "translation" else AutoModel
    model = kind.from_pretrained(out).eval()
    with torch.no_grad():
        theirs = model(**{name: torch.tensor(value) for name, value in batch.items()})
    name = "logits" if fixture == "translation" else "last_hidden_state"
    real = batch["attention_mask"].astype(bool)
    close(np.asarray(getattr(ours, name))[real], getattr(theirs, name).numpy()[real])


def test_what_is_left_out_is_said(translation, classification, tmp_path, capsys):
    assert main(["export", str(translation[0]), "--output", str(tmp_path / "a")]) == 0
    error = capsys.readouterr().err
    assert "a source is read as [CLS] SOURCE [SEP]; [SEP] ends a text" in error
    assert "left out: the learned inner rates" in error
    assert main(["export", str(classification[0]), "--output", str(tmp_path / "b")]) == 0
    assert "has no counterpart: 'fewshot-jax adapt' keeps all of it" in capsys.readouterr().err


@pytest.fixture
def given(tmp_path):
    """A run of the smallest model, and where it was exported to."""
    made = new_model("decoder", vocab_size=20, width=8, layers=1, heads=1, mlp_width=8)
    fsj.save_pretrained(tmp_path / "run" / "model", made)
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    return tmp_path / "run", tmp_path / "out"


def contents(directory):
    """Every file of a directory by its path in it; the old model is told from a new one by its bytes."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_an_export_says_what_it_wrote_and_is_replaced_with_force_alone(given, capsys):
    run, out = given
    first = contents(out)
    assert set(json.loads(first["fewshot_jax_export.json"])["files"]) == first.keys() - {"fewshot_jax_export.json"}
    arguments = ["export", str(run), "--output", str(out)]
    (out / "config.json").write_text("an older one")
    assert main(arguments) == 2
    assert f"{out}: already exists; give another --output, or --force" in capsys.readouterr().err
    assert (out / "config.json").read_text() == "an older one"
    assert main([*arguments, "--force"]) == 0
    assert contents(out) == first
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "run"], "nothing stays beside it"


def test_what_export_did_not_write_is_never_removed(given, tmp_path, capsys):
    run, out = given
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    marked = tmp_path / "marked"
    marked.mkdir()
    (marked / "fewshot_jax_export.json").write_text("[]")
    for other in (folder, run, run / "model", tmp_path / "file", marked):
        before = contents(tmp_path)
        assert main(["export", str(run), "--output", str(other), "--force"]) == 2
        assert f"{other}: was not written by export" in capsys.readouterr().err
        assert contents(tmp_path) == before
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    assert main(["export", str(run), "--output", str(out), "--force"]) == 2
    assert "holds what export did not write (notes, notes/mine.txt)" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_an_old_model_stays_where_a_new_one_cannot_take_its_place(given, monkeypatch, capsys):
    run, out = given
    before, sync = contents(out), os.fsync

    def failing(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    assert main(["export", str(run), "--output", str(out), "--force"]) == 2
    assert f"{out}: cannot write here (No space left on device); free disk space" in capsys.readouterr().err
    assert contents(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "run"]
    monkeypatch.setattr(os, "fsync", sync)
    (out / "config.json").write_text("an older one")
    assert main(["export", str(run), "--output", str(out), "--force"]) == 0
    assert contents(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "run"]


def test_an_empty_directory_or_a_link_to_one_is_written_to(given, tmp_path):
    run, out = given
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert main(["export", str(run), "--output", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "empty") == contents(out)
    assert main(["export", str(run), "--output", str(tmp_path / "link"), "--force"]) == 0
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "empty") == contents(out)


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("application: regression\n")
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "is a run of regression" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "absent"), "--output", str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_model_of_a_pretraining_run_is_exported_as_it_is(tmp_path):
    made = new_model("decoder", vocab_size=20, width=8, layers=1, heads=1, mlp_width=8)
    fsj.save_pretrained(tmp_path / "run" / "model", made)
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    loaded = fsj.load_pretrained(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, made.params)


def test_a_run_on_a_described_model_is_exported_with_its_description(tmp_path):
    home = write_directory(tmp_path / "home", CASES["two dense, normalize"])
    run = saved_run(tmp_path, merged(RUN, model={"pretrained": str(home)}))
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 0
    application, meta_params = best(run)
    loaded = fsj.load_pretrained(tmp_path / "out")
    assert loaded.vectors == application.model.vectors == fsj.load_pretrained(home).vectors
    jax.tree.map(np.testing.assert_array_equal, loaded.dense_params, meta_params["params"]["features"]["vectors"])
    assert loaded.embed(["the light is red"]).shape == (1, 4)
