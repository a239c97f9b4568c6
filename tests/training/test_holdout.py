"""What is held out: every class once over the folds, by class, domain or data set; and what cannot be is said."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.table import build_application, score_of
from fewshot_jax.training import generalisation as module
from fewshot_jax.training.episode_scores import EPISODE_SCORES, write_episode_scores
from fewshot_jax.training.generalisation import ScoredPart, generalisation, summary
from fewshot_jax.training.holdout import Part, parts_of
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, config_of, merged

CLASSES = [f"{domain}{number}" for domain in "abcd" for number in range(6)]


def write(path, labels):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "domain"])
        rows.writerows([f"text {i} of {label}", label, label[0]] for label in labels for i in range(5))
    return path


def of_file(tmp_path, **data):
    write(tmp_path / "data.csv", CLASSES)
    episodes = {"ways": 2, "within_group": False}
    given = {"source": "files", "path": str(tmp_path / "data.csv"), "split_by": "label", **data}
    return config_of(RUN, data=given, episodes=episodes, evaluation={"ways": 2})


def of_sets(tmp_path):
    for domain in "abcd":
        write(tmp_path / f"{domain}.csv", [name for name in CLASSES if name[0] == domain])
    sets = [f"{domain}.csv" for domain in "abcd"]
    return of_file(tmp_path, path=str(tmp_path), sets=sets)


def test_each_class_is_tested_once_over_the_folds_of_a_seed(tmp_path):
    parts = parts_of(of_file(tmp_path), by="class", folds=4, seeds=(0, 5))
    assert [part.name for part in parts] == [f"fold_{fold}_seed_{seed}" for seed in (0, 5) for fold in range(4)]
    for of_seed in (parts[:4], parts[4:]):
        assert sorted(name for part in of_seed for name in part.tested) == CLASSES
    assert [part.tested for part in parts[:4]] == [part.tested for part in parts[4:]], "the same folds for all seeds"
    assert len({part.group for part in parts}) == 4
    assert [part.config.seed for part in parts] == [0] * 4 + [5] * 4
    assert all(part.held_out == part.tested for part in parts)


def test_the_config_says_how_folds_are_dealt(tmp_path):
    tested = []
    for split_seed in (0, 1):
        parts = parts_of(of_file(tmp_path, split_seed=split_seed), by="class", folds=4, seeds=(0, 5))
        assert {part.config.data.split_seed for part in parts} == {split_seed}
        tested.append([part.tested for part in parts])
    assert tested[0] != tested[1]


def test_folds_of_data_that_each_seed_generates_anew_are_folds_of_their_own():
    parts = parts_of(config_of(RUN, data={"groups": 12}), by="domain", folds=3, seeds=(0, 1))
    assert len({part.group for part in parts}) == 6


def test_one_domain_left_out_at_a_time(tmp_path):
    parts = parts_of(of_file(tmp_path, group_field="domain"), by="domain", folds=4)
    assert sorted(part.held_out for part in parts) == [("a",), ("b",), ("c",), ("d",)]
    assert all(len(part.tested) == 6 and {name[0] for name in part.tested} == set(part.held_out) for part in parts)


def test_one_data_set_left_out_at_a_time(tmp_path):
    parts = parts_of(of_sets(tmp_path), by="file", folds=4)
    assert sorted(part.held_out for part in parts) == [("a",), ("b",), ("c",), ("d",)]
    assert all(name.startswith(f"{part.held_out[0]}/") for part in parts for name in part.tested)


def test_without_folds_each_seed_holds_out_a_share(tmp_path):
    parts = parts_of(of_file(tmp_path), by="class", seeds=range(3))
    assert [part.name for part in parts] == ["seed_0", "seed_1", "seed_2"]
    assert {len(part.tested) for part in parts} == {6}
    assert len({part.tested for part in parts}) == len({part.group for part in parts}) == 3


def test_a_given_class_split_stays_unless_something_is_to_be_held_out(tmp_path):
    given = {"train": CLASSES[:12], "validation": CLASSES[12:18], "test": CLASSES[18:]}
    (tmp_path / "split.json").write_text(json.dumps(given))
    config = of_file(tmp_path, class_split=str(tmp_path / "split.json"))
    assert {part.tested for part in parts_of(config, seeds=(0, 1))} == {tuple(CLASSES[18:])}
    parts = parts_of(config, folds=2)
    assert sorted(name for part in parts for name in part.tested) == CLASSES


def test_the_tasks_of_other_data_are_held_out_too(tmp_path):
    rows = [{"source": f"s{i} {task}", "target": f"t{i}", "task": task} for task in "uvwx" for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "application": "translation",
        "data": {"source": "files", "path": str(tmp_path / "pairs.jsonl")},
        "tokenizer": {"kind": "word", "max_length": 12, "buckets": [12]},
        "evaluation": {"shots": [1], "queries": 2},
    }
    parts = parts_of(config_of(values), by="domain", folds=4)
    assert sorted(part.tested for part in parts) == [("u",), ("v",), ("w",), ("x",)]
    for by in ("class", "file"):
        with pytest.raises(fsj.UserError, match=rf"--by {by}: translation has tasks .* --by domain"):
            parts_of(config_of(values), by=by, folds=2)
    with pytest.raises(fsj.UserError, match=r"--folds 2: translation draws a new task for each episode"):
        parts_of(config_of(merged(values, data={"source": "generated", "path": None})), folds=2)


def test_what_cannot_be_held_out_is_named_with_its_numbers(tmp_path):
    config = of_file(tmp_path)
    for wrong, message in (
        ({"folds": 30}, r"fold_0_seed_0 .*data\.folds=30: there are 24 classes .*take 24 folds or fewer"),
        ({"folds": 20}, r"fold_4_seed_0 .*test split: 1 classes, but episodes have 2 ways; .*fewer --folds"),
        ({"folds": 1}, r"--folds 1: expected at least 2"),
        ({"folds": 2, "seeds": (1, 1)}, r"--seeds 1 1: expected each seed once"),
        ({"folds": 2, "seeds": (-1,)}, r"seed=-1"),
        ({}, r"give --folds K, or several --seeds"),
        ({"folds": 2, "by": "domain"}, r"--by domain: the texts have no domains; .*--data\.group_field"),
        ({"folds": 2, "by": "file"}, r"--by file: there is one data set; .*--data\.sets"),
    ):
        with pytest.raises(fsj.UserError, match=message):
            parts_of(config, **wrong)
    regression = config_of({"application": "regression"})
    with pytest.raises(fsj.UserError, match=r"--folds 2: regression draws a new task"):
        parts_of(regression, folds=2)
    assert [part.config.seed for part in parts_of(regression, seeds=(0, 3))] == [0, 3]


def test_scores_are_put_together_over_parts_and_paired_within():
    rng, config = np.random.default_rng(0), config_of(RUN)
    tested = []
    for number in range(5):
        floor = rng.random(40)
        scores = {"protonet": {1: floor + 0.1 * number}, "TF-IDF centroid": {1: floor}, "other": {1: floor}}
        tested.append(ScoredPart(Part(f"seed_{number}", config), scores))
    tested[3].scores.pop("other")
    result = summary(tested)
    assert result.bootstrapped
    assert list(result.scores) == ["protonet", "TF-IDF centroid"], "rows that all parts have"
    assert result.score == score_of(config)
    means = [one.scores["protonet"][1].mean() for one in tested]
    assert result.scores["protonet"][1].mean == pytest.approx(np.mean(means))
    gain = result.gains["TF-IDF centroid"][1]
    assert gain.mean == pytest.approx(0.2)
    assert 0 <= gain.low < 0.2 < gain.high <= 0.4, "paired: only the parts differ, by 0 to 0.4"
    assert not summary(tested[:4]).bootstrapped
    assert (result.over, result.groups) == ("seeds", 5)


def parts_of_folds(folds, seeds):
    base = config_of(RUN)
    return [
        Part(f"{fold} {seed}", dataclasses.replace(base, seed=seed, data=data), (f"class {fold}",), (f"class {fold}",))
        for seed in range(seeds)
        for fold in range(folds)
        for data in [dataclasses.replace(base.data, folds=folds, fold=fold)]
    ]


def test_seeds_of_a_fold_are_one_group_and_its_episodes_come_together():
    parts = parts_of_folds(5, 3)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 5, 8))
    result = summary([ScoredPart(p, {"protonet": {1: v}}) for p, v in zip(parts, values.reshape(15, 8), strict=True)])
    assert (result.over, result.groups, len(result.parts)) == ("folds", 5, 15)
    together = [ScoredPart(p, {"protonet": {1: values[:, fold].ravel()}}) for fold, p in enumerate(parts[:5])]
    assert result.scores == summary(together).scores
    told = result.to_json()
    assert (told["over"], told["groups"], told["interval"]) == ("folds", 5, "hierarchical bootstrap")
    few = summary([ScoredPart(part, {"protonet": {1: rng.normal(size=8)}}) for part in parts_of_folds(4, 3)])
    assert not few.bootstrapped, "twelve trainings on four folds are four draws of what is held out"


def test_intervals_over_folds_cover_the_mean_whatever_the_number_of_seeds():
    """Effects of five folds with deviation 1, shared by three seeds; 0.3 of a training, and 1 inside, 10 episodes.

    Fifteen groups, as if each training had held out other classes, cover it in fewer than 85 of 100 cases.
    """
    rng, trials, covered, as_if = np.random.default_rng(1), 200, 0, 0
    parts = parts_of_folds(5, 3)
    alone = [Part(part.name, config_of(RUN)) for part in parts]
    for _ in range(trials):
        centres = rng.normal(0, 1, 5) + rng.normal(0, 0.3, (3, 5))
        values = rng.normal(centres.ravel()[:, None], 1, (15, 10))
        for of, counts in ((parts, True), (alone, False)):
            tested = [ScoredPart(part, {"protonet": {1: v}}) for part, v in zip(of, values, strict=True)]
            found = summary(tested).scores["protonet"][1]
            if counts:
                covered += found.low <= 0 <= found.high
            else:
                as_if += found.low <= 0 <= found.high
    assert abs(covered / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials)
    assert as_if / trials < 0.85


def finished(part, folder):
    """The run of a part as training and evaluation leave it, but for a checkpoint."""
    run, application = RunDirectory(folder / part.name), build_application(part.config)
    run.start(application, application.fingerprint())
    run.write("result.json", {"best_step": 1})
    scores = {part.config.learner.name: {1: np.linspace(0, 1, 4)}}
    write_episode_scores(run.path / EPISODE_SCORES, scores, score="accuracy", step=1)


def test_scores_of_finished_parts_are_kept_only_while_their_texts_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train", lambda *arguments, **more: pytest.fail("trained again"))
    config = of_file(tmp_path)
    parts = parts_of(config, by="class", folds=2)
    for part in parts:
        finished(part, tmp_path / "runs")
    assert generalisation(parts, tmp_path / "runs", quiet=True).scores["protonet"][1].mean == pytest.approx(0.5)
    file = tmp_path / "data.csv"
    file.write_text(file.read_text().replace("text 3 of c2", "another text of c2"))
    again = parts_of(config, by="class", folds=2)
    assert [part.tested for part in again] == [part.tested for part in parts], "the names of classes are the same"
    with pytest.raises(fsj.UserError, match=r"fold_0_seed_0: the data has changed since .* start a new run"):
        generalisation(again, tmp_path / "runs", quiet=True)
