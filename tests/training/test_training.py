"""A run: what it leaves behind, that it resumes bit for bit, and how it ends when it must."""

import dataclasses
import json
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.applications.classification import ACCURACY
from fewshot_jax.applications.text_classification import TextClassification
from fewshot_jax.config import InnerConfig
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.tokenization import load_tokenizer
from fewshot_jax.errors import WriteError
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.planning.plan import Strategy
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.metrics import MetricsFile, read_metrics
from fewshot_jax.runs.optimizer import learning_rate
from fewshot_jax.runs.state import first_state
from fewshot_jax.training import loop
from fewshot_jax.training.optimizer import outer_optimizer
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import initial_state, text_functions

STEPS, EVERY, METRIC = 6, 3, "validation_accuracy"
VALUES = {
    "data": {"groups": 8, "texts_per_class": 8, "split_by": "group", "fractions": [0.5, 0.25, 0.25]},
    "episodes": {"ways": 3, "shots": 1, "queries": 2, "within_group": True},
    "tokenizer": {"kind": "word", "max_length": 12, "buckets": [12]},
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "inner": {"steps": 1, "rate": 0.4},
    "outer": {"steps": STEPS, "tasks": 2, "rate": 0.01},
    "evaluation": {
        "every": EVERY,
        "validation_episodes": 6,
        "episodes": 6,
        "ways": 3,
        "shots": [1],
        "queries": 2,
        "tasks": 4,
        "at_end": False,
    },
    "baselines": {"fine_tuning": False, "multi_task": False},
}
CONFIG = from_dict(VALUES)


