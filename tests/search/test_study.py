"""Studies of quick objectives: every trial once, whatever dies in between."""

import collections
import csv
import errno
import fcntl
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from fewshot_jax.applications.application import Score
from fewshot_jax.config import Config
from fewshot_jax.config_file import from_dict, read_config
from fewshot_jax.errors import UserError
from fewshot_jax.search.results import TrialRow, write_trials
from fewshot_jax.search.study import tune
from fewshot_jax.search.study_files import StudyFiles

REGRESSION = from_dict({"application": "regression", "model": {"width": 8}})  # less is better
GRID = {"inner.steps": {"low": 1, "high": 3}, "inner.optimizer": {"choices": ["sgd", "adam"]}}
POINTS = {(steps, optimizer) for steps in (1, 2, 3) for optimizer in ("sgd", "adam")}


def bowl(config, run_dir, report):
    """Least, 0, at an inner rate of 0.1 and an outer rate of 0.001."""
    return math.log10(config.inner.rate / 0.1) ** 2 + math.log10(config.outer.rate / 0.001) ** 2


def product(config, run_dir, report):
    return config.inner.steps * {"sgd": 2.0, "adam": 3.0}[config.inner.optimizer]


def values(rows):
    return [tuple(row.values[name] for name in GRID) for row in rows]


def test_a_grid_tries_every_point_once(tmp_path):
    found = tune(REGRESSION, GRID, tmp_path / "s", sampler="grid", trials=100, objective=product, quiet=True)
    assert collections.Counter(values(found.trials)) == dict.fromkeys(POINTS, 1)
    assert found.best.score == 2 and found.best.values == {"inner.steps": 1, "inner.optimizer": "sgd"}
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.config == read_config(tmp_path / "s" / "best.yaml"), "a config as train takes it"
    assert (found.config.inner.steps, found.config.inner.optimizer) == (1, "sgd")
    with (tmp_path / "s" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(int(row["inner.steps"]), row["inner.optimizer"]) for row in rows} == POINTS
    assert [float(row["validation_mean_squared_error"]) for row in rows] == [row.score for row in found.trials]
    for name in ("history.png", "importance.png"):
        assert (tmp_path / "s" / name).read_bytes().startswith(b"\x89PNG")
    again = tune(REGRESSION, GRID, tmp_path / "s", sampler="grid", trials=100, objective=None, quiet=True)
    assert again.trials == found.trials, "nothing is left to do"


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=[pytest.mark.parity, pytest.mark.slow])])
def test_a_sampler_learns_where_the_least_of_a_bowl_is(tmp_path, sampler):
    if sampler == "gp":
        pytest.importorskip("torch")
    ends = {"low": 1e-5, "high": 10.0, "log": True}
    space = {"inner.rate": ends, "outer.rate": ends}
    found = tune(REGRESSION, space, tmp_path, trials=30, sampler=sampler, objective=bowl, quiet=True)
    scores = [row.score for row in found.trials]
    assert len(scores) == 30
    assert min(scores) < 0.5 * min(scores[:10]), "the first ten are random"
    assert sum(scores[20:]) < 0.5 * sum(scores[:10])
    assert found.best.score == min(scores)


