"""Where a mesh divides weights, validation and evaluation leave them divided, and compute what one device does."""

import json

import jax
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.table import build_application
from fewshot_jax.config_file import from_dict
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes
from fewshot_jax.parallel.mesh import make_mesh, place, replicate, shard_tasks
from fewshot_jax.parallel.rules import shardings
from fewshot_jax.planning.collectives import collectives
from fewshot_jax.reporting.probe import probe
from fewshot_jax.reporting.record import read_run
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, initial_state, merged

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices, simulated or real")
KEY = jax.random.key(5)
WIDE = merged(RUN, model={"width": 64, "mlp_width": 128}, outer={"steps": 2, "tasks": 8})


def problem(**fields):
    """Application, learner and untrained meta-parameters."""
    config = from_dict(merged(WIDE, **fields))
    application = build_application(config)
    functions = application.functions(training=True)
    state = jax.jit(lambda: initial_state(config, functions))()
    learner = build_learner(application.functions(training=False), config, training=False)
    return application, learner, state.meta_params


def largest_on_a_device(arrays):
    """The most numbers of a leaf of meta-parameters that a device holds, by the shape of the whole leaf."""
    found = {}
    for array in arrays:
        for shard in array.addressable_shards:
            found[array.shape] = max(found.get(array.shape, 0), shard.data.size)
    return found


@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 2}])
@pytest.mark.parametrize(("learner", "chunk"), [("protonet", None), ("maml", 1)])
def test_scores_of_divided_weights_are_those_of_one_device(axes, learner, chunk):
    more = {"inner": {"steps": 2, "rate": 0.1}} if learner == "maml" else {}
    application, judged, meta_params = problem(learner={"name": learner}, **more)
    stream = application.stream("validation", 1)
    scores = episode_scores(judged, lambda outputs, episode: jax.nn.log_softmax(outputs), task_chunk=chunk)
    sizes = {"episodes": 5, "tasks": 3, "rng": KEY}
    here = jax.device_put(meta_params, jax.devices()[0])
    divided = place(meta_params, shardings(meta_params, make_mesh(jax.devices()[:8], **axes)))
    one, many = (evaluate_episodes(scores, params, stream, **sizes) for params in (here, divided))
    assert one.shape == many.shape and len(one) == 5
    np.testing.assert_allclose(one, many, atol=2e-5)
    assert len({row.tobytes() for row in many}) == 5, "no episode was repeated"


def test_weights_stay_divided_and_are_gathered_once():
    application, judged, meta_params = problem(learner={"name": "maml"}, inner={"steps": 2, "rate": 0.1})
    mesh = make_mesh(jax.devices()[:8], fsdp=8)
    divided = place(meta_params, shardings(meta_params, mesh))
    batch = shard_tasks(jax.tree.map(np.asarray, application.stream("validation", 1)(0, 16)), mesh)
    scores = episode_scores(judged, application.score.of, task_chunk=1)
    program = scores.lower(divided, batch, replicate(KEY, mesh), 0).compile()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(meta_params))
    assert program.memory_analysis().argument_size_in_bytes < 0.2 * whole + 64 * 1024
    gathers = [one for one in collectives(program.as_text(), 8) if one.operation == "all-gather"]
    weights = [one for one in gathers if one.bytes > 1024]
    assert {one.times for one in weights} == {1}, "before the inner loops, not in them"
    assert sum(one.bytes for one in weights) <= 1.1 * whole


def test_no_device_holds_the_weights_of_a_run_that_divides_them(tmp_path, monkeypatch):
    """Neither between the steps of validation, nor in the evaluation at the end, whose scores are one device's."""
    seen = []
    evaluate = evaluate_episodes

    def watched(scores, meta_params, *arguments, **sizes):
        sizes_of = {leaf.shape: leaf.size for leaf in jax.tree.leaves(meta_params) if leaf.size >= 1024}
        held = largest_on_a_device(one for one in jax.live_arrays() if one.shape in sizes_of)
        seen.extend(held[shape] / size for shape, size in sizes_of.items())
        return evaluate(scores, meta_params, *arguments, **sizes)

    more = {"evaluation": {"at_end": True, "every": 1}}
    found = {}
    for name, parallel in (("one", {}), ("divided", {"fsdp": 4, "tensor": 2})):
        if parallel:
            jax.clear_caches()
            for module in ("training.experiment", "training.rows", "reporting.probe"):
                monkeypatch.setattr(f"fewshot_jax.{module}.evaluate_episodes", watched)
        config = from_dict(merged(WIDE, **more, parallel=parallel))
        found[name] = fsj.train(config, tmp_path / name, quiet=True)
    assert len(seen) > 10 and max(seen) <= 0.25
    metrics = [RunDirectory(tmp_path / name).result()["validation_accuracy"] for name in found]
    assert metrics[0] == pytest.approx(metrics[1])
    one, divided = (json.loads(json.dumps(evaluation.to_json())) for evaluation in found.values())
    assert divided["accuracy"].keys() == one["accuracy"].keys()
    for row, of in one["accuracy"].items():
        assert of["1"]["mean"] == pytest.approx(divided["accuracy"][row]["1"]["mean"]), row
    again = fsj.evaluate(tmp_path / "divided", quiet=True)
    assert again.scores == found["divided"].scores
    seen.clear()
    divided = probe(read_run(tmp_path / "divided"), episodes=4)
    assert seen and max(seen) <= 0.25
    one = probe(read_run(tmp_path / "one"), episodes=4)
    np.testing.assert_allclose(divided.scores[1], one.scores[1])
    assert divided.embedding is not None