def changed(config=CONFIG, **sections):
    """The config with some fields of some sections replaced."""
    parts = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **parts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never disturbed, and its evaluation."""
    path = tmp_path_factory.mktemp("finished") / "run"
    return RunDirectory(path), fsj.train(changed(evaluation={"at_end": True}), path, quiet=True)


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that broke off at its fifth step, after the checkpoint of the third."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        break_off(patch, at=4)
        with pytest.raises(Stop):
            fsj.train(CONFIG, path, quiet=True)
    return RunDirectory(path)


def break_off(patch, *, at):
    training_stream = TextClassification.training_stream

    def breaking(self):
        stream = training_stream(self)

        def episodes(step, tasks):
            if step >= at:
                raise Stop
            return stream(step, tasks)

        return episodes

    patch.setattr(TextClassification, "training_stream", breaking)


def copy(run, path):
    shutil.copytree(run.path, path)
    return RunDirectory(path)


def tokenizer_of(run):
    return load_tokenizer(run.path / "tokenizer")


def untrained_state(config, vocab_size):
    functions = text_functions(config, vocab_size=vocab_size, ways=3, training=True, joint_classes=0)
    return initial_state(config, functions)


def state_at(run, step):
    like = untrained_state(run.config(), tokenizer_of(run).get_vocab_size())
    checkpoints = Checkpoints(run.checkpoints, ACCURACY, read_only=True)
    try:
        return jax.device_get(checkpoints.restore(step, like))
    finally:
        checkpoints.close()


def assert_identical(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert np.array_equal(a, b), jax.tree_util.keystr(path)


def contents(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_run_leaves_its_files(finished):
    run, _ = finished
    for name in (
        "config.yaml",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "labels.json",
        "metrics.jsonl",
        "learning_curve.png",
        "result.json",
        "evaluation.json",
    ):
        assert (run.path / name).stat().st_size > 0, name
    assert run.learning_curve.read_bytes().startswith(b"\x89PNG")
    assert not list(run.path.glob(".*.partial*"))
    result = run.result()
    assert result["steps"] == STEPS
    assert result["resumed_at"] == 0
    assert result["jax"] == jax.__version__


def test_the_labels_of_the_splits_are_disjoint(finished):
    labels = json.loads((finished[0].path / "labels.json").read_text())
    assert {split: len(names) for split, names in labels.items()} == {"train": 24, "validation": 12, "test": 12}
    assert len({name for names in labels.values() for name in names}) == 48


def test_the_metrics_have_a_row_for_each_validation_and_for_the_steps(finished):
    rows = read_metrics(finished[0].metrics)
    validations = [row for row in rows if METRIC in row]
    assert [row["step"] for row in validations] == [3, 6]
    assert all(0 <= row[METRIC] <= 1 for row in validations)
    at_checkpoint, steps = [row for row in rows if METRIC not in row]
    assert at_checkpoint["step"] == EVERY, "a checkpoint ends a row, so that a resumed run writes the same ones"
    assert steps["step"] == STEPS
    # The rate of the last step by the cosine: after 5 of 6 steps, without a warm-up step.
    assert steps["rate"] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi * 5 / 6)), rel=1e-4)
    assert np.log(3) / 2 < steps["loss"] < 3 * np.log(3)
    assert 0 <= steps["accuracy"] <= 1
    assert steps["grad_norm"] > 0
    assert steps["tasks_per_second"] > 0
    assert "finite" not in steps


def test_the_best_checkpoint_is_that_of_the_highest_validation_accuracy(finished):
    run, evaluation = finished
    accuracy = {row["step"]: row[METRIC] for row in read_metrics(run.metrics) if METRIC in row}
    best = run.result()["best_step"]
    assert best == evaluation.step
    assert run.result()[METRIC] == accuracy[best] == max(accuracy.values())


def test_training_moves_every_parameter(finished):
    run, _ = finished
    first = untrained_state(CONFIG, tokenizer_of(run).get_vocab_size())
    last = state_at(run, STEPS)
    assert int(last.step) == STEPS
    leaves = zip(jax.tree_util.tree_leaves_with_path(first.meta_params), jax.tree.leaves(last.meta_params), strict=True)
    for (path, before), after in leaves:
        # The key's bias shifts all scores of a query alike, which a softmax cannot see.
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert not np.array_equal(before, after), jax.tree_util.keystr(path)


def test_a_stopped_run_goes_on_to_the_same_parameters_bit_for_bit(finished, stopped, tmp_path):
    run = copy(stopped, tmp_path / "run")
    assert run.result() is None
    assert [row["step"] for row in read_metrics(run.metrics) if METRIC in row] == [3]
    fsj.train(CONFIG, run.path, quiet=True)
    assert run.result()["resumed_at"] == 3
    assert_identical(state_at(run, STEPS), state_at(finished[0], STEPS))
    validations = [[row for row in read_metrics(r.metrics) if METRIC in row] for r in (run, finished[0])]
    assert validations[0] == validations[1]


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    run = RunDirectory(tmp_path / "again")
    fsj.train(CONFIG, run.path, quiet=True)
    timing = {"tasks_per_second": None, "input_share": None, "seconds": None}
    one, other = ([{**row, **timing} for row in read_metrics(r.metrics)] for r in (run, finished[0]))
    assert one == other
    assert_identical(state_at(run, STEPS), state_at(finished[0], STEPS))


def test_a_finished_run_is_not_trained_again(finished, tmp_path, monkeypatch):
    run = copy(finished[0], tmp_path / "run")
    before = contents(run.path)
    monkeypatch.setattr(loop, "fit", None)
    assert fsj.train(CONFIG, run.path, quiet=True) is None
    assert contents(run.path) == before


def test_another_config_is_refused_and_names_the_fields(finished):
    run, _ = finished
    before = contents(run.path)
    other = changed(outer={"rate": 0.02}, model={"layers": 2})
    with pytest.raises(fsj.UserError, match="holds a run of another config") as error:
        fsj.train(other, run.path, quiet=True)
    assert "outer.rate: 0.01 -> 0.02" in str(error.value)
    assert "model.layers: 1 -> 2" in str(error.value)
    assert "--run-dir" in str(error.value)
    assert contents(run.path) == before


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(fsj.UserError, match="is not empty and holds no run; give another --run-dir"):
        fsj.train(CONFIG, tmp_path, quiet=True)
    assert contents(tmp_path) == {"thesis.tex": b"dear"}


@pytest.mark.parametrize("name", ["file", "file/run", "file/deep/run"])
def test_a_directory_that_cannot_be_made_is_refused_before_any_work(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(loop, "build_application", None)
    with pytest.raises(fsj.UserError, match=r"cannot write here .*(see|another) --run-dir"):
        fsj.train(CONFIG, tmp_path / name, quiet=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(fsj.UserError, match="cannot write here"):
            fsj.train(CONFIG, tmp_path / "run", quiet=True)
    finally:
        tmp_path.chmod(0o755)


def poison(patch, *, at, many=1):
    """Make the meta-gradient and a task's loss NaN from a step on, so many times."""
    meta_gradient = loop.meta_gradient

    def poisoned(learner, *shards):
        def grad(meta_params, episodes, key, progress):
            grads, metrics = meta_gradient(learner, *shards)(meta_params, episodes, key, progress)
            step = jnp.round(progress * STEPS) + 1
            factor = jnp.where((step >= at) & (step < at + many), jnp.nan, 1.0)
            bad = {name: metrics[name].at[1].multiply(factor) for name in ("task_loss", "support_loss")}
            return jax.tree.map(lambda leaf: leaf * factor, grads), {**metrics, **bad}

        return grad

    patch.setattr(loop, "meta_gradient", poisoned)


