"""Sinusoids: the tasks of the paper, reproducible; the network; a run from config to picture."""

import dataclasses

import jax
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.regression import Regression, regression
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.sinusoid import sinusoid_task
from fewshot_jax.training.run_directory import RunDirectory

VALUES = {
    "application": "regression",
    "episodes": {"shots": 5, "queries": 5},
    "model": {"width": 8, "layers": 2},
    "inner": {"steps": 1, "rate": 0.01, "test_steps": 2},
    "outer": {"steps": 4, "tasks": 3, "rate": 0.01},
    "evaluation": {
        "every": 2,
        "validation_episodes": 4,
        "episodes": 6,
        "shots": [5, 7],
        "queries": 9,
        "tasks": 4,
        "inner_steps": [0, 3],
        "tune_rates": [1.0],
        "tune_steps": [2],
    },
    "baselines": {"steps": 2, "rates": [0.01], "episodes": 3},
}
CONFIG = from_dict(VALUES)


def test_tasks_have_the_ranges_of_the_paper_and_no_noise():
    drawn = [sinusoid_task(0, step, index, shots=10, queries=20) for step in range(50) for index in range(4)]
    amplitude, phase = (np.array([getattr(curve, name) for curve, _, _ in drawn]) for name in ("amplitude", "phase"))
    x = np.concatenate([np.concatenate(inputs) for _, *inputs in drawn])
    # 200 uniform draws come within a twentieth of the range of both ends, but for a chance of 1e-4.
    for values, (low, high) in ((amplitude, (0.1, 5.0)), (phase, (0.0, np.pi)), (x, (-5.0, 5.0))):
        margin = (high - low) / 20
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high
    curve, support, _ = drawn[0]
    np.testing.assert_allclose(curve(support), curve.amplitude * np.sin(support - curve.phase), rtol=1e-5)


def test_episodes_are_a_function_of_seed_step_and_task():
    application = Regression.build(CONFIG)
    whole = application.training_stream()(3, 4)
    assert whole.support["x"].shape == (4, 5, 1)
    assert application.stream("test", 7)(0, 2).query["y"].shape == (2, 9, 1)
    for again, expected in zip(
        jax.tree.leaves(application.training_stream()(3, 2)), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_array_equal(again, expected[:2])
    other = application.with_config(dataclasses.replace(CONFIG, seed=1))
    streams = [application.training_stream(), application.stream("validation", 5), application.stream("test", 5)]
    first = [stream(0, 1).support["x"].tobytes() for stream in [*streams, other.training_stream()]]
    assert len(set(first)) == len(first), "splits and seeds never coincide"


def test_the_network_is_dense_layers_with_relu_between_them():
    functions = regression(width=8, layers=2)
    params = functions.init_params(jax.random.key(0))
    x = np.linspace(-5, 5, 7, dtype=np.float32)[:, None]
    hidden = x
    for name in ("dense_0", "dense_1"):
        layer = jax.tree.map(np.asarray, params["features"][name])
        hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0)
    expected = hidden @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    batch = {"x": x, "y": np.zeros_like(x)}
    np.testing.assert_allclose(functions.output_fn(params, batch, None), expected, rtol=1e-5, atol=1e-7)
    assert float(functions.loss_fn(params, batch, None)[0]) == pytest.approx(float((expected**2).mean()), rel=1e-5)


def test_a_context_is_an_input():
    functions = regression(width=8, layers=2, context_width=3)
    params = functions.init_params(jax.random.key(0))
    batch = {"x": np.ones((2, 1), np.float32)}
    plain = functions.output_fn(params, batch, None)
    np.testing.assert_array_equal(functions.output_fn({**params, "context": functions.context}, batch, None), plain)
    assert (functions.output_fn({**params, "context": functions.context + 1}, batch, None) != plain).any()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("regression") / "run"
    return RunDirectory(path), fsj.train(CONFIG, path, quiet=True)