def test_an_interrupted_trial_comes_again_in_its_run_and_no_other_is_lost_or_repeated(tmp_path):
    calls = []

    def interrupted(config, run_dir, report):
        calls.append(run_dir.name)
        if len(calls) in (2, 3, 4, 5, 8):
            raise KeyboardInterrupt
        return product(config, run_dir, report)

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            tune(REGRESSION, GRID, tmp_path, sampler="grid", objective=interrupted, quiet=True)
    found = tune(REGRESSION, GRID, tmp_path, sampler="grid", objective=interrupted, quiet=True)
    states = collections.Counter(row.state for row in found.trials)
    assert states == {"complete": 6, "interrupted": 5}
    complete = [row for row in found.trials if row.state == "complete"]
    assert collections.Counter(values(complete)) == dict.fromkeys(POINTS, 1)
    assert len(set(calls[1:6])) == 1 and calls[7] == calls[8], "the same values, in the same run directory"
    assert len(set(calls)) == 6


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_an_interrupted_study_tries_what_an_undisturbed_one_does(tmp_path, sampler):
    space, calls = {"inner.rate": {"low": 1e-3, "high": 1.0, "log": True}}, []

    def interrupted(config, run_dir, report):
        calls.append(run_dir.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return config.inner.rate

    given = {"trials": 4, "sampler": sampler, "quiet": True}
    whole = tune(REGRESSION, space, tmp_path / "a", objective=lambda config, *_: config.inner.rate, **given)
    with pytest.raises(KeyboardInterrupt):
        tune(REGRESSION, space, tmp_path / "b", objective=interrupted, **given)
    again = tune(REGRESSION, space, tmp_path / "b", objective=interrupted, **given)
    tried = [[row.score for row in found.trials if row.state == "complete"] for found in (whole, again)]
    assert tried[0] == tried[1] and len(set(tried[0])) == 4


def test_a_trial_that_always_ends_its_process_is_given_up(tmp_path):
    def fatal(config, run_dir, report):
        if config.inner.steps == 2:
            raise SystemExit
        return 1.0

    space = {"inner.steps": {"low": 1, "high": 3}}
    for _ in range(3):
        with pytest.raises(SystemExit):
            tune(REGRESSION, space, tmp_path, sampler="grid", objective=fatal, quiet=True)
    found = tune(REGRESSION, space, tmp_path, sampler="grid", objective=fatal, quiet=True)
    assert [row.values["inner.steps"] for row in found.trials if row.state == "failed"] == [2]
    assert sorted(row.values["inner.steps"] for row in found.trials if row.state == "complete") == [1, 3]


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from fewshot_jax.config_file import from_dict
from fewshot_jax.search.study import tune

directory, kill = Path(sys.argv[1]), sys.argv[2]

def objective(config, run_dir, report):
    with (directory / "calls").open("a") as file:
        file.write(f"{os.getpid()} {config.inner.steps}\\n")
    if kill == "kill" and config.inner.steps == 2:
        with (directory / "s" / "journal.log").open("a") as file:
            file.write('{"op_code": 5, "wor')  # a line that the kill tears
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return float(config.inner.steps)

config = from_dict({"application": "regression", "model": {"width": 8}})
tune(config, {"inner.steps": {"low": 1, "high": 8}}, directory / "s", sampler="grid", objective=objective, quiet=True)
"""


def start(directory, kill="live"):
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, "-c", SCRIPT, str(directory), kill]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.faults
@pytest.mark.distributed
def test_two_processes_share_the_trials_of_a_study_that_a_kill_left(tmp_path):
    killed = start(tmp_path, "kill")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    pair = [start(tmp_path), start(tmp_path)]
    for process in pair:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    live = {str(process.pid) for process in pair}
    before = [int(steps) for pid, steps in calls if pid not in live]
    after = [int(steps) for pid, steps in calls if pid in live]
    assert before[-1] == 2, "where it was killed"
    assert sorted(before[:-1] + after) == list(range(1, 9)), "each once, the one that was cut off again"
    trials = StudyFiles(tmp_path / "s").study(larger_is_better=False).trials
    complete = [trial.value for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(complete) == list(range(1, 9))


def test_a_trial_behind_the_others_is_pruned(tmp_path):
    """Of falling curves one far above the median of those before ends at its first report."""

    def curve(config, run_dir, report):
        offset = 100.0 if config.inner.steps > 6 else 5.0
        for step in (1, 2, 3):
            report(step, offset - step)
        return offset - 3

    space = {"inner.steps": {"low": 1, "high": 8}}
    found = tune(REGRESSION, space, tmp_path, sampler="random", trials=25, objective=curve, quiet=True)
    pruned = [row for row in found.trials if row.state == "pruned"]
    assert pruned and all(row.values["inner.steps"] > 6 and row.steps == 1 for row in pruned)
    assert all(row.number >= 5 for row in pruned), "the first have nobody to be compared with"
    assert found.best.score == 2.0
    whole = tune(
        REGRESSION, space, tmp_path / "whole", sampler="random", trials=12, pruner="none", objective=curve, quiet=True
    )
    assert {row.state for row in whole.trials} == {"complete"}


def test_values_that_do_not_go_together_fail_and_the_study_goes_on(tmp_path):
    config = from_dict({"learner": {"name": "maml"}})
    space = {"learner.name": {"choices": ["maml", "cavia"]}, "model.context_width": {"choices": [0, 4]}}
    found = tune(config, space, tmp_path, sampler="grid", objective=lambda *_: 1.0, quiet=True)
    states = {(row.values["learner.name"], row.values["model.context_width"]): row.state for row in found.trials}
    good = {("maml", 0), ("cavia", 4)}
    assert states == {
        (name, width): "complete" if (name, width) in good else "failed"
        for name in ("maml", "cavia")
        for width in (0, 4)
    }
    assert all("context_width" in row.why for row in found.trials if row.state == "failed")


def test_a_study_whose_trials_all_fail_stops_and_says_why(tmp_path):
    def no_data(config, run_dir, report):
        raise UserError("data.csv: no such file")

    with pytest.raises(UserError, match=r"the first 3 trials failed, the last because: data.csv: no such file"):
        tune(Config(), GRID, tmp_path, objective=no_data, quiet=True)
    with pytest.raises(UserError, match=r"none of 1 trials ended with a score.*its score is nan"):
        tune(Config(), GRID, tmp_path / "nan", trials=1, objective=lambda *_: math.nan, quiet=True)


def test_a_directory_of_another_study_is_refused(tmp_path):
    def quick(*arguments, **keywords):
        return tune(*arguments, trials=1, objective=product, quiet=True, **keywords)

    quick(REGRESSION, GRID, tmp_path / "s")
    other = {**GRID, "inner.steps": {"low": 1, "high": 4}}
    with pytest.raises(UserError, match=r"holds a study of another .*space of inner.steps: .*'high': 3.*'high': 4"):
        quick(REGRESSION, other, tmp_path / "s")
    with pytest.raises(UserError, match=r"holds a study of another .*model.width: 8 -> 16"):
        quick(from_dict({"application": "regression", "model": {"width": 16}}), GRID, tmp_path / "s")
    with pytest.raises(UserError, match="holds a study of no grid"):
        quick(REGRESSION, GRID, tmp_path / "s", sampler="grid")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no study; give another --study"):
        quick(REGRESSION, GRID, tmp_path / "other")
    with pytest.raises(UserError, match="--workers 0: expected at least 1"):
        quick(REGRESSION, GRID, tmp_path / "s", workers=0)
    (tmp_path / "s" / "journal.log").write_text('{"op_code"\n{}\n')
    with pytest.raises(UserError, match=r"journal.log: cannot read the study"):
        quick(REGRESSION, GRID, tmp_path / "s")


def test_a_file_system_without_locks_serves_a_process_that_is_alone(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    found = tune(REGRESSION, GRID, tmp_path / "s", trials=2, objective=product, quiet=True)
    assert [row.state for row in found.trials] == ["complete"] * 2


def test_a_lock_that_cannot_be_written_is_one_message(tmp_path):
    tune(REGRESSION, GRID, tmp_path / "s", trials=1, objective=product, quiet=True)
    (tmp_path / "s" / "locks" / "study").unlink()
    (tmp_path / "s" / "locks" / "study").mkdir()
    with pytest.raises(UserError, match=r"locks/study: cannot write here \(.*\); .* give another --study"):
        tune(REGRESSION, GRID, tmp_path / "s", trials=1, objective=product, quiet=True)


def test_no_cell_of_the_trials_is_a_formula_to_a_spreadsheet(tmp_path):
    row = TrialRow(
        number=0,
        state="failed",
        values={"=field": "=HYPERLINK(1)", "model.pretrained": "@cmd", "inner.rate": -0.5},
        score=-1.5,
        steps=1,
        seconds=2.0,
        run="-run",
        why="+1 failed",
    )
    score = Score("loss", lambda outputs, episode: 0.0)
    write_trials([row], list(row.values), score, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="") as file:
        header, cells = csv.reader(file)
    assert header[2:5] == ["'=field", "model.pretrained", "inner.rate"]
    assert cells[2:6] == ["'=HYPERLINK(1)", "'@cmd", "-0.5", "-1.5"]
    assert cells[-2:] == ["'-run", "'+1 failed"]