@pytest.mark.parametrize(("every", "saved"), [(3, 3), (2, 2)], ids=["read a step late", "at a validation"])
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(
    finished, tmp_path, monkeypatch, every, saved
):
    run = RunDirectory(tmp_path / "run")
    poison(monkeypatch, at=4)
    with pytest.raises(fsj.UserError) as error:
        fsj.train(changed(evaluation={"every": every}, recovery={"skip_limit": 1}), run.path, quiet=True)
    message = str(error.value)
    assert "at step 4 the loss of tasks [1] (first at inner step 0 of task 1) is not finite;" in message
    assert "Lower inner.rate or outer.rate" in message
    assert str(run.path) in message
    assert run.result() is None
    checkpoints = Checkpoints(run.checkpoints, ACCURACY, read_only=True)
    assert checkpoints.steps() == [saved]
    checkpoints.close()
    state = state_at(run, saved)
    assert int(state.step) == saved
    if saved == EVERY:
        assert_identical(state, state_at(finished[0], saved))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta_params))


def test_the_evaluation_stands_beside_the_floors(finished):
    run, evaluation = finished
    assert list(evaluation.scores) == ["maml", "TF-IDF centroid", "untrained, prototypes", "chance"]
    assert evaluation.scores["chance"][1].mean == pytest.approx(1 / 3)
    assert (evaluation.ways, evaluation.episodes, evaluation.finished) == (3, 6, True)
    difference = evaluation.scores["maml"][1].mean - evaluation.scores["TF-IDF centroid"][1].mean
    assert evaluation.gains["TF-IDF centroid"][1].mean == pytest.approx(difference)
    assert evaluation.gains.keys() == {"TF-IDF centroid", "untrained, prototypes"}
    written = run.evaluation()
    assert written == evaluation.to_json()
    assert written["accuracy"]["maml"]["1"] == evaluation.scores["maml"][1]._asdict()
    assert written["finished"] is True
    assert {"jax", "flax", "device"} <= written.keys()


def test_the_confusion_of_the_classes_is_that_of_the_accuracy(finished):
    evaluation = finished[1]
    (shots,), confusion = evaluation.confusion, evaluation.confusion[1]
    assert shots == 1 and confusion.classes == TextClassification.build(CONFIG).labels()["test"]
    counts = confusion.counts
    assert counts.sum() == evaluation.episodes * 3 * 2  # queries of three classes
    assert np.trace(counts) / counts.sum() == pytest.approx(evaluation.scores["maml"][1].mean)
    sampler = TextClassification.build(CONFIG).sampler("test", 1)
    drawn = [sampler.task(*divmod(index, CONFIG.evaluation.tasks)) for index in range(evaluation.episodes)]
    data = TextClassification.build(CONFIG).splits["test"]
    for number in range(len(confusion.classes)):
        of_class = [(data.label[task.query.position] == number).sum() for task in drawn]
        assert counts[number].sum() == sum(of_class) == confusion.asked[number, number]
        beside = [n for n, task in zip(of_class, drawn, strict=True) if (data.label[task.support.position] == 0).any()]
        assert confusion.asked[number, 0] == sum(beside)
    for label, other, share in confusion.worst(least=1):
        i, j = (confusion.classes.index(name) for name in (label, other))
        assert label != other and share == counts[i, j] / confusion.asked[i, j] > 0
    plain = evaluation.to_json()["confusion"]["1"]
    assert all(
        counts[confusion.classes.index(label), confusion.classes.index(other)] == count > 0
        for label, row in plain.items()
        for other, count in row.items()
    )
    assert sum(count for row in plain.values() for count in row.values()) == counts.sum()


