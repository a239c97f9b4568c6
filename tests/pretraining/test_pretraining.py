"""Pretraining: what a run leaves behind, that it resumes bit for bit, and how it ends when it must."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.config_file import from_dict
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params
from fewshot_jax.pretraining import pretrain as pretraining
from fewshot_jax.pretraining.directory import PretrainingDirectory
from fewshot_jax.pretraining.pretrain import HeldOutLoss, pretrain
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.metrics import read_metrics
from fewshot_jax.runs.state import TrainState

STEPS, EVERY = 6, 3
OBJECTIVES = ("causal_lm", "masked_lm", "span_corruption")


def texts(count=60, seed=0):
    """Counting in words, from a random number on: each word follows from the one before."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rng = np.random.default_rng(seed)
    return [
        " ".join(words[(start + i) % 10] for i in range(length)) for start, length in rng.integers(5, 30, (count, 2))
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    return path


def config(path, objective="causal_lm", **sections):
    values = {
        "objective": objective,
        "corpus": {"path": str(path), "validation_share": 0.2},
        "tokenizer": {"kind": "word", "vocab_size": 120},
        "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
        "optimizer": {"steps": STEPS, "rate": 0.01},
        "batch": {"sequences": 4, "length": 16},
        "evaluation": {"every": EVERY, "batches": 2},
    }
    for name, fields in sections.items():
        values[name] = {**values.get(name, {}), **fields} if isinstance(fields, dict) else fields
    return from_dict(values, kind=PretrainConfig)


class Stop(Exception):
    """Stands for whatever ends a process."""


def break_off(patch, *, at):
    read_ahead = pretraining.read_ahead

    def breaking(batches, steps, **options):
        for step, batch in zip(steps, read_ahead(batches, steps, **options), strict=True):
            if step >= at:
                raise Stop
            yield batch

    patch.setattr(pretraining, "read_ahead", breaking)


@pytest.fixture(scope="module", params=OBJECTIVES)
def finished(request, corpus, tmp_path_factory):
    """A run of each objective that was never disturbed, and its result."""
    path = tmp_path_factory.mktemp("finished") / "run"
    return PretrainingDirectory(path), pretrain(config(corpus, request.param), path, quiet=True)


@pytest.fixture(scope="module")
def one(corpus, tmp_path_factory):
    """A run of a causal language model."""
    path = tmp_path_factory.mktemp("one") / "run"
    pretrain(config(corpus), path, quiet=True)
    return PretrainingDirectory(path)


def parameters(run, step):
    like = {"params": jax.tree.map(jnp.zeros_like, fsj.load_pretrained(run.model).params)}
    checkpoints = Checkpoints(run.checkpoints, HeldOutLoss(), read_only=True)
    try:
        return jax.device_get(checkpoints.restore_meta_params(step, like)["params"])
    finally:
        checkpoints.close()


def refuse(config, tmp_path, message):
    with pytest.raises(fsj.UserError, match=message):
        pretrain(config, tmp_path / "run", quiet=True)


def assert_identical(one, other):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        # The first layer of ModernBERT has no such norm: its leaf is not stored.
        if leaf_path(path) != "encoder/blocks/attention_norm/scale":
            assert np.array_equal(a, b), leaf_path(path)


def validations(run):
    return [row for row in read_metrics(run.metrics) if "validation_loss" in row]


def test_a_run_leaves_its_files(finished):
    run, result = finished
    for name in (
        *("config.yaml", "data.json", "metrics.jsonl", "learning_curve.png", "result.json"),
        *("tokenizer/tokenizer.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json"),
    ):
        assert (run.path / name).stat().st_size > 0, name
    assert not list(run.path.glob(".*.partial*"))
    assert run.result() == result
    assert result["packing_efficiency"] > 0.95
    assert run.data()["validation"]["documents"] == 12
    assert result["resumed_at"] == 0


def test_the_metrics_tell_losses_and_speed(finished):
    run, result = finished
    rows = read_metrics(run.metrics)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [EVERY, STEPS]
    for row in steps:
        assert row["tokens_per_second"] > 0 and row["mfu"] > 0 and 0 <= row["input_share"] <= 1
        assert row["packing_efficiency"] == result["packing_efficiency"]
        assert 0 < row["loss"] < 2 * math.log(120)
    for row in validations(run):
        assert row["validation_perplexity"] == pytest.approx(math.exp(row["validation_loss"]))
    best = min(validations(run), key=lambda row: row["validation_loss"])
    assert result["best_step"] == best["step"]
    assert result["validation_loss"] == best["validation_loss"]
    assert result["validation_perplexity"] == best["validation_perplexity"]


def test_the_model_is_the_best_checkpoint_with_its_tokenizer(finished):
    run, result = finished
    model = fsj.load_pretrained(run.model)
    assert model.created == () and model.ignored == ()
    assert_identical(model.params, parameters(run, result["best_step"]))
    ids = model.tokenizer("three four five")["input_ids"]
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "three", "four", "five"]
    assert len(model.tokenizer) <= model.config.vocab_size


