"""What a run would need elsewhere, against what simulated devices of this process hold and send."""

import json
import subprocess
import sys

import jax
import pytest

from fewshot_jax.cli.plan import size_of
from fewshot_jax.config_file import from_dict, write_config
from fewshot_jax.errors import UserError
from fewshot_jax.parallel.mesh import make_mesh, place, shard_tasks
from fewshot_jax.parallel.rules import shardings
from fewshot_jax.planning.collectives import Collective, collectives
from fewshot_jax.runs.step import step_on_mesh
from fewshot_jax.training import loop
from fewshot_jax.training.estimate import estimates
from fewshot_jax.training.experiment import Experiment, meta_gradient
from fewshot_jax.training.optimizer import outer_optimizer
from tests.small_run import RUN, merged

VALUES = merged(RUN, model={"width": 32, "mlp_width": 32}, outer={"steps": 6, "tasks": 16}, parallel={"fsdp": 4})


@pytest.mark.skipif(jax.device_count() != 8, reason="needs eight devices")
def test_the_estimate_is_what_the_placed_state_holds():
    config = from_dict(VALUES)
    *_, found = estimates(config, chip="h100", memory=None, network=50e9)
    assert found.devices == 8 and found.mesh == {"task": 2, "fsdp": 4, "tensor": 1} and found.fits
    mesh = make_mesh(fsdp=4)
    application = loop.build_application(config)
    experiment = Experiment(application)
    state = experiment.initial_state()
    divided = shardings(state, mesh)
    state = place(state, divided)
    assert found.state_bytes == sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(state.meta_params))
    step = step_on_mesh(meta_gradient(experiment.training.learner, 8), outer_optimizer(config.outer), divided, steps=6)
    batch = shard_tasks(application.training_stream()(0, 16), mesh)
    compiled = step.lower(state, batch).compile()
    sent = sum(one.times * one.sent for one in collectives(compiled.as_text(), 8))
    assert found.sent_bytes == pytest.approx(sent, rel=0.01)
    assert found.seconds == max(found.compute, found.memory) + found.traffic > 0


@pytest.mark.skipif(jax.device_count() != 8, reason="needs eight devices")
def test_what_does_not_fit_is_said_and_nothing_larger_is_tried():
    found = estimates(from_dict(VALUES), chip="a100", memory=1e3, network=50e9)
    assert [one.fits for one in found] == [False]
    with pytest.raises(UserError, match=r"expected a multiple of the 8 parts .* try --outer.tasks 16"):
        estimates(from_dict({**VALUES, "outer": {"tasks": 12}}), chip="a100", memory=None, network=50e9)