def test_the_evaluation_of_an_unfinished_run_says_so(stopped, tmp_path):
    run = copy(stopped, tmp_path / "run")
    evaluation = fsj.evaluate(run.path, episodes=3, quiet=True)
    assert evaluation.finished is False
    assert evaluation.step == 3
    assert evaluation.episodes == 3
    assert run.evaluation() is None, "only an evaluation of the config's episodes and shots is kept"
    assert evaluation.to_json()["finished"] is False


def test_a_multi_task_baseline_counts_when_it_is_finished(finished, stopped, tmp_path, capsys):
    run = copy(finished[0], tmp_path / "run")
    copy(stopped, run.multi_task().path)
    run.update(changed(evaluation={"at_end": True}, baselines={"multi_task": True}))
    evaluation = fsj.evaluate(run.path, episodes=2)
    assert evaluation.scores.keys() == finished[1].scores.keys()
    assert "multi_task: unfinished, left out" in capsys.readouterr().err


def test_what_is_not_finite_is_null_in_json(finished):
    scores = {"maml": {1: Estimate(np.nan, np.nan)}}
    assert finished[1]._replace(scores=scores).to_json()["accuracy"] == {
        "maml": {"1": {"mean": None, "half_width": None}}
    }


def test_a_run_without_a_checkpoint_cannot_be_evaluated(tmp_path, monkeypatch):
    break_off(monkeypatch, at=1)
    with pytest.raises(Stop):
        fsj.train(CONFIG, tmp_path / "run", quiet=True)
    with pytest.raises(fsj.UserError, match="has no checkpoint yet"):
        fsj.evaluate(tmp_path / "run", quiet=True)


@pytest.mark.parametrize(("name", "message"), [("", "is not a run directory"), ("absent", "does not exist")])
def test_what_is_no_run_cannot_be_evaluated(tmp_path, name, message):
    with pytest.raises(fsj.UserError, match=message):
        fsj.evaluate(tmp_path / name, quiet=True)


def test_a_checkpoint_stands_alone(finished):
    from tokenizers import Tokenizer

    run, _ = finished
    checkpoints = Checkpoints(run.checkpoints, ACCURACY, read_only=True)
    record = checkpoints.record(STEPS)
    checkpoints.close()
    assert from_dict(record["config"]) == run.config()
    assert record["labels"] == json.loads((run.path / "labels.json").read_text())
    text = "please book tickets then cancel lunch"
    assert Tokenizer.from_str(record["tokenizer"]).encode(text).ids == tokenizer_of(run).encode(text).ids
    assert record["versions"]["jax"] == jax.__version__


def little_state(step, value=0.0):
    """A state of two numbers."""
    state = first_state({"params": jnp.full(2, value)}, optax.identity(), jax.random.key(0))
    return state._replace(step=jnp.int32(step))


@pytest.mark.parametrize(
    ("accuracies", "best", "kept"),
    [
        ([0.1, 0.9, 0.3, 0.4, 0.5], 2, [2, 4, 5]),
        ([0.1, 0.5, 0.5, 0.2, 0.2], 3, [3, 4, 5]),
        ([0.2, 0.3], 2, [1, 2]),
        ([np.nan, 0.3, np.nan, 0.2, np.nan, np.nan], 2, [2, 5, 6]),
    ],
)
def test_the_last_checkpoints_and_the_best_one_are_kept(tmp_path, accuracies, best, kept):
    checkpoints = Checkpoints(tmp_path / "checkpoints", ACCURACY, keep=2)
    for step, accuracy in enumerate(accuracies, start=1):
        checkpoints.save(little_state(step, step / 10), {"step": step}, {METRIC: accuracy})
    checkpoints.wait()
    assert checkpoints.best_step() == best
    assert checkpoints.best_metric() == accuracies[best - 1]
    assert checkpoints.steps() == kept
    assert_identical(checkpoints.restore(best, little_state(0)), little_state(best, best / 10))
    assert checkpoints.record(best) == {"step": best}
    checkpoints.close()