@pytest.mark.parity
def test_transformers_computes_the_same_with_the_model(finished):
    torch = pytest.importorskip("torch")
    import transformers

    run, _ = finished
    ours = fsj.load_pretrained(run.model)
    theirs = getattr(transformers, ours.config.architectures[0]).from_pretrained(run.model).eval()
    ids = np.array([ours.tokenizer("three four five six")["input_ids"]])
    more = {"decoder_input_ids": ids} if ours.config.is_encoder_decoder else {}
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(ids), **{k: torch.tensor(v) for k, v in more.items()}).logits.numpy()
    found = ours.module.apply({"params": ours.params}, ids, **more).logits
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_stopped_run_goes_on_to_the_same_parameters_bit_for_bit(corpus, finished, tmp_path, monkeypatch):
    run, config_ = PretrainingDirectory(tmp_path / "run"), finished[0].config()
    with monkeypatch.context() as patch:
        break_off(patch, at=4)
        with pytest.raises(Stop):
            pretrain(config_, run.path, quiet=True)
    assert run.result() is None
    assert [row["step"] for row in validations(run)] == [EVERY]
    monkeypatch.setattr(pretraining, "documents_of", None)  # the packed corpus is there
    assert pretrain(config_, run.path, quiet=True)["resumed_at"] == EVERY
    assert_identical(parameters(run, STEPS), parameters(finished[0], STEPS))
    assert validations(run) == validations(finished[0])


def test_a_finished_run_is_not_trained_again(one, monkeypatch):
    monkeypatch.setattr(pretraining, "fit", None)
    assert pretrain(one.config(), one.path, quiet=True) == one.result()


def test_a_run_whose_log_lost_lines_ends_with_the_numbers_of_its_checkpoint(one, tmp_path):
    whole = one.result()
    run = PretrainingDirectory(shutil.copytree(one.path, tmp_path / "run"))
    (run.path / "result.json").unlink()
    run.metrics.write_text('{"step": 1, "lo\nnothing of ours\n{"step": 1, "validation_loss": "low"}\n')
    found = pretrain(one.config(), run.path, quiet=True)
    for name in ("validation_loss", "validation_perplexity", "best_step"):
        assert found[name] == whole[name], name
    (run.path / "data.json").write_text('{"train": 3}')
    (run.path / "result.json").unlink()
    with pytest.raises(fsj.UserError, match=r"data\.json: expected the number of tokens of each split; restore"):
        pretrain(one.config(), run.path, quiet=True)


def test_another_config_is_refused_but_for_the_number_of_processes(one, corpus):
    other = config(corpus, optimizer={"rate": 0.02}, model={"layers": 2})
    with pytest.raises(fsj.UserError, match="holds a run of another config") as error:
        pretrain(other, one.path, quiet=True)
    assert "optimizer.rate: 0.01 -> 0.02" in str(error.value)
    assert "model.layers: 1 -> 2" in str(error.value)
    assert pretrain(config(corpus, batch={"workers": 2}), one.path, quiet=True) == one.result()


