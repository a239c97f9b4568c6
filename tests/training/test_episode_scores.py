"""The scores of episodes that a run keeps: the ones behind its table, read back as they were."""

import json

import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.evaluation.statistics import estimate
from fewshot_jax.training.episode_scores import read_episode_scores, scored_step, write_episode_scores
from tests.small_run import RUN, config_of

SCORES = {"maml": {1: np.float32([0.1, np.nan, 0.7]), 5: np.array([1.0, np.inf])}, "TF-IDF centroid": {1: np.ones(3)}}


def test_what_is_written_is_read_and_what_is_not_finite_is_nan(tmp_path):
    write_episode_scores(tmp_path / "episode_scores.json", SCORES, score="accuracy", step=7)
    found = read_episode_scores(tmp_path)
    assert found.keys() == SCORES.keys()
    np.testing.assert_array_equal(found["maml"][1], SCORES["maml"][1].astype(np.float64))
    np.testing.assert_array_equal(found["maml"][5], [1, np.nan])
    assert list(found["TF-IDF centroid"]) == [1]
    assert scored_step(tmp_path) == 7
    content = json.loads((tmp_path / "episode_scores.json").read_text(), parse_constant=pytest.fail)
    assert content["score"] == "accuracy"
    assert content["rows"]["maml"]["1"][1] is None
    assert [path.name for path in tmp_path.iterdir()] == ["episode_scores.json"], "nothing half written is left"


def test_a_run_without_scores_and_a_torn_file_name_the_remedy(tmp_path):
    with pytest.raises(fsj.UserError, match=r"episode_scores\.json: no such file; 'fewshot-jax evaluate .*' writes it"):
        read_episode_scores(tmp_path)
    foreign = ('{"maml": 3}', '{"maml": {"one": [1]}}', '{"maml": {"1": ["high"]}}', '{"maml": {"1": 0.5}}', "[]")
    torn = [f'{{"rows": {rows}, "checkpoint_step": 1}}' for rows in foreign]
    for content in ("{", "[]", '{"rows": {}}', *torn):
        (tmp_path / "episode_scores.json").write_text(content)
        with pytest.raises(fsj.UserError, match=r"holds no scores of episodes; 'fewshot-jax evaluate"):
            read_episode_scores(tmp_path)


def test_a_run_keeps_the_scores_behind_its_table(tmp_path):
    config = config_of(RUN, outer={"steps": 2, "tasks": 1}, evaluation={"at_end": True, "every": 2})
    evaluation = fsj.train(config, tmp_path / "run", quiet=True)
    found = read_episode_scores(tmp_path / "run")
    assert found.keys() == evaluation.scores.keys() - {"chance"}
    for row, of in found.items():
        assert of.keys() == {1}
        assert of[1].shape == (4,)
        assert estimate(of[1]) == pytest.approx(evaluation.scores[row][1]), row
    for floor, of in evaluation.gains.items():
        if floor != "chance":
            assert estimate(found["protonet"][1] - found[floor][1]) == pytest.approx(of[1]), "paired by episode"
    fsj.evaluate(tmp_path / "run", episodes=2, quiet=True)
    assert found["protonet"][1].tolist() == read_episode_scores(tmp_path / "run")["protonet"][1].tolist()
