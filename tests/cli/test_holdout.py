"""``evaluate`` of a config over folds, of two runs compared, and of what test shares with other splits."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import yaml

from fewshot_jax.applications.table import build_application
from fewshot_jax.training import evaluate as evaluation
from fewshot_jax.training import loop
from fewshot_jax.training.episode_scores import read_episode_scores, write_episode_scores
from fewshot_jax.training.run_directory import RunDirectory, resolve
from tests.cli.test_cli import assert_mistake, call
from tests.small_run import RUN, config_of, merged

FLAGS = ["--folds", "2", "--seeds", "3", "--quiet"]


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """The directory of two folds, and what their training printed."""
    folder = tmp_path_factory.mktemp("holdout")
    values = merged(RUN, outer={"steps": 2, "tasks": 1}, evaluation={"every": 2})
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder, call(["evaluate", folder / "config.yaml", *FLAGS, "--run-dir", folder / "runs", "--json"])


def test_two_folds_are_trained_tested_and_put_together(folds):
    folder, (code, out, err) = folds
    assert code == 0, err
    assert err == ""
    result = json.loads(out)
    assert [part["name"] for part in result["parts"]] == ["fold_0_seed_3", "fold_1_seed_3"]
    tested = [name for part in result["parts"] for name in part["tested"]]
    assert len(tested) == len(set(tested)) == 48
    values = []
    for part in result["parts"]:
        run = folder / "runs" / part["name"]
        labels = json.loads((run / "labels.json").read_text())
        assert labels["test"] == part["tested"]
        assert not set(labels["test"]) & {*labels["train"], *labels["validation"]}
        values.append(read_episode_scores(run)["protonet"][1])
    assert result["scores"]["protonet"]["1"]["mean"] == pytest.approx(np.mean(values))


def test_the_same_command_goes_on_and_does_again_only_what_is_not_done(folds, tmp_path):
    folder, (_, first, _) = folds
    shutil.copytree(folder / "runs", tmp_path / "runs")
    kept, lost = (tmp_path / "runs" / f"fold_{fold}_seed_3" for fold in range(2))
    (lost / "episode_scores.json").unlink()  # as if killed before the evaluation
    before = (kept / "episode_scores.json").stat().st_mtime_ns
    code, out, err = call(["evaluate", folder / "config.yaml", *FLAGS, "--run-dir", tmp_path / "runs"])
    assert code == 0, err
    assert (kept / "episode_scores.json").stat().st_mtime_ns == before
    assert (lost / "episode_scores.json").exists()
    for word in ("protonet", "TF-IDF centroid", "chance", "fold_1_seed_3", "2 trainings, 4 episodes of each"):
        assert word in out
    assert "from 5 folds on they are over folds too" in " ".join(out.split())
    code, again, err = call(["evaluate", folder / "config.yaml", *FLAGS, "--run-dir", tmp_path / "runs", "--json"])
    assert code == 0, err
    assert json.loads(again) == json.loads(first)


def test_mistakes_of_a_holdout(folds, tmp_path):
    config, runs = folds[0] / "config.yaml", folds[0] / "runs"
    assert_mistake(["evaluate", config, *FLAGS, "--run-dir", runs / "fold_0_seed_3"], "holds a run of its own")
    assert_mistake(["evaluate", config, "--folds", "9", "--run-dir", tmp_path], "data.folds=9", "8 classes", "8 folds")
    assert_mistake(["evaluate", config, "--run-dir", tmp_path], "--folds K, or several --seeds")
    assert_mistake(["evaluate", "--folds", "2"], "evaluate needs a config")
    code, _, err = call(["evaluate", config, "--folds", "2", "--by", "author", "--run-dir", tmp_path])
    assert code == 2
    assert all(word in err for word in ("author", "class", "domain", "file"))
    changed = ["--inner.steps", "2", "--outer.rate", "0.5"]
    assert_mistake(["evaluate", config, *FLAGS, "--run-dir", runs, *changed], "holds a run of another config")


@pytest.fixture
def pair(folds, tmp_path):
    """Two runs on the same episodes, the first better by one query of six in two of their four."""
    for name in ("one", "other"):
        shutil.copytree(folds[0] / "runs" / "fold_0_seed_3", tmp_path / name)
    scores = {"protonet": {1: np.array([0.5, 0.5, 1.0, 0.5])}}
    better = {"protonet": {1: scores["protonet"][1] + np.array([1, 0, 0, 1]) / 6}}
    for name, these in (("one", better), ("other", scores)):
        write_episode_scores(tmp_path / name / "episode_scores.json", these, score="accuracy", step=2)
    return tmp_path / "one", tmp_path / "other"


def test_two_runs_are_compared_by_the_scores_that_they_kept(pair):
    code, out, err = call(["evaluate", *pair, "--compare", "--json"])
    assert code == 0, err
    assert err == "", "nothing was evaluated"
    result = json.loads(out)
    assert result["runs"] == [str(path) for path in pair]
    found = result["shots"]["1"]
    assert found["difference"]["mean"] == pytest.approx(1 / 12)
    assert found["p_value"] == 0.5, "of 16 choices of signs those that leave two of the same sign: 8"
    assert (found["episodes"], found["exact"]) == (4, True)
    code, out, err = call(["evaluate", *pair, "--compare", "--episodes", "3"])
    assert code == 0, err
    assert all(word in out for word in ("+5.6", "1.0000", "all exchanges")), "the first three of four"


def test_scores_that_were_not_kept_are_evaluated(pair, monkeypatch):
    monkeypatch.setattr(
        evaluation, "baselines_of", lambda *arguments: pytest.fail("evaluated the rows beside the learner")
    )
    code, out, err = call(["evaluate", *pair, "--compare", "--episodes", "6", "--quiet", "--json"])
    assert code == 0, err
    found = json.loads(out)["shots"]["1"]
    assert found["episodes"] == 6, "of which four were kept"
    assert (found["difference"]["mean"], found["p_value"]) == (0, 1), "the runs are copies"
    assert len(read_episode_scores(pair[0])["protonet"][1]) == 4, "what the config asks for is still there"


def test_what_is_evaluated_again_is_what_an_evaluation_kept(folds, tmp_path):
    kept = folds[0] / "runs" / "fold_0_seed_3"
    shutil.copytree(kept, tmp_path / "run")
    (tmp_path / "run" / "episode_scores.json").unlink()
    code, out, err = call(["evaluate", kept, tmp_path / "run", "--compare", "--json"])
    assert code == 0, err
    assert err.count("evaluating protonet on 4 episodes") == 1
    found = json.loads(out)["shots"]["1"]
    assert (found["difference"]["mean"], found["difference"]["half_width"], found["p_value"]) == (0, 0, 1)


def test_runs_that_cannot_be_compared(folds, pair):
    assert_mistake(["evaluate", pair[0], "--compare"], "--compare takes two runs, not 1")
    assert_mistake(["evaluate", *pair, pair[0], "--compare"], "--compare takes two runs, not 3")
    assert_mistake(["evaluate", pair[0], pair[0] / ".", "--compare"], pair[0], "are one run")
    other_fold = folds[0] / "runs" / "fold_1_seed_3"
    assert_mistake(["evaluate", pair[0], other_fold, "--compare"], "its test episodes are not those of", "data.fold")
    data = json.loads((pair[1] / "data.json").read_text())
    (pair[1] / "data.json").write_text(json.dumps({**data, "test": "changed"}))
    assert_mistake(["evaluate", *pair, "--compare"], pair[1], "its test data is not that of")


def write_leaky(path):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(400)]
    texts = {f"class{c:02d}": [" ".join(rng.choice(words, 8)) for _ in range(5)] for c in range(12)}
    split = {"train": list(texts)[:6], "validation": list(texts)[6:9], "test": list(texts)[9:]}
    planted = texts["class00"][0], texts["class01"][0]
    texts["class09"][0], texts["class10"][0] = planted[0].upper(), f"{planted[1]} too"
    texts["class11"][0] = texts["class06"][0]  # of validation
    path.mkdir()
    (path / "split.json").write_text(json.dumps(split))
    rows = [json.dumps({"text": text, "label": label}) for label, of in texts.items() for text in of]
    (path / "texts.jsonl").write_text("\n".join(rows) + "\n")


def leaky_config(folder):
    write_leaky(folder / "data")
    data = {"source": "files", "path": str(folder / "data"), "files": ["texts.jsonl"], "class_split": "split.json"}
    return config_of({**RUN, "data": data}, episodes={"within_group": False})


def test_a_start_of_training_warns_of_what_test_shares(tmp_path, monkeypatch, capsys):
    config = leaky_config(tmp_path)
    monkeypatch.setattr(loop.Experiment, "check", lambda self: None)
    monkeypatch.setattr(loop, "_train", lambda *arguments: None)
    loop.train(config, tmp_path / "run")
    err = capsys.readouterr().err
    assert err.count("warning: ") == 3
    assert "1 of 15 test texts are training texts too (such as" in err
    assert "1 of 15 test texts are nearly training texts (such as" in err
    assert "1 of 15 test texts are validation texts too (such as" in err
    assert "--check-leakage" in err
    loop.train(config, tmp_path / "run", quiet=True)
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_is_not_compared_again(folds, monkeypatch):
    monkeypatch.setattr(loop, "warn_of_leakage", lambda application: pytest.fail("compared again"))
    run = RunDirectory(folds[0] / "runs" / "fold_0_seed_3")
    config = dataclasses.replace(run.config(), evaluation=dataclasses.replace(run.config().evaluation, at_end=False))
    assert loop.train(config, run.path) is None


def test_a_check_lists_what_is_shared(tmp_path):
    run = RunDirectory(tmp_path / "run")
    application = build_application(resolve(leaky_config(tmp_path)))
    run.start(application, application.fingerprint())
    code, out, err = call(["evaluate", run.path, "--check-leakage", "--json"])
    assert code == 0, err
    found = json.loads(out)
    for split, counts in (("training", [0, 1, 1]), ("validation", [0, 1, 0])):
        assert [len(found[split][kind]) for kind in ("classes", "exact", "near")] == counts
    (near,) = found["training"]["near"]
    assert near["test"] == f"{near['known']} too"
    assert 0.8 <= near["similarity"] < 1
    code, out, err = call(["evaluate", run.path, "--check-leakage"])
    assert code == 0, err
    assert all(word in out for word in ("nearly", "30", "15", "similarity", " too", "validation: "))
    file = tmp_path / "data" / "texts.jsonl"
    file.write_text(file.read_text().replace(near["test"], "removed after training"))
    assert_mistake(["evaluate", run.path, "--check-leakage"], run.path, "the data has changed since", "splits: test")


def test_a_run_without_leaks_and_one_without_texts(folds, tmp_path):
    code, out, err = call(["evaluate", folds[0] / "runs" / "fold_0_seed_3", "--check-leakage", "--json"])
    assert code == 0, err
    for split in ("training", "validation"):
        assert [json.loads(out)[split][kind] for kind in ("classes", "exact", "near")] == [[], [], []]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"application": "regression"}))
    assert_mistake(["evaluate", tmp_path, "--check-leakage"], "--check-leakage", "regression", "no texts")