def test_a_validation_that_is_not_finite_is_no_number_in_json(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", ACCURACY)
    checkpoints.save(little_state(1), {}, {METRIC: np.nan})
    checkpoints.wait()
    assert checkpoints.best_step() == 1
    assert checkpoints.best_metric() is None
    checkpoints.close()


@pytest.mark.skipif(sys.platform != "linux", reason="makes files have a limit")
def test_only_what_the_disk_refuses_is_a_write_error_which_ends_a_study(tmp_path):
    import resource

    numbers = jnp.asarray(np.random.default_rng(0).random(30_000))  # more bytes than a file may have below

    def save(record, name):
        checkpoints = Checkpoints(tmp_path / name, ACCURACY)
        checkpoints.save(little_state(1)._replace(opt_state=numbers), record, None)
        checkpoints.wait()

    with pytest.raises(fsj.UserError, match=r"cannot write a checkpoint .*: mend what this says") as raised:
        save({"of no text": object()}, "one")
    assert not isinstance(raised.value, WriteError)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write a checkpoint .*File too large.*: free the disk"):
            save({}, "other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_meta_parameters_can_be_read_beside_any_optimizer(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", ACCURACY)
    state = little_state(1, 0.5)._replace(opt_state=({"mu": jnp.ones(2)}, jnp.ones(3)))
    checkpoints.save(state, {}, {METRIC: 0.5})
    checkpoints.close()
    reader = Checkpoints(tmp_path / "checkpoints", ACCURACY, read_only=True)
    restored = reader.restore_meta_params(1, little_state(0).meta_params)
    assert_identical(restored, state.meta_params)
    with pytest.raises(fsj.UserError, match=r"checkpoints/1: cannot restore this checkpoint"):
        reader.restore_meta_params(1, {"params": jnp.zeros(3)})
    with pytest.raises(fsj.UserError, match=r"cannot restore this checkpoint \(it has no meta_params/more\)"):
        reader.restore_meta_params(1, {"params": jnp.zeros(2), "more": jnp.zeros(1)})
    reader.close()


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", ACCURACY)
    checkpoints.save(little_state(1), {}, {METRIC: 0.5})
    checkpoints.wait()
    foreign = little_state(0)._replace(meta_params={"params": jnp.zeros(3), "more": jnp.zeros(1)})
    with pytest.raises(fsj.UserError, match=r"checkpoints/1: cannot restore this checkpoint"):
        checkpoints.restore(1, foreign)
    for file in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:3])
    with pytest.raises(fsj.UserError, match=r"checkpoints/1: this checkpoint is damaged .*is not what was written"):
        checkpoints.restore(1, little_state(0))
    checkpoints.close()


def test_a_resumed_metrics_file_drops_what_came_later_and_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2}\n{"step": 3}\n{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    file = MetricsFile(path, after=2)
    file.write({"step": 3, "loss": np.float32(0.5), "accuracy": float("nan"), "n": 2})
    file.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 1.0},
        {"step": 2},
        {"step": 3, "loss": 0.5, "accuracy": None, "n": 2},
    ]


def test_the_learning_rate_warms_up_then_decays_to_zero():
    rate = learning_rate(changed(outer={"steps": 100, "warmup": 0.1, "rate": 0.5}).outer)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(0.25)
    assert float(rate(10)) == pytest.approx(0.5)
    assert float(rate(55)) == pytest.approx(0.25)
    assert float(rate(100)) == pytest.approx(0, abs=1e-8)


def test_kernels_and_embeddings_decay_and_nothing_else_not_even_in_scanned_layers():
    config = changed(outer={"steps": 10, "warmup": 0.0, "rate": 0.1, "weight_decay": 0.5})
    optimizer = outer_optimizer(config.outer)
    params = jax.tree.map(jnp.ones_like, untrained_state(config, 9).meta_params)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decayed = {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}
    assert any("blocks" in path and path.endswith("scale") for path in decayed)
    for path, update in decayed.items():
        expected = -0.1 * 0.5 if path.endswith(("/kernel", "/embedding")) else 0.0
        np.testing.assert_allclose(update, np.full(update.shape, expected), rtol=1e-5, err_msg=path)


def test_changed_data_is_refused_on_resume_and_in_evaluation(stopped, tmp_path):
    run = copy(stopped, tmp_path / "run")
    fingerprints = json.loads((run.path / "data.json").read_text())
    (run.path / "data.json").write_text(json.dumps({**fingerprints, "test": "0"}))
    for call in (lambda: fsj.train(CONFIG, run.path, quiet=True), lambda: fsj.evaluate(run.path, quiet=True)):
        with pytest.raises(fsj.UserError, match=r"data has changed since this run started \(splits: test\)"):
            call()