@pytest.mark.slow
def test_the_command_simulates_more_devices_than_there_are(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(from_dict(VALUES), path)
    command = [sys.executable, "-m", "fewshot_jax", "plan", str(path), "--devices", "16", "--memory", "80GB", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    (found,) = json.loads(done.stdout)
    assert found["mesh"] == {"task": 4, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['a'=8,'b'=2] {'a','b'}", 16),
        ("replica_groups=mesh['a'=8,'b'=2] {'a':(1)4}", 4),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", 4),
        ("replica_groups={}", 32),
    ],
)
def test_the_devices_of_a_collective_are_counted(groups, devices):
    line = f"  %x = (f32[2,3]{{1,0}}, bf16[4]{{0}}, pred[]) all-reduce(%a, %b), channel_id=1, {groups}, to_apply=%sum"
    program = f"ENTRY %main (a: f32[2,3]) -> f32[2,3] {{\n{line}\n}}\n"
    assert collectives(program, 32) == [Collective("all-reduce", 24 + 8 + 1, devices)]


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs():
    program = """
%body (a: f32[4]) -> f32[4] {
  %x = f32[4]{0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%sum
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %y = f32[4]{0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%sum
  %w = f32[4] while(%y), condition=%end, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""
    assert [one.times for one in collectives(program, 2)] == [5, 1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "(f32[8]{0}, f32[32]{0}) all-gather-start(%a), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}, "
            'use_global_device_ids=true, backend_config={"collective_backend_config":{"is_sync":false}}',
            Collective("all-gather", 32 * 4, 4),
        ),
        (
            "((f32[8]{0}, bf16[2,6]{1,0}), (f32[32]{0}, bf16[8,6]{1,0})) all-gather-start(%a, %b), channel_id=2, "
            "replica_groups={{0,1,2,3}}, dimensions={0}, use_global_device_ids=true",
            Collective("all-gather", 32 * 4 + 48 * 2, 4),
        ),
        (
            "(f32[8]{0}, f32[8]{0}) collective-permute-start(%a), channel_id=3, "
            "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}",
            Collective("collective-permute", 8 * 4, 32),
        ),
        (
            "(f32[8]{0:T(256)S(1)}, f32[8]{0:T(256)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%a), "
            "channel_id=3, source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", 8 * 4, 32),
        ),
        (
            "f32[8]{0} all-reduce-start(%a), channel_id=4, replica_groups=[1,4]<=[4], use_global_device_ids=true, "
            "to_apply=%add",
            Collective("all-reduce", 8 * 4, 4),
        ),
        (
            "(f32[8]{0}, f32[32]{0}, f32[2]{0}) all-reduce-start(%a, %b, %c), channel_id=5, "
            "replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%add",
            Collective("all-reduce", (8 + 32 + 2) * 4, 4),
        ),
        (
            '((f32[32]{0}), f32[8]{0}) reduce-scatter-start(%c), async_execution_thread="parallel", channel_id=6, '
            "replica_groups=[1,4]<=[4], use_global_device_ids=true, dimensions={0}, to_apply=%add",
            Collective("reduce-scatter", 8 * 4, 4),
        ),
        (
            "((f32[32]{0}, f32[16]{0}), (f32[8]{0}, f32[4]{0}), u32[]) reduce-scatter-start(%c, %d), channel_id=7, "
            "replica_groups=[1,4]<=[4], use_global_device_ids=true, dimensions={0}, to_apply=%add",
            Collective("reduce-scatter", 12 * 4, 4),
        ),
        (
            "((f32[32]{0}), f32[32]{0}) all-to-all-start(%c), channel_id=8, replica_groups=[1,4]<=[4], dimensions={0}",
            Collective("all-to-all", 32 * 4, 4),
        ),
        (
            "((f32[2]{0}, f32[2]{0}, f32[2]{0}, f32[2]{0}, f32[2]{0}, /*index=5*/f32[2]{0}), (f32[8]{0}, f32[8]{0}, "
            "f32[8]{0}, f32[8]{0}, f32[8]{0}, /*index=5*/f32[8]{0})) all-gather-start(%a, %b, %c, %d, %e, "
            "/*index=5*/%f), replica_groups=[1,4]<=[4], dimensions={0}",
            Collective("all-gather", 6 * 8 * 4, 4),
        ),
    ],
    ids=lambda value: getattr(value, "operation", None),
)
def test_of_what_starts_a_collective_the_result_alone_is_counted(line, expected):
    """An asynchronous operation has its operands in its shape too, and its end, a line of its own, counts no more."""
    done = f"  %done = f32[8]{{0}} {expected.operation}-done(%start)"
    program = f"ENTRY %main (a: f32[8]) -> f32[8] {{\n  %start = {line}\n{done}\n}}\n"
    assert collectives(program, 32) == [expected]


def test_a_collective_in_a_computation_that_is_started_counts_once():
    program = """
%async_wrapped (p: f32[32]) -> f32[8] {
  %p = f32[32]{0} parameter(0)
  ROOT %reduce-scatter = f32[8]{0} reduce-scatter(%p), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
}, execution_thread="parallel"

ENTRY %main (c: f32[32]) -> f32[8] {
  %start = ((f32[32]{0}), f32[8]{0}) async-start(%c), async_execution_thread="parallel", calls=%async_wrapped
  ROOT %done = f32[8]{0} async-done(%start)
}
"""
    assert collectives(program, 4) == [Collective("reduce-scatter", 32, 4)]


def test_what_is_sent_follows_the_ring():
    assert Collective("all-reduce", 800, 8).sent == 1400
    assert Collective("all-gather", 800, 8).sent == 700
    assert Collective("reduce-scatter", 100, 8).sent == 700
    assert Collective("collective-permute", 100, 8).sent == 100


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("80GiB", 80 * 2**30), ("1.5T", 1.5e12), ("100", 100)])
def test_sizes_have_units(text, size):
    assert size_of(text, "--memory") == size


@pytest.mark.parametrize("text", ["many", "80XB", "-1GB", "0", "", "1.2.3GB"])
def test_wrong_sizes_are_refused(text):
    with pytest.raises(UserError, match="expected a size, such as 80GB"):
        size_of(text, "--memory")
