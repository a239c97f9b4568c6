"""Any mesh computes what one device does; what goes over its axes is what the mathematics asks for."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.applications.table import build_application
from fewshot_jax.config.learners import LEARNER_RECORDS
from fewshot_jax.config_file import from_dict
from fewshot_jax.errors import UserError
from fewshot_jax.parallel.mesh import batch_shards, host_values, local_copy, make_mesh, place, replicate, shard_tasks
from fewshot_jax.parallel.rules import TENSOR_RULES, gathered, shardings
from fewshot_jax.planning.collectives import collectives
from fewshot_jax.runs.step import sharded, step_on_mesh
from fewshot_jax.training.experiment import meta_gradient
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.optimizer import outer_optimizer
from tests.small_run import DATA, initial_state

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices, simulated or real")
NAMES = tuple(LEARNER_RECORDS)
KEY = jax.random.key(3)


def config_of(learner, **fields):
    values = {
        **DATA,
        "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
        "learner": {"name": learner, **fields},
        "inner": {"steps": 2, "rate": 0.4},
        "outer": {"steps": 6, "tasks": 8},
        "evaluation": {"ways": 3, "shots": [1], "queries": 2},
    }
    if learner == "cavia":
        values["model"]["context_width"] = 4
    if learner == "metaicl":
        values = {
            "application": "dialogue",
            "data": {"source": "generated"},
            "episodes": {"shots": 2, "queries": 2},
            "tokenizer": {"kind": "word", "max_length": 24, "buckets": [24]},
            "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
            "learner": {"name": learner, **fields},
            "outer": {"steps": 6, "tasks": 8},
            "evaluation": {"shots": [2], "queries": 2},
        }
    return from_dict(values)


def problem(config, dtype="float32"):
    """A learner, its untrained meta-parameters and a meta-batch of eight tasks."""
    application = build_application(config)
    functions = application.functions(training=True)
    state = jax.jit(lambda: initial_state(config, functions))()

    def cast(leaf):
        return np.asarray(leaf, dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return functions, jax.tree.map(cast, state.meta_params), application.training_stream()(0, 8)


def gradient(config, functions, meta_params, episodes, mesh):
    learner = build_learner(functions, config, training=True)
    divided = shardings(meta_params, mesh)
    grad = sharded(meta_gradient(learner, batch_shards(mesh)), divided)
    return jax.jit(grad)(
        place(meta_params, divided), shard_tasks(episodes, mesh), replicate(KEY, mesh), jnp.float32(0.5)
    )


def assert_close(one, other, tolerance):
    """Leaf by leaf, against the norm of the whole gradient: some leaves are zero but for rounding."""
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(one)))
    assert norm > 1e-6
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        difference = np.abs(np.asarray(a) - np.asarray(b)).max(initial=0)
        assert difference < tolerance * norm, leaf_path(path)


MESHES = {2: {}, 4: {"fsdp": 2}, 8: {"fsdp": 2, "tensor": 2}}


def check_meshes(name, dtype, tolerance, counts):
    config = config_of(name)
    # Not for users, whose configs have no such type: the model's own products in double precision.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype=dtype))
    functions, meta_params, episodes = problem(config, dtype)
    one, _ = gradient(config, functions, meta_params, episodes, make_mesh(jax.devices()[:1]))
    for devices in counts:
        mesh = make_mesh(jax.devices()[:devices], **MESHES[devices])
        many, metrics = gradient(config, functions, meta_params, episodes, mesh)
        assert_close(one, many, tolerance)
        assert np.isfinite(metrics["loss"])


QUICK = ("maml", "imaml", "reptile", "protonet", "metaicl")  # one of each kind; the others are compiled for minutes


@pytest.mark.parametrize("counts", [(8,), pytest.param((2, 4), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_the_gradient_of_every_learner_is_that_of_one_device(name, counts, enable_x64):
    with enable_x64(True):
        check_meshes(name, "float64", 1e-10, counts)


@pytest.mark.parametrize(
    "name", [name if name == "protonet" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_in_single_precision_it_differs_by_rounding(name):
    check_meshes(name, "float32", 2e-5, (8,))


def compiled_step(mesh, *, tasks=8, task_chunk=None, width=64, layers=2):
    """A whole training step, optimizer and guard included, as a compiled program, with its state."""
    config = from_dict(
        {
            **DATA,
            "model": {"width": width, "layers": layers, "heads": 2, "mlp_width": 2 * width},
            "learner": {"name": "maml", "gradient": "reverse", "task_chunk": task_chunk},
            "inner": {"steps": 1},
            "outer": {"steps": 6, "tasks": tasks},
            "evaluation": {"ways": 3, "shots": [1], "queries": 2},
        }
    )
    application = build_application(config)
    functions = application.functions(training=True)
    state = jax.jit(lambda: initial_state(config, functions))()
    divided = shardings(state, mesh)
    learner = build_learner(functions, config, training=True)
    step = step_on_mesh(meta_gradient(learner, batch_shards(mesh)), outer_optimizer(config.outer), divided, steps=6)
    placed = place(state, divided), shard_tasks(application.training_stream()(0, tasks), mesh)
    return step.lower(*placed).compile(), placed[0]


@pytest.mark.parametrize("task_chunk", [None, 1])
def test_the_task_axis_carries_one_reduction_of_the_gradient_and_no_gather(task_chunk):
    mesh = make_mesh(jax.devices()[:8])
    bytes_of = {}
    for tasks in (16, 40):
        program, state = compiled_step(mesh, tasks=tasks, task_chunk=task_chunk, layers=1)
        found = collectives(program.as_text(), 8)
        assert {one.operation for one in found} == {"all-reduce"}
        assert {one.devices for one in found} == {8}
        assert {one.times for one in found} == {1}, "none in a loop over chunks"
        bytes_of[tasks] = sum(one.bytes for one in found)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state.meta_params))
    assert weights <= bytes_of[16] <= weights + 256, "the gradient and a few scalars"
    assert bytes_of[40] == bytes_of[16], "whatever the number of tasks"


def test_weights_and_optimizer_state_are_divided_and_gathered_once():
    mesh = make_mesh(jax.devices()[:8], fsdp=4)
    program, state = compiled_step(mesh, width=128)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert here < 1.1 * whole / 4
    gathers = [one for one in collectives(program.as_text(), 8) if one.operation == "all-gather"]
    assert {one.devices for one in gathers} == {4}
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state.meta_params))
    assert 0.9 * weights < sum(one.bytes for one in gathers) <= 1.1 * weights, (
        "each weight once a step, however many inner steps and tasks"
    )


def test_rules_name_leaves_and_refuse_what_does_not_fit():
    mesh = make_mesh(jax.devices()[:8], fsdp=2, tensor=2)
    tree = {
        "attention": {"query": {"kernel": np.zeros((2, 64, 4, 16))}},
        "mlp": {"down": {"kernel": np.zeros((2, 128, 64))}},
        "scale": np.zeros(3),
    }
    specs = jax.tree.map(lambda one: one.spec, shardings(tree, mesh))
    assert specs["attention"]["query"]["kernel"] == PartitionSpec(None, "fsdp", "tensor", None)
    assert specs["mlp"]["down"]["kernel"] == PartitionSpec(None, "tensor", "fsdp")
    assert specs["scale"] == PartitionSpec(None)
    own = shardings(tree, mesh, [("down/kernel$", "-,fsdp"), ("kernel$", "-")])
    assert own["mlp"]["down"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert own["attention"]["query"]["kernel"].spec == PartitionSpec(None)
    assert gathered(own["mlp"]["down"]["kernel"]).spec == PartitionSpec(None, None)
    with pytest.raises(UserError, match=r"'scale', 'fsdp'.*leaf 'scale' has shape \(3,\), whose 3 the 2 devices"):
        shardings(tree, mesh, [("scale", "fsdp")])
    with pytest.raises(UserError, match="leaf 'scale' has only 1 dimensions"):
        shardings(tree, mesh, [("scale", "-,fsdp")])


def test_the_tensor_rules_meet_the_leaves_of_the_models():
    paths = []
    for name in ("maml", "metaicl"):
        _, meta_params, _ = problem(config_of(name))
        paths += [leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(meta_params)]
    for pattern, _ in TENSOR_RULES:
        assert any(re.search(pattern, path) for path in paths), pattern


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"fsdp": 0}, "parallel.fsdp=0: expected at least 1"),
        ({"rules": [["(", "fsdp"]]}, "is not a regular expression"),
        ({"rules": [["kernel", "fsdp,fsdp"]]}, "none twice"),
        ({"rules": [["kernel", "model"]]}, "expected for each dimension fsdp, tensor or -"),
        ({"rules": [["kernel", "task"]]}, "the task axis divides meta-batches"),
    ],
)
def test_wrong_settings_are_named(section, message):
    with pytest.raises(UserError, match=message):
        from_dict({"parallel": section})


def test_devices_that_cannot_be_divided_are_refused():
    with pytest.raises(UserError, match="does not divide the 8 devices"):
        make_mesh(jax.devices()[:8], fsdp=3)


def test_values_come_to_the_host_whole():
    mesh = make_mesh(jax.devices()[:8], fsdp=2)
    x = np.arange(16.0).reshape(8, 2)
    for spec in (PartitionSpec(), PartitionSpec(("task", "fsdp"))):
        placed = place(x, NamedSharding(mesh, spec))
        np.testing.assert_array_equal(host_values(placed), x)
        assert local_copy(placed).sharding.device_set == {jax.local_devices()[0]}