@pytest.mark.parametrize("learner", ["maml", "multi_task"])  # multi_task takes no inner step in training
def test_a_start_that_failed_can_be_corrected_in_the_same_directory(tmp_path, learner):
    wrong = changed(inner={"params": "nosuch"}, learner={"name": learner})
    with pytest.raises(fsj.UserError, match="selects no leaf"):
        fsj.train(wrong, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_planned_run_stores_its_strategy_and_resumes_with_it_without_planning_again(tmp_path, monkeypatch, capsys):
    strategies = (Strategy("mixed", "carry", "boundary", 1),)
    monkeypatch.setattr("fewshot_jax.training.plan.STRATEGIES", strategies)
    monkeypatch.setattr(loop, "evaluate_experiment", lambda *arguments, **keywords: None)
    config = changed(
        learner={"plan": True, "memory_budget": 1000.0}, evaluation={"at_end": True}, baselines={"multi_task": True}
    )
    with monkeypatch.context() as patch:
        break_off(patch, at=4)
        with pytest.raises(Stop):
            fsj.train(config, tmp_path / "run")
    assert "memory budget: 1,000 MiB" in capsys.readouterr().err
    stored = RunDirectory(tmp_path / "run").config().learner
    assert stored == dataclasses.replace(config.learner, **strategies[0]._asdict())

    monkeypatch.setattr(loop, "planned", None)  # not to be called
    fsj.train(config, tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").result()["resumed_at"] == EVERY
    assert RunDirectory(tmp_path / "run").config().learner == stored
    beside = RunDirectory(tmp_path / "run").multi_task()
    assert beside.config().learner.task_chunk == stored.task_chunk
    (beside.path / "result.json").unlink()
    fsj.train(config, tmp_path / "run", quiet=True)
    assert beside.result()["resumed_at"] == STEPS, "the baseline goes on as well"


def test_the_multi_task_baseline_is_validated_by_fine_tuning_whatever_the_learner_adapts():
    config = changed(
        learner={"name": "cavia"},
        model={"context_width": 2},
        inner={"params": "^context"},
        baselines={"rates": (0.3, 0.1, 0.2), "steps": 7},
    )
    assert loop.multi_task_of(config).inner == InnerConfig(optimizer="adam", rate=0.2, steps=7)
    assert loop.multi_task_of(config).model == config.model, "its parameters serve the functions of the run"


def test_the_evaluation_and_the_baselines_of_a_run_may_change(finished, tmp_path):
    run = copy(finished[0], tmp_path / "run")
    wanted = changed(
        evaluation={"at_end": True, "episodes": 4}, baselines={"fine_tuning": True, "rates": (0.01,), "steps": 2}
    )
    evaluation = fsj.train(wanted, run.path, quiet=True)
    assert evaluation.episodes == 4
    assert "untrained, fine-tuned" in evaluation.scores
    assert run.config() == wanted
    assert run.evaluation() == evaluation.to_json()
    # The baseline that was trained with other rates to choose from is not trained again.
    for rates in ((0.01,), (0.1, 0.2)):
        wanted = changed(wanted, baselines={"multi_task": True, "rates": rates})
        assert "multi-task, fine-tuned" in fsj.train(wanted, run.path, quiet=True).scores
    assert run.multi_task().config().inner.rate == 0.01
    without = changed(wanted, baselines={"multi_task": False})
    assert "multi-task, fine-tuned" not in fsj.train(without, run.path, quiet=True).scores


@pytest.mark.parametrize(
    ("budget", "message"), [(0.001, "less than the optimizer's state"), (0.1, "no strategy fits into 0 MiB")]
)
def test_a_plan_without_a_way_to_fit_ends_before_the_run_starts(tmp_path, monkeypatch, budget, message):
    monkeypatch.setattr("fewshot_jax.training.plan.STRATEGIES", (Strategy("mixed", "carry", "boundary", 1),))
    with pytest.raises(fsj.UserError, match=rf"learner\.memory_budget: .*{message}"):
        fsj.train(changed(learner={"plan": True, "memory_budget": budget}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
