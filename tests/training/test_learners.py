"""One word in a config gives another learner, with the same data, training, evaluation and adaptation."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.applications.regression import Regression
from fewshot_jax.config import SECOND_ORDER, WITHOUT_A_LOOP
from fewshot_jax.config.learners import LEARNER_RECORDS
from fewshot_jax.config_file import from_dict
from fewshot_jax.runs.optimizer import decays
from fewshot_jax.training.learners import LEARNERS, build_learner
from fewshot_jax.training.optimizer import outer_optimizer
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, initial_state, merged, text_functions

VALUES = merged(
    {name: section for name, section in RUN.items() if name != "learner"},
    model={"layers": 2},
    inner={"steps": 2, "rate": 0.1},
    outer={"steps": 4, "tasks": 2, "rate": 0.01},
    evaluation={"every": 2, "validation_episodes": 4},
)
EXAMPLES = [fsj.Record(f"{verb} {noun}", verb) for verb in ("book", "cancel") for noun in ("tickets", "lunch")]


def config_of(name, **sections):
    values = {**VALUES, "learner": {"name": name}, **sections}
    if name == "cavia":
        values["model"] = {**values["model"], "context_width": 4}
    return from_dict(values)


def functions_of(config, ways=3):
    return text_functions(config, vocab_size=50, ways=ways, training=True, joint_classes=7)


def learner_of(config, *, ways=3, training=True):
    return build_learner(functions_of(config, ways), config, training=training)


def state_of(config):
    """The shapes and names of a state."""
    return jax.eval_shape(lambda: initial_state(config, functions_of(config)))


def test_the_table_the_config_and_the_public_functions_have_the_same_learners():
    assert LEARNER_RECORDS.keys() == LEARNERS.keys()
    assert LEARNERS.keys() <= set(fsj.__all__)
    assert {*SECOND_ORDER, *WITHOUT_A_LOOP} < LEARNERS.keys()


TRIED = ("maml", "protonet")  # in every run of the suite: a loop, and no loop; learned rates are tried below


@pytest.mark.parametrize(
    "name",
    [
        name if name in TRIED else pytest.param(name, marks=pytest.mark.slow)
        for name in LEARNERS
        if name != "metaicl"  # which is tried where texts are written
    ],
)
def test_a_run_of_each_trains_and_adapts(name, tmp_path):
    fsj.train(config_of(name), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert RunDirectory(tmp_path / "run").result()["steps"] == 4
    classifier = fsj.adapt(tmp_path / "run", EXAMPLES, folds=0)
    classifier.save(tmp_path / "model")
    texts = [record.text for record in EXAMPLES]
    np.testing.assert_array_equal(fsj.load(tmp_path / "model").predict_proba(texts), classifier.predict_proba(texts))


def test_a_learner_with_extras_resumes_and_is_evaluated(tmp_path):
    config = config_of("meta_sgd")
    fsj.train(config, tmp_path / "run", quiet=True)
    (tmp_path / "run" / "result.json").unlink()
    evaluated = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, at_end=True))
    evaluation = fsj.train(evaluated, tmp_path / "run", quiet=True)
    assert evaluation.scores.keys() == {"meta_sgd", "TF-IDF centroid", "untrained, prototypes", "chance"}
    assert RunDirectory(tmp_path / "run").result()["resumed_at"] == 4


def test_rates_are_learned_for_each_layer_and_step():
    rates = state_of(config_of("maml_plus_plus")).meta_params["inner_rates"]
    kernel = next(rate for path, rate in rates.items() if path.endswith("blocks/mlp/up/kernel"))
    assert kernel.shape == (2, 2, 1, 1)  # steps, layers
    assert rates["features/log_scale"].shape == (2,)
    assert rates["added"].shape == (2,)


def test_learned_rates_do_not_decay():
    meta_params = state_of(config_of("meta_sgd")).meta_params
    assert any(jax.tree.leaves(decays(meta_params)["params"]))
    assert not any(jax.tree.leaves(decays(meta_params)["inner_rates"]))


def test_a_learned_rate_stops_at_zero_and_other_parameters_do_not():
    meta_params = {"params": {"w": jnp.array([0.1])}, "inner_rates": {"w": jnp.array([0.1])}}
    optimizer = outer_optimizer(config_of("meta_sgd", outer={"steps": 1000, "warmup": 0.0, "rate": 0.05}).outer)
    state = optimizer.init(meta_params)
    for _ in range(5):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, meta_params), state, meta_params)
        meta_params = optax.apply_updates(meta_params, updates)
    assert meta_params["inner_rates"]["w"] == 0
    assert meta_params["params"]["w"] < -0.1


def regression_of(name, **inner):
    """A config of sinusoids and its functions."""
    model = {"width": 8, "layers": 2, "context_width": 3 if name == "cavia" else 0}
    sections = {"application": "regression", "learner": {"name": name}, "model": model}
    config = from_dict({**sections, "inner": {"steps": 2, "rate": 0.1, **inner}})
    return config, Regression.build(config).functions(training=True)


def text_of(name, **inner):
    """A config of texts and its functions; LoRA where it is to adapt."""
    config = config_of(name, inner={"steps": 2, "rate": 0.1, **inner})
    if "lora" in (inner.get("params") or ""):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, lora_rank=2))
    return config, functions_of(config)


TEXTS = {
    "input_ids": np.arange(36, dtype=np.int32).reshape(3, 12) % 50,
    "attention_mask": np.ones((3, 12), bool),
    "label": np.arange(3),
    "mask": np.ones(3, bool),
}
POINTS = {"x": np.linspace(-1, 1, 5)[:, None], "y": np.linspace(2, 5, 5)[:, None] ** 2}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_the_rule_of_differentiation_reaches_the_learner(name):
    """By the number of matrix products: first order has fewer than reverse, and mixed more."""
    problem, side = (text_of, TEXTS) if name == "proto_maml" else (regression_of, POINTS)  # prototypes are of classes
    config, functions = problem(name)
    meta_params = jax.eval_shape(lambda: initial_state(config, functions).meta_params)
    tasks = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), fsj.Episode(side, side))

    def products(gradient):
        rule = dataclasses.replace(config.learner, gradient=gradient, keep="all")
        learner = build_learner(functions, dataclasses.replace(config, learner=rule), training=True)
        step = lambda meta_params: learner.grad(meta_params, tasks, jax.random.key(0))[0]  # noqa: E731
        return str(jax.make_jaxpr(step)(meta_params)).count("dot_general")

    assert products("first_order") < min(products("reverse"), products("mixed"))


@pytest.mark.parametrize(
    ("problem", "support", "name", "inner", "expected"),
    [
        (regression_of, POINTS, "cavia", {}, {"context"}),
        (regression_of, POINTS, "cavia", {"params": "context|bias"}, {"context", "bias"}),
        (regression_of, POINTS, "anil", {}, {"head"}),
        (regression_of, POINTS, "boil", {}, {"features"}),
        (regression_of, POINTS, "reptile", {"params": "head"}, {"head"}),
        (regression_of, POINTS, "meta_sgd", {"params": "head"}, {"head"}),
        (regression_of, POINTS, "imaml", {"params": "head"}, {"head"}),
        (regression_of, POINTS, "multi_task", {"params": "head"}, {"head"}),
        (text_of, TEXTS, "cavia", {}, {"context", "head"}),
        (text_of, TEXTS, "anil", {}, {"head"}),
        (text_of, TEXTS, "boil", {}, {"features"}),
        (text_of, TEXTS, "proto_maml", {"params": "head"}, {"head"}),
        (text_of, TEXTS, "maml", {"params": "head"}, {"head"}),
        (text_of, TEXTS, "fomaml", {"params": "lora_|head"}, {"lora", "head"}),
        (text_of, TEXTS, "maml_plus_plus", {"params": "norm|bias|head"}, {"norm", "bias", "head"}),
    ],
)
def test_the_inner_loop_of_a_config_changes_what_it_should_and_no_bit_of_the_rest(
    problem, support, name, inner, expected
):
    config, functions = problem(name, **inner)
    learner = build_learner(functions, config, training=True)

    @jax.jit
    def before_and_after():
        meta_params = initial_state(config, functions).meta_params
        return [learner.adapt(meta_params, support, jax.random.key(0), inner_steps=steps) for steps in (0, 2)]

    before, after = before_and_after()
    leaves = zip(jax.tree.leaves_with_path(after), jax.tree.leaves(before), strict=True)
    moved = {leaf_path(path) for (path, a), b in leaves if np.any(np.asarray(a) != np.asarray(b))}
    assert moved
    assert all(any(word in path for word in expected) for path in moved)
    assert {word for word in expected if any(word in path for path in moved)} == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"learner": {"name": "cavia"}}, "model.context_width=0: cavia needs a positive number"),
        ({"model": {"context_width": 3}}, "other learners zero"),
        (
            {"application": "image_classification", "learner": {"name": "cavia"}},
            "convolutions of images take no context",
        ),
        ({"learner": {"name": "anil"}, "inner": {"params": "norm"}}, "anil chooses itself what adapts"),
        ({"learner": {"name": "meta_sgd"}, "inner": {"optimizer": "adam"}}, "inner.optimizer=adam"),
        ({"learner": {"name": "imaml", "proximal": 0}}, "learner.proximal=0"),
        ({"learner": {"name": "maml_plus_plus", "first_order_share": 2}}, "learner.first_order_share=2"),
        ({"learner": {"name": "mamal"}}, "'mamal' is not one of"),
    ],
)
def test_what_does_not_go_together_is_refused(sections, message):
    with pytest.raises(fsj.UserError, match=message):
        from_dict(sections)