@pytest.mark.parametrize(("objective", "nats"), [("causal_lm", 1.0), ("masked_lm", 1.6), ("span_corruption", 1.9)])
@pytest.mark.slow
def test_a_run_learns_to_count(corpus, tmp_path, objective, nats):
    """Guessing among ten words and an end costs 2.3 nats and more."""
    asked = config(
        corpus,
        objective,
        model={"width": 32, "layers": 2, "mlp_width": 64},
        optimizer={"steps": 200, "rate": 0.01},
        evaluation={"every": 100},
    )
    assert pretrain(asked, tmp_path / "run", quiet=True)["validation_loss"] < nats


def test_the_given_tokenizer_is_used(one, corpus, tmp_path):
    given = config(corpus, tokenizer={"path": str(one.tokenizer), "kind": "bpe", "vocab_size": 5000})
    pretrain(given, tmp_path / "run", quiet=True)
    assert fsj.load_pretrained(tmp_path / "run" / "model").tokenizer.get_vocab() == (
        fsj.load_pretrained(one.model).tokenizer.get_vocab()
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "model"])
def test_a_pretrained_model_is_trained_further(one, corpus, tmp_path, part):
    before = validations(one)[-1]["validation_loss"]
    further = config(corpus, model={"pretrained": str(one.path / part)}, optimizer={"steps": 1, "rate": 1e-9})
    result = pretrain(further, tmp_path / "run", quiet=True)
    assert result["validation_loss"] == pytest.approx(before, abs=1e-4)


def test_a_model_of_another_architecture_is_refused(one, corpus, tmp_path):
    refuse(config(corpus, "masked_lm", model={"pretrained": str(one.model)}), tmp_path, "llama.*masked_lm.*causal_lm")


@pytest.fixture(scope="module")
def bert(one, tmp_path_factory):
    """A small BERT, with learned positions for 16 tokens, that transformers might have saved."""
    from transformers import BertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=130, max_position_embeddings=16, **sizes)
    module = build(config, "masked_lm", jnp.float32)
    params = initial_params(module, jax.random.key(0))
    path = tmp_path_factory.mktemp("bert")
    fsj.save_pretrained(
        path, Pretrained(config=config, module=module, params=params, head="masked_lm", path=one.tokenizer)
    )
    return path


@pytest.mark.slow
def test_a_model_of_another_family_is_trained_further(bert, corpus, tmp_path):
    pretrain(config(corpus, "masked_lm", model={"pretrained": str(bert)}), tmp_path / "run", quiet=True)
    model = fsj.load_pretrained(tmp_path / "run" / "model")
    assert model.config.model_type == "bert" and model.head == "masked_lm"
    before = fsj.load_pretrained(bert).params["encoder"]["blocks"]["mlp"]["up"]["kernel"]
    assert not np.array_equal(before, model.params["encoder"]["blocks"]["mlp"]["up"]["kernel"])


def test_a_window_has_a_position_for_every_token(bert, corpus, tmp_path):
    long = config(corpus, "masked_lm", model={"pretrained": str(bert)}, batch={"length": 32})
    refuse(long, tmp_path, r"batch\.length=32: the model of model\.pretrained has 16 positions; lower it")


