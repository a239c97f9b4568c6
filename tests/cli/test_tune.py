"""``fewshot-jax tune``: a study of runs of seconds, and mistakes in one message."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest
import yaml

from fewshot_jax.applications.application import Score
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import read_config
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.search import inner_grid
from fewshot_jax.search.inner_grid import InnerGrid
from fewshot_jax.search.study_files import StudyFiles
from tests.small_run import RUN, merged

SPACE = {"outer.rate": {"choices": [0.001, 0.01]}}


def call(*arguments):
    """(exit code, stdout, stderr) of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A config and a space."""
    folder = tmp_path_factory.mktemp("tune")
    values = merged(RUN, outer={"steps": 2, "tasks": 1})
    values["evaluation"] = {**values["evaluation"], "every": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return folder


@pytest.fixture(scope="module")
def study(files):
    """A study of two trials, and what the command printed."""
    flags = ("--space", files / "space.yaml", "--study", files / "study", "--sampler", "grid", "--trials", "2")
    return files / "study", call("tune", *flags, files / "config.yaml", "--evaluation.queries", "3")


def test_a_study_writes_its_files_and_prints_its_trials(study):
    directory, (code, out, err) = study
    assert code == 0, err
    for word in ("outer.rate", "accuracy (%)", "2 complete trials", "best.yaml"):
        assert word in out
    assert "trial 0: outer.rate" in err and "trial 1: outer.rate" in err
    for name in ("journal.log", "trials.csv", "best.yaml", "history.png", "config.yaml", "space.yaml"):
        assert (directory / name).exists()
    with (directory / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {float(row["outer.rate"]) for row in rows} == {0.001, 0.01}
    assert [(row["number"], row["state"], row["steps"]) for row in rows] == [
        ("0", "complete", "2"),
        ("1", "complete", "2"),
    ]
    for row in rows:
        run = directory / "trials" / row["run"]
        result = json.loads((run / "result.json").read_text())
        assert float(row["validation_accuracy"]) == result["validation_accuracy"], "of the best checkpoint"
        assert not (run / "evaluation.json").exists(), "nobody has looked at the test classes"
        assert read_config(run / "config.yaml").outer.rate == float(row["outer.rate"])
    trials = StudyFiles(directory).study(larger_is_better=True).trials
    assert [list(trial.intermediate_values) for trial in trials] == [[1, 2]] * 2, "each validation is reported"
    best = read_config(directory / "best.yaml")
    assert best.evaluation.queries == 3, "what the command line overrides"
    scores = {float(row["outer.rate"]): float(row["validation_accuracy"]) for row in rows}
    assert scores[best.outer.rate] == max(scores.values())


def test_the_same_command_finds_the_study_done_and_prints_json(study, files):
    flags = ("--space", files / "space.yaml", "--study", study[0], "--sampler", "grid", "--trials", "2")
    given = (files / "config.yaml", *flags, "--evaluation.queries", "3")
    code, out, err = call("tune", *given, "--json", "--quiet", "--evaluate")
    assert code == 0, err
    printed = json.loads(out)
    assert [row["state"] for row in printed["trials"]] == ["complete"] * 2
    assert printed["best"]["score"] == max(row["score"] for row in printed["trials"])
    run = study[0] / "trials" / printed["best"]["run"]
    assert printed["evaluation"] == json.loads((run / "evaluation.json").read_text())


def test_the_grid_says_its_best_the_runs_own_and_how_far_to_trust_the_difference(monkeypatch):
    found = InnerGrid(
        run="r",
        score=Score("accuracy", lambda outputs, episode: 0.0),
        rates=(0.1, 0.4),
        learned=False,
        steps=(1, 2),
        shots=(1, 5),
        episodes=30,
        scores=np.array([[0.25, 0.5], [0.75, np.nan]]),
        own=(0.2, 3),
        own_score=0.625,
        difference=Estimate(0.125, 0.05),
    )
    monkeypatch.setattr(inner_grid, "tune_inner", lambda *_, **__: found)
    code, out, err = call("tune", "runs/r", "--inner")
    assert code == 0, err
    assert "* the best: rate 0.4, 1 step, 75.0; the run's own: rate 0.2, 3 steps, 62.5" in out
    assert "the best minus the run's own, paired over the episodes, with its 95% interval: +12.5 ± 5.0" in out
    assert "this is optimistic: the best was chosen on these episodes" in out
    code, out, err = call("tune", "runs/r", "--inner", "--json")
    printed = json.loads(out)
    assert printed["best"] == {"rate": 0.4, "steps": 1, "score": 0.75, "chosen_on_these_episodes": True}
    assert printed["own"] == {"rate": 0.2, "steps": 3, "score": 0.625}
    assert printed["best_minus_own"] == {"mean": 0.125, "half_width": 0.05}


def assert_mistake(*arguments, words):
    code, out, err = call(*arguments)
    assert code == 2, err
    assert "Traceback" not in out + err
    for word in words:
        assert str(word) in out + err


def test_mistakes_are_one_message_and_code_2(files, tmp_path, study):
    config, space = files / "config.yaml", files / "space.yaml"
    where = ("--study", tmp_path / "s")
    assert_mistake(
        "tune", config, "--space", tmp_path / "absent.yaml", *where, words=["absent.yaml: no such search space"]
    )
    (tmp_path / "bad.yaml").write_text("inner.rat: {low: 1, high: 2}\n")
    assert_mistake(
        "tune", config, "--space", tmp_path / "bad.yaml", *where, words=["bad.yaml", "'inner.rat'", "'inner.rate'"]
    )
    (tmp_path / "empty.yaml").write_text("")
    assert_mistake("tune", config, "--space", tmp_path / "empty.yaml", *where, words=["empty.yaml", "is empty"])
    (tmp_path / "twice.yaml").write_text("inner.rate: {low: 1, high: 2}\ninner.rate: {low: 1, high: 2}\n")
    assert_mistake("tune", config, "--space", tmp_path / "twice.yaml", *where, words=["line 2", "stands twice"])
    assert_mistake("tune", config, "--space", space, *where, "--trials", "0", words=["--trials 0: expected at least 1"])
    assert_mistake("tune", config, "--space", space, *where, "--sampler", "tpee", words=["tpee"])
    assert_mistake("tune", "--space", space, *where, words=["tune needs a config", "--study DIR"])
    assert_mistake("tune", config, *where, words=["space"])
    (tmp_path / "float.yaml").write_text("outer.rate: {low: 0.1, high: 1.0}\n")
    given = ("--space", tmp_path / "float.yaml", *where, "--sampler", "grid")
    assert_mistake("tune", config, *given, words=["float.yaml: outer.rate", "a grid needs"])
    assert not (tmp_path / "s").exists()
    run = study[0] / "trials" / "0"
    assert_mistake("tune", run, words=["is a directory", "--inner"])
    assert_mistake("tune", run, "--inner", words=["protonet has no inner loop"])
    assert_mistake("tune", tmp_path, "--inner", words=["is not a run directory"])
