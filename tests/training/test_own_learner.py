"""A learner from outside the package, named in a config as package.module:function."""

import dataclasses
import sys

import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.regression import regression
from fewshot_jax.cli.main import main
from fewshot_jax.config import OuterConfig
from fewshot_jax.config_file import from_dict
from fewshot_jax.training.estimate import estimates
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, merged

CODE = """
import optax

import fewshot_jax as fsj


def build(functions, options, steps):
    if options["rate"] <= 0:
        raise ValueError(f"rate={options['rate']}: expected a positive number")
    return fsj.fomaml(
        functions.loss_fn,
        inner_optimizer=optax.sgd(options["rate"]),
        inner_steps=steps,
        task_init_fn=functions.task_init_fn,
        output_fn=functions.output_fn,
    )


def wrong(functions, options, steps):
    return {}


def narrow(functions):
    return None


def faulty(functions, options, steps):
    return 1 / 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a module of learners."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_learners.py").write_text(CODE, encoding="utf-8")
    (folder / "falling_learners.py").write_text("1 / 0\n", encoding="utf-8")
    (folder / "broken_learners.py").write_text("import no_such_package\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def at_the_place(place, monkeypatch):
    """Stand in that folder, as someone who runs the installed command does."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(place))])


def config_of(name="own_learners:build", rate=0.1):
    return from_dict({**RUN, "learner": {"name": name, "options": {"rate": rate}}, "outer": {"steps": 2, "tasks": 2}})


def test_a_run_trains_resumes_and_is_evaluated(place, tmp_path, capsys):
    fsj.train(config_of(), tmp_path / "run", quiet=True)
    stored = RunDirectory(tmp_path / "run").config()
    assert stored.learner.name == "own_learners:build"
    assert stored.learner.options == {"rate": 0.1}
    (tmp_path / "run" / "result.json").unlink()
    fsj.train(config_of(), tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").result()["resumed_at"] == 2
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "4", "--json", "--quiet"]) == 0
    assert "own_learners:build" in capsys.readouterr().out
    with pytest.raises(fsj.UserError, match=r"learner.options.rate: 0.1 -> 0.2"):
        fsj.train(config_of(rate=0.2), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("no_such:build", 0.1, r"there is no module 'no_such' on Python's path or in .*PYTHONPATH"),
        (
            "own_learners:biuld",
            0.1,
            r"own_learners has no function 'biuld'; expected one of build, wrong, narrow",
        ),
        ("broken_learners:build", 0.1, r"broken_learners needs a module 'no_such_package'; install it"),
        ("own_learners:faulty", 0.1, r"the function fails \(ZeroDivisionError: .*own_learners.py, line \d+\)"),
        ("falling_learners:build", 0.1, r"cannot be imported \(ZeroDivisionError: .*falling_learners.py, line 1\)"),
        ("own_learners:wrong", 0.1, r"returned dict; expected a fewshot_jax.MetaLearner"),
        ("own_learners:narrow", 0.1, r"takes \(functions\); expected \(functions, options, steps\)"),
        ("own_learners:build", -1.0, r"rate=-1.0: expected a positive number \(see learner.options\)"),
    ],
)
def test_what_is_wrong_with_it_is_one_sentence_with_a_remedy(name, rate, message):
    functions = regression(width=4, layers=1)
    with pytest.raises(fsj.UserError, match=message) as error:
        build_learner(functions, config_of(name, rate), training=True)
    assert str(error.value).startswith(f"learner.name={name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("inner", "rate", 0.3),
        ("inner", "optimizer", "adam"),
        ("inner", "params", "head"),
        ("inner", "batch_size", 2),
        ("learner", "task_chunk", 2),
        ("outer", "params", "head"),
    ],
)
def test_fields_that_it_would_ignore_are_refused(section, field, value):
    values = merged(RUN, learner={"name": "own_learners:build", "options": {"rate": 0.1}})
    with pytest.raises(fsj.UserError, match=rf"{section}\.{field}=.*own_learners:build .*leave it out"):
        from_dict(merged(values, **{section: {field: value}}))


def test_the_estimate_of_a_step_takes_all_its_tasks_at_once(place):
    config = dataclasses.replace(config_of(), outer=OuterConfig(steps=2, tasks=16))
    (found,) = estimates(config, chip="h100", memory=None, network=50e9)
    assert found.at_once * found.devices == found.tasks