def test_a_tokenizer_cuts_no_document_short(one, corpus, tmp_path):
    """One saved with a limit of length would."""
    path = tmp_path / "tokenizer"
    shutil.copytree(one.tokenizer, path)
    values = json.loads((path / "tokenizer.json").read_text())
    values["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (path / "tokenizer.json").write_text(json.dumps(values))
    pretrain(config(corpus, tokenizer={"path": str(path)}), tmp_path / "run", quiet=True)
    assert PretrainingDirectory(tmp_path / "run").data() == one.data()


def test_a_meta_training_run_is_not_gone_on_with(corpus, one, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(one.path, run)
    (run / "config.yaml").write_text("application: text_classification\n")
    refuse(
        config(corpus), tmp_path, "unknown field 'application'.*expected the config of a run of 'fewshot-jax pretrain'"
    )


@pytest.mark.slow
def test_dropout_is_drawn_anew_at_every_step_and_not_in_validation(corpus, tmp_path):
    dropped = config(corpus, "masked_lm", model={"dropout": 0.5})
    plain = config(corpus, "masked_lm")
    first, second = (pretrain(c, tmp_path / name, quiet=True) for name, c in (("a", dropped), ("b", plain)))
    assert first["validation_loss"] != second["validation_loss"]


def test_mistakes_are_named(corpus, one, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("one two\n\nthree four\n")
    refuse(config(few), tmp_path, r"the corpus has 1 windows of 16 tokens.*fewer than batch\.sequences=4")
    refuse(config(corpus, tokenizer={"kind": "bpe", "vocab_size": 100}), tmp_path, r"tokenizer\.vocab_size=100: ")
    refuse(config(corpus, tokenizer={"path": str(tmp_path)}), tmp_path, "holds no tokenizer.*tokenizer.path")
    refuse(config(corpus, tokenizer={"path": str(tmp_path / "no")}), tmp_path, "no such directory.*tokenizer.path")
    refuse(
        config(corpus, "span_corruption", tokenizer={"path": str(one.tokenizer)}),
        tmp_path,
        r"needs \d+ sentinel tokens \(<extra_id_0>.*this tokenizer has 0",
    )
    refuse(config(corpus, corpus={"text_field": "txt"}), tmp_path, r"texts\.jsonl, line 1: no field 'txt'")
    refuse(config(tmp_path / "no.jsonl"), tmp_path, r"no\.jsonl: no such file")


def test_a_mistake_in_the_corpus_can_be_put_right_in_the_same_directory(corpus, tmp_path):
    refuse(config(corpus, batch={"sequences": 4000}), tmp_path, "fewer than")
    assert pretrain(config(corpus), tmp_path / "run", quiet=True)["steps"] == STEPS


def test_a_directory_of_something_else_is_refused(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("dear")
    refuse(config(corpus), tmp_path, "is not empty and holds no run; give another --run-dir")


def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(corpus, tmp_path, monkeypatch):
    make = pretraining.language_model_grad

    def poisoned(module, **options):
        grad = make(module, **options)

        def wrong(params, batch, key, progress):
            grads, metrics = grad(params, batch, key, progress)
            return grads, {"loss": jnp.where(progress * STEPS > 3.5, jnp.nan, metrics["loss"])}

        return wrong

    monkeypatch.setattr(pretraining, "language_model_grad", poisoned)
    made = config(corpus, recovery={"skip_limit": 1})
    refuse(made, tmp_path, r"at step 5 the loss is not finite;.*Lower optimizer\.rate")
    run = PretrainingDirectory(tmp_path / "run")
    assert run.result() is None
    checkpoints = Checkpoints(run.checkpoints, HeldOutLoss(), read_only=True)
    assert checkpoints.steps() == [3]
    checkpoints.close()


@pytest.mark.slow
def test_eight_devices_train_as_one(corpus, one, tmp_path):
    """Four windows go over four of them; the fixture's run has done so already."""
    assert jax.device_count() >= 4
    run = PretrainingDirectory(tmp_path / "run")
    alone = dataclasses.replace(one.config(), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot_jax.runs.fit.jax.device_count", lambda: 1)
        pretrain(alone, run.path, quiet=True)
    for a, b in zip(*(jax.tree.leaves(parameters(r, EVERY)) for r in (run, one)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_the_state_is_that_of_meta_training(one):
    """Checkpoints of both have one structure, so one reader serves them."""
    checkpoints = Checkpoints(one.checkpoints, HeldOutLoss(), read_only=True)
    record = checkpoints.record(STEPS)
    checkpoints.close()
    assert from_dict(record["config"], kind=PretrainConfig) == one.config()
    assert TrainState._fields == ("step", "meta_params", "opt_state", "key", "health")
    shutil.rmtree(one.path / "data")
    assert pretrain(one.config(), one.path, quiet=True) == one.result(), "a finished run needs its data no more"
