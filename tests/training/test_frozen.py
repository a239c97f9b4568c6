"""A base that the outer loop does not train: no gradient, no optimizer state, no inner step, and the rest as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path, split
from fewshot_jax.applications.table import build_application
from fewshot_jax.errors import UserError
from fewshot_jax.parallel.mesh import batch_shards, make_mesh, place, shard_tasks
from fewshot_jax.parallel.rules import shardings
from fewshot_jax.planning.collectives import collectives
from fewshot_jax.runs.step import step_on_mesh
from fewshot_jax.training.experiment import Experiment, meta_gradient
from fewshot_jax.training.frozen import Adapting, frozen_paths, joined, trained_leaves
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.optimizer import outer_optimizer
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, config_of, initial_state, last_state, merged

LORA = "lora_|head"
VALUES = merged(
    RUN,
    model={"lora_rank": 2},
    learner={"name": "maml"},
    inner={"steps": 2, "rate": 0.4},
    outer={"steps": 4, "tasks": 8, "rate": 0.01, "params": LORA},
    evaluation={"every": 2, "validation_episodes": 4},
)
KEY = jax.random.key(5)
NAMES = ["maml", "fomaml", "anil", "reptile", "meta_sgd", "maml_plus_plus", "imaml", "proto_maml", "protonet", "r2d2"]


def problem(name="maml", **sections):
    config = config_of(VALUES, **{"learner": {"name": name}, **sections})
    application = build_application(config)
    functions = application.functions(training=True)
    state = initial_state(config, functions)
    # LoRA starts at zero, where many gradients vanish.
    moved = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(KEY, leaf.shape), state.meta_params["params"])
    meta_params = {**state.meta_params, "params": moved}
    return config, functions, meta_params, application.training_stream()(0, 8)


def test_parts_of_a_tree_are_put_together_again():
    params = {"body": {"a": jnp.ones(2), "b": jnp.zeros(3)}, "head": {"c": jnp.ones(1)}}
    frozen = frozenset({"body/a"})
    rest, base = split(params, Adapting(None, frozen))
    assert rest["body"]["a"] is None and base["body"]["b"] is None and base["head"]["c"] is None
    assert jax.tree.structure(joined(rest, base)) == jax.tree.structure(params)
    assert joined({**rest, "own": 1}, base)["own"] == 1
    assert joined(rest, None) is rest


@pytest.mark.parametrize("name", ["maml", "protonet", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])])
def test_the_gradient_is_that_of_the_whole_model_where_it_is_trained_and_zero_elsewhere(name, enable_x64):
    """With the leaves that adapt told to the whole model by inner.params."""
    with enable_x64(True):
        config, functions, meta_params, episodes = problem(name)
        grads, metrics = jax.jit(build_learner(functions, config, training=True).grad)(meta_params, episodes, KEY)
        chosen = {} if name == "anil" else {"params": LORA}
        all_of_it = config_of(VALUES, learner={"name": name}, outer={"params": None}, inner=chosen)
        whole = build_learner(functions, all_of_it, training=True)
        expected, told = jax.jit(whole.grad)(meta_params, episodes, KEY)
    grads, metrics, expected, told = jax.device_get((grads, metrics, expected, told))
    trained = trained_leaves(meta_params, LORA)
    np.testing.assert_allclose(metrics["task_loss"], told["task_loss"], rtol=1e-4)
    assert jax.tree.structure(grads) == jax.tree.structure(meta_params)
    rows = zip(jax.tree_util.tree_leaves_with_path(grads), *map(jax.tree.leaves, (expected, trained)), strict=True)
    norm = float(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(expected))))
    for (path, given), right, used in rows:
        if used:
            np.testing.assert_allclose(given, right, atol=1e-5 * norm, err_msg=leaf_path(path))
        else:
            assert not given.any(), leaf_path(path)
    moved = [
        float(np.abs(leaf).max()) for leaf, used in zip(*map(jax.tree.leaves, (grads, trained)), strict=True) if used
    ]
    assert sum(value > 1e-8 for value in moved) >= 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The path of a run that was never stopped."""
    path = tmp_path_factory.mktemp("frozen") / "run"
    fsj.train(config_of(VALUES), path, quiet=True)
    return path