def test_a_run_is_evaluated_after_each_number_of_steps_beside_its_floors(finished):
    run, evaluation = finished
    assert list(evaluation.scores) == [
        *("maml", "maml, 0 steps", "maml, 3 steps", "maml, tuned", "mean of the support set"),
        *("untrained, fine-tuned", "multi-task, fine-tuned"),
    ]
    assert all(list(row) == [5, 7] for row in evaluation.scores.values())
    assert evaluation.score.name == "mean squared error"
    assert run.evaluation() == evaluation.to_json()
    assert run.evaluation()["larger_is_better"] is False
    assert run.evaluation()["ways"] is None
    assert run.evaluation()["mean_squared_error"].keys() == evaluation.scores.keys()
    # The test queries are the same for both numbers of shots only in their distribution: the error without a step is
    # that of one function on different episodes.
    assert evaluation.scores["maml, 0 steps"][5].mean == pytest.approx(
        evaluation.scores["maml, 0 steps"][7].mean, rel=1.0
    )


def test_tuned_over_the_loop_of_training_alone_is_the_row_itself(finished):
    _, evaluation = finished
    assert evaluation.choices["maml, tuned"] == {5: (1.0, 2), 7: (1.0, 2)}
    for shots in (5, 7):
        tuned, plain = (evaluation.scores[name][shots].mean for name in ("maml, tuned", "maml"))
        assert tuned == pytest.approx(plain, rel=1e-5)


def test_the_smallest_validation_error_chooses_the_checkpoint(finished):
    run, evaluation = finished
    from fewshot_jax.runs.metrics import read_metrics

    errors = {row["step"]: row[name] for row in read_metrics(run.metrics) if (name := evaluation.score.metric) in row}
    assert len(errors) == 2
    assert errors[evaluation.step] == min(errors.values())


def test_a_run_draws_adapted_curves(finished):
    assert (finished[0].path / "adapted_curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_floor_is_the_variance_about_the_mean_of_the_support_set(finished):
    stream = Regression.build(CONFIG).stream("test", 5)
    errors = []
    for index in range(6):
        task = jax.tree.map(lambda leaf, i=index: leaf[i % 4], stream(index // 4, 4))
        errors.append(float(np.mean((task.query["y"] - task.support["y"].mean()) ** 2)))
    assert finished[1].scores["mean of the support set"][5].mean == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_baselines_of_cavia_have_its_model_and_no_context(tmp_path):
    values = {**VALUES, "learner": {"name": "cavia"}, "model": {**VALUES["model"], "context_width": 2}}
    evaluation = fsj.train(from_dict(values), tmp_path / "run", quiet=True)
    assert {"cavia", "untrained, fine-tuned", "multi-task, fine-tuned"} < evaluation.scores.keys()


@pytest.mark.parametrize("name", ["boil", "meta_sgd"])
def test_learners_of_the_family_train_on_it(name, tmp_path):
    values = {**VALUES, "learner": {"name": name}, "baselines": {"fine_tuning": False, "multi_task": False}}
    values["evaluation"] = {**VALUES["evaluation"], "at_end": False}
    fsj.train(from_dict(values), tmp_path / "run", quiet=True)
    assert np.isfinite(RunDirectory(tmp_path / "run").result()["validation_mean_squared_error"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"learner": {"name": "protonet"}}, "learner.name=protonet: compares embeddings of classes"),
        ({"tokenizer": {"vocab_size": 100}}, "tokenizer.vocab_size=100: regression has no use for it"),
        ({"model": {"heads": 2}}, "model.heads=2: regression has no use"),
        ({"data": {"path": "somewhere"}}, "data.path=somewhere: regression has no use"),
    ],
)
def test_what_does_not_go_together_is_refused(sections, message):
    with pytest.raises(fsj.UserError, match=message):
        from_dict({"application": "regression", **sections})


def test_a_run_of_regression_cannot_be_adapted_to_texts(finished):
    with pytest.raises(fsj.UserError, match=r"is a run of regression; adapt takes runs of .*'fewshot-jax evaluate"):
        fsj.adapt(finished[0].path, [fsj.Record("a", "x"), fsj.Record("b", "y")])
