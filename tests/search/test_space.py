"""Search spaces: what is read is what was meant, and a mistake is named with file and field."""

import pytest

from fewshot_jax.config import Config
from fewshot_jax.config_file import from_dict
from fewshot_jax.errors import UserError
from fewshot_jax.search.samplers import check_sampler
from fewshot_jax.search.space import Choices, Range, parse_space, read_space, with_values

SPACE = """
inner.rate: {low: 1e-2, high: 1, log: true}
inner.steps: {low: 1, high: 5}
outer.clip: {low: 0.5, high: 1.0, step: 0.1}
learner.name: {choices: [maml, fomaml]}
inner.batch_size: {choices: [null, 2]}
outer.rate: {choices: [0.001, 1]}
"""


def test_a_space_has_the_types_of_the_configs_fields(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    space = read_space(path, Config())
    assert space.fields == {
        "inner.rate": Range(low=0.01, high=1.0, log=True),
        "inner.steps": Range(low=1, high=5, step=1, whole=True),
        "outer.clip": Range(low=0.5, high=1.0, step=0.1),
        "learner.name": Choices(values=("maml", "fomaml")),
        "inner.batch_size": Choices(values=(None, 2)),
        "outer.rate": Choices(values=(0.001, 1.0)),
    }
    assert parse_space(space.to_dict(), Config()).fields == space.fields, "and comes back from what is written"
    assert space.fields["outer.clip"].points() == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert space.fields["inner.steps"].points() == (1, 2, 3, 4, 5)


def test_the_points_of_a_grid_are_all_combinations():
    space = parse_space({"inner.steps": {"low": 1, "high": 3}, "outer.rate": {"choices": [0.1, 0.2]}}, Config())
    assert check_sampler("grid", space) == 6
    assert check_sampler("tpe", space) is None
    endless = parse_space({"inner.rate": {"low": 0.1, "high": 1.0}}, Config(), source="s.yaml")
    with pytest.raises(UserError, match=r"s.yaml: inner.rate: a grid needs values that can be counted; give step"):
        check_sampler("grid", endless)


def test_gaussian_processes_without_torch_name_the_package_and_the_alternative(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--sampler gp: needs the package torch.*--sampler tpe"):
        check_sampler("gp", parse_space({"inner.rate": {"low": 0.1, "high": 1.0}}, Config()))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, ["the search space is empty"]),
        ({}, ["the search space is empty"]),
        ([1], ["the search space is empty"]),
        ({"inner.rat": {"low": 1, "high": 2}}, ["unknown field 'inner.rat'", "did you mean 'inner.rate'?"]),
        ({"inner": {"rate": {"low": 1, "high": 2}}}, ["unknown field 'inner'"]),
        ({"inner.rate": 0.1}, ["inner.rate: expected {low: ..., high: ...} or {choices: [...]}"]),
        ({"inner.rate": {"low": 1, "high": 2, "choices": [1]}}, ["inner.rate: expected"]),
        ({"inner.rate": {"low": 1}}, ["inner.rate: high is missing"]),
        ({"inner.rate": {"low": 1, "high": 2, "logs": True}}, ["unknown key 'logs'", "did you mean 'log'?"]),
        ({"inner.rate": {"low": 2, "high": 1}}, ["inner.rate: low=2.0 is greater than high=1.0"]),
        ({"inner.rate": {"low": "x", "high": 1}}, ["inner.rate: low: expected a number, got 'x'"]),
        ({"inner.rate": {"low": 0, "high": 1, "log": True}}, ["inner.rate: low=0.0: a logarithmic scale"]),
        ({"inner.rate": {"low": 0, "high": 1}}, ["inner.rate=0.0: expected a positive number"]),
        ({"inner.rate": {"low": 0.1, "high": 1, "log": "yes"}}, ["inner.rate: log: expected true or false"]),
        ({"inner.rate": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, ["has none; leave log or step out"]),
        ({"inner.rate": {"low": 0.1, "high": 1, "step": 0}}, ["inner.rate: step=0.0: expected a positive"]),
        ({"inner.rate": {"low": 0.1, "high": 1, "step": 0.2}}, ["do not lead from low=0.1", "set high to 0.9"]),
        ({"inner.steps": {"low": 1.5, "high": 3}}, ["inner.steps: low: expected int, got 1.5"]),
        ({"inner.steps": {"low": -1, "high": 3}}, ["inner.steps=-1: expected zero or more"]),
        ({"inner.steps": {"choices": [True]}}, ["inner.steps: choices: expected int, got True"]),
        ({"inner.steps": {"choices": []}}, ["inner.steps: choices: expected a list"]),
        ({"inner.steps": {"choices": [1, 1]}}, ["inner.steps: choices: 1 stands twice"]),
        ({"learner.name": {"choices": ["mmal"]}}, ["learner.name: choices: 'mmal' is not one of 'maml'"]),
        ({"learner.name": {"low": 1, "high": 2}}, ["learner.name: is no number; give choices of 'maml'"]),
        ({"tokenizer.buckets": {"choices": [[12]]}}, ["tokenizer.buckets: is a list"]),
        ({"evaluation.shots": {"choices": [1]}}, ["evaluation.shots: trials would not be judged on the same"]),
        ({"seed": {"low": 0, "high": 9}}, ["seed: trials would not be judged on the same"]),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_file_and_field(values, words):
    with pytest.raises(UserError) as error:
        parse_space(values, Config(), source="space.yaml")
    assert str(error.value).startswith("space.yaml: ")
    for word in words:
        assert word in str(error.value)


def test_what_nats_are_counted_in_is_not_searched():
    config = from_dict({"application": "translation", "tokenizer": {"kind": "bpe"}})
    with pytest.raises(UserError, match=r"tokenizer.vocab_size: changes what the nats of translation are counted in"):
        parse_space({"tokenizer.vocab_size": {"low": 100, "high": 200}}, config)


def test_a_range_may_need_another_searched_field():
    """Shots below the config's min_shots are a mistake of single trials, as long as some value fits."""
    config = from_dict({"episodes": {"shots": 5, "min_shots": 3}})
    space = parse_space({"episodes.shots": {"low": 1, "high": 5}}, config)
    assert with_values(config, {"episodes.shots": 4}).episodes.shots == 4
    with pytest.raises(UserError, match=r"episodes.shots=2: .*episodes.min_shots=3"):
        with_values(config, {"episodes.shots": 2})
    assert space.fields["episodes.shots"].points() == (1, 2, 3, 4, 5)


def test_the_options_of_a_learner_of_ones_own_are_searched():
    config = from_dict({"learner": {"name": "my_module:build", "options": {"rate": 0.1, "deep": {"norm": "l2"}}}})
    values = {"learner.options.rate": {"low": 0.01, "high": 1, "log": True}}
    space = parse_space({**values, "learner.options.deep.norm": {"choices": ["l1", "l2"]}}, config)
    assert space.fields["learner.options.rate"].high == 1.0
    assert parse_space({"learner.name": {"choices": ["maml", "my_module:build"]}}, Config())
    changed = with_values(config, {"learner.options.rate": 0.5, "learner.options.deep.norm": "l1"})
    assert changed.learner.options == {"rate": 0.5, "deep": {"norm": "l1"}}
    assert config.learner.options["rate"] == 0.1
    with pytest.raises(UserError, match=r"unknown field 'learner\.options\.rte'"):
        parse_space({"learner.options.rte": {"choices": [1]}}, config)
