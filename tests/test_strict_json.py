"""No path writes NaN or infinity: all JSON of the package goes through one function, which refuses them."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import fewshot_jax as fsj
from fewshot_jax import strict_json
from fewshot_jax.adaptation.classifier import load
from fewshot_jax.adaptation.simple import SimpleClassifier
from fewshot_jax.applications.classification import ACCURACY, MACRO_F1, confusion_of_episode
from fewshot_jax.cli.main import main
from fewshot_jax.data.fields import check_characters
from fewshot_jax.data.files import read_texts
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.bootstrap import Interval
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.types import Episode

SOURCES = sorted(Path(fsj.__file__).parent.rglob("*.py"))
NUMBERS = st.floats() | st.integers() | st.booleans() | st.none() | st.text()
VALUES = st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9)
TEXTS = ["a tea", "two teas", "a cake", "two cakes"]


def test_all_json_is_written_by_the_strict_function():
    calls = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        if path.name != "strict_json.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps") and ast.unparse(node.value) == "json"
    ]
    assert len(SOURCES) > 200 and not calls


@given(VALUES)
def test_what_is_written_is_json_or_an_error_that_names_the_number(value):
    found = strict_json.not_finite(value)
    if found is None:
        assert strict_json.loads(strict_json.dumps(value)) == value
    else:
        with pytest.raises(UserError, match=r"is (nan|-?inf)\. Expected a finite number"):
            strict_json.dumps(value)


def test_the_place_of_the_number_is_named():
    with pytest.raises(UserError, match=r"^out\.json: scores\.adapted\[1\]\.mean is nan"):
        strict_json.dumps({"a": 1, "scores": {"adapted": [{"mean": 0.5}, {"mean": math.nan}]}}, "out.json")
    with pytest.raises(TypeError, match="not JSON serializable"):
        strict_json.dumps({"a": object()})


def test_nan_that_other_programs_write_is_read_as_null(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "x": NaN, "y": [-Infinity, 1e999, -1e999]}\n', encoding="utf-8")
    assert read_texts(tmp_path / "rows.jsonl")[0] == [{"text": "a", "x": None, "y": [None, None, None]}]


@pytest.fixture
def classifier():
    return SimpleClassifier.fit(TEXTS, np.array([0, 0, 1, 1]), ["tea", "cake"])


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_probabilities_that_are_no_numbers_are_an_error_that_names_the_text(classifier, number):
    classifier.arrays["bias"][1] = number
    for predict in (classifier.predict_proba, classifier.predict):
        with pytest.raises(
            UserError, match=r"not finite numbers for 4 of 4 texts, such as texts\[0\] \('a tea'\)"
        ) as e:
            predict(TEXTS)
        assert "or a text needs more positions than the model has" in str(e.value)  # such positions are read as NaN


def test_a_saved_model_whose_weights_are_no_numbers_is_called_damaged(classifier, tmp_path, capsys):
    classifier.save(tmp_path / "model")
    classifier.arrays["kernel"][0, 0] = np.nan
    with pytest.raises(UserError, match="the weights 'kernel' are not all finite numbers"):
        classifier.save(tmp_path / "other")
    save_file(classifier.arrays, tmp_path / "model" / "model.safetensors")
    with pytest.raises(UserError, match=r"the saved model is damaged \(the weights 'kernel'"):
        load(tmp_path / "model")
    (tmp_path / "new.txt").write_text("a tea\n", encoding="utf-8")
    given = ["--input", str(tmp_path / "new.txt"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(tmp_path / "model"), *given]) == 2
    assert not (tmp_path / "out.jsonl").exists() and "not all finite numbers" in capsys.readouterr().err


def test_a_temperature_that_is_no_number_is_not_saved(classifier, tmp_path):
    classifier.temperature = math.nan
    with pytest.raises(UserError, match=r"model\.json: temperature is nan.*loop that diverges"):
        classifier.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_rows_that_predict_echoes_hold_numbers_that_are_finite(number, classifier, tmp_path, capsys):
    classifier.save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "a tea", "x": {number}, "y": "\\udaff"}}\n', encoding="utf-8")
    given = ["--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(tmp_path / "model"), *given]) == 2
    assert "rows.jsonl, line 1: 'y' holds half of a surrogate pair" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "a tea", "x": {number}}}\n', encoding="utf-8")
    assert main(["predict", str(tmp_path / "model"), *given]) == 0
    line = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert json.loads(line, parse_constant=pytest.fail)["x"] is None
    given[-1] = str(tmp_path / "out.csv")
    assert main(["predict", str(tmp_path / "model"), *given]) == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1].startswith("a tea,,tea,")


def test_a_number_of_the_input_is_not_blamed_on_a_model():
    with pytest.raises(UserError, match=r"^a\.jsonl, line 3: 'x': \[0\] is inf\. Expected") as caught:
        check_characters("a.jsonl, line 3", "x", [math.inf])
    assert "diverges" not in str(caught.value)


def test_a_score_of_logits_that_are_nan_is_not_the_score_of_a_guess():
    label, mask = np.array([0, 1, 0]), np.array([True, True, False])
    episode = Episode({"label": np.array([0, 1]), "mask": np.ones(2, bool)}, {"label": label, "mask": mask})
    logits = np.array([[2.0, 1], [1, 2], [2, 1]], np.float32)
    padded, diverged = logits.copy(), logits.copy()
    padded[2], diverged[0, 1] = np.nan, np.nan
    for score in (ACCURACY, MACRO_F1):
        assert score.of(padded, episode) == 1
        assert np.isnan(score.of(diverged, episode))
    assert confusion_of_episode(diverged, episode).tolist() == [[0, 0], [0, 1]]


def test_tables_say_in_words_what_is_not_finite():
    assert Estimate(math.nan, math.nan).text() == Interval(math.nan, math.nan, math.nan).text() == "not finite"
    assert Estimate(0.5, math.inf).text() == Interval(0.5, -math.inf, math.inf).text() == "50.0"