def test_the_optimizer_has_no_state_for_the_base_and_leaves_its_bits(whole):
    run = RunDirectory(whole)
    state = last_state(run, 4)
    begun = Experiment(build_application(run.config(), run.path)).initial_state()
    trained = trained_leaves(begun.meta_params, LORA)
    for (path, before), after, used in zip(
        jax.tree_util.tree_leaves_with_path(begun.meta_params),
        jax.tree.leaves(state.meta_params),
        jax.tree.leaves(trained),
        strict=True,
    ):
        assert np.array_equal(before, after) != (used and before.size > 1), leaf_path(path)
    numbers = sum(
        leaf.size for leaf, used in zip(*map(jax.tree.leaves, (begun.meta_params, trained)), strict=True) if used
    )
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if np.ndim(leaf))
    assert moments == 2 * numbers


def test_a_stopped_run_goes_on_to_the_same_bits_and_adapts_what_it_trained(whole, tmp_path):
    parts = tmp_path / "parts"

    class Stop(Exception):
        pass

    def stop(step, score):
        raise Stop

    with pytest.raises(Stop):
        fsj.train(config_of(VALUES), parts, quiet=True, report=stop)
    fsj.train(config_of(VALUES), parts, quiet=True)
    assert RunDirectory(parts).result()["resumed_at"] == 2
    one, other = (last_state(RunDirectory(path), 4) for path in (whole, parts))
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
    # In evaluation the inner loop adapts the trained leaves, and a head of the task's own.
    config = RunDirectory(whole).config()
    application = build_application(config, whole)
    learner = build_learner(application.functions(training=False), config, training=False)
    episode = jax.tree.map(lambda leaf: leaf[0], application.stream("test", 1)(0, 1))
    adapted = jax.jit(learner.adapt)(one.meta_params, episode.support, KEY)
    frozen = frozen_paths(application.functions(training=False), LORA)
    before = {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(one.meta_params["params"])}
    after = {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(adapted)}
    assert all(np.array_equal(before[path], after[path]) for path in frozen)
    assert all(not np.array_equal(before.get(path, 0), after[path]) for path in after if path not in frozen)


def step_of(mesh):
    """The step on a mesh, and what it takes."""
    config, functions, meta_params, episodes = problem(model={"width": 64, "mlp_width": 256, "lora_rank": 2})
    state = initial_state(config, functions)._replace(meta_params=meta_params)
    divided = shardings(state, mesh)
    step = step_on_mesh(
        meta_gradient(build_learner(functions, config, training=True), batch_shards(mesh)),
        outer_optimizer(config.outer),
        divided,
        steps=4,
    )
    return step, (place(state, divided), shard_tasks(episodes, mesh))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_on_a_mesh_the_gradient_of_what_is_trained_is_sent_alone(fsdp):
    step, (state, episodes) = step_of(make_mesh(jax.devices()[:8], fsdp=fsdp))
    leaves, used = jax.tree.leaves(state.meta_params), jax.tree.leaves(trained_leaves(state.meta_params, LORA))
    learned = sum(leaf.nbytes for leaf, one in zip(leaves, used, strict=True) if one)
    base = sum(leaf.nbytes for leaf, one in zip(leaves, used, strict=True) if not one)
    assert base > 10 * learned
    found = collectives(step.lower(state, episodes).compile().as_text(), 8)
    assert all(one.times == 1 for one in found)
    sent = {kind: sum(one.bytes for one in found if one.operation == kind) for kind in ("all-reduce", "all-gather")}
    scalars = 64
    assert learned <= sent["all-reduce"] < learned + scalars
    assert sent["all-gather"] <= (base if fsdp > 1 else 0), "the base, once a step"
    divided = {leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in leaves if leaf.size >= 4096}
    assert divided == {fsdp > 1}


@pytest.mark.slow
def test_a_step_on_a_mesh_is_that_of_one_device():
    results = []
    for mesh in (make_mesh(jax.devices()[:1]), make_mesh(jax.devices()[:8], fsdp=2, tensor=2)):
        step, given = step_of(mesh)
        new, metrics = step(*given)
        results.append((jax.device_get(new.meta_params), float(metrics["grad_norm"])))
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    for one, other in zip(*(jax.tree.leaves(params) for params, _ in results), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("outer", "inner", "words"),
    [
        ("nothing", None, "outer.params='nothing' selects no leaf; the leaves are: .*lora_"),
        ("lorax_", None, r"outer.params='lorax_' selects no leaf; the leaves"),
        (LORA, "norm", "inner.params='norm', among the leaves that outer.params selects, selects no leaf"),
    ],
)
def test_patterns_that_select_nothing_are_refused_with_the_leaves_there_are(outer, inner, words, tmp_path):
    with pytest.raises(UserError, match=words):
        fsj.train(config_of(VALUES, outer={"params": outer}, inner={"params": inner}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
