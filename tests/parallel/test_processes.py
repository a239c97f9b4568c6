"""Several processes train as one does; what keeps them from it ends in a message."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.config_file import write_config
from fewshot_jax.errors import UserError
from fewshot_jax.parallel.processes import check_agreement, gather_json, start
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, config_of, last_state, merged

pytestmark = pytest.mark.distributed
STEPS = 4
VALUES = merged(RUN, outer={"steps": STEPS, "tasks": 4, "rate": 0.001}, evaluation={"every": 2})


def config(**sections):
    return config_of(VALUES, **sections)


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def launch(arguments, count, *, devices=1, each=lambda number: [], program=("-m", "fewshot_jax")):
    """Start so many processes of the command."""
    flags = re.sub(r"(device_count=)\d+", rf"\g<1>{devices}", os.environ["XLA_FLAGS"])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    port = free_port()
    return [
        subprocess.Popen(
            [
                *(sys.executable, *program, *arguments),
                *("--coordinator", f"localhost:{port}", "--processes", str(count), "--process", str(number)),
                *each(number),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def ends(processes, timeout=300):
    """(exit code, stdout, stderr) of each."""
    found = []
    try:
        for process in processes:
            out, told = process.communicate(timeout=timeout)
            found.append((process.returncode, out, told))
    finally:
        for process in processes:
            process.kill()
    return found


def final(path):
    return last_state(RunDirectory(path), STEPS)


def assert_close(one, other, tolerance=2e-5):
    """But for the biases of the keys, whose gradient is rounding alone, which Adam enlarges."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(one.meta_params), jax.tree.leaves(other.meta_params), strict=True)
    for (path, a), b in leaves:
        if not leaf_path(path).endswith("key/bias"):
            np.testing.assert_allclose(a, b, atol=tolerance, err_msg=leaf_path(path))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "run"
    fsj.train(config(), path, quiet=True)
    return path


def losses(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize(
    ("count", "devices", "fsdp"), [(2, 1, 1), pytest.param(4, 1, 2, marks=pytest.mark.slow), (2, 2, 2)]
)
def test_processes_train_as_one(alone, tmp_path, count, devices, fsdp):
    path, run = tmp_path / "config.yaml", tmp_path / "run"
    write_config(config(parallel={"fsdp": fsdp}, evaluation={"at_end": fsdp == 1}), path)
    found = ends(launch(["train", str(path), "--run-dir", str(run), "--json"], count, devices=devices))
    assert [code for code, _, _ in found] == [0] * count, found[0][2] + found[1][2]
    assert_close(final(alone), final(run))
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-5)
    assert losses(run)[0] == pytest.approx(losses(alone)[0], rel=1e-6), "the same first episodes"
    if fsdp == 1:
        assert json.loads(found[0][1])["learner"] == "protonet" and not found[1][1], "the first reports alone"
    assert not found[1][2].count("step "), "and shows progress alone"


def test_processes_of_different_configs_are_refused_in_all(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(config(), path)
    arguments = ["train", str(path), "--run-dir", str(tmp_path / "run"), "--quiet"]
    found = ends(launch(arguments, 2, each=lambda number: ["--outer.rate", f"0.00{number + 1}"]))
    for code, _, told in found:
        assert (
            code == 2 and "processes 0 and 1 have different configs or versions (outer.rate: 0.001 and 0.002)" in told
        )
    assert not (tmp_path / "run").exists()


def test_one_signal_saves_in_all_processes(tmp_path):
    path, run = tmp_path / "config.yaml", tmp_path / "run"
    write_config(config(outer={"steps": 100_000}, evaluation={"every": 100_000}), path)
    processes = launch(["train", str(path), "--run-dir", str(run), "--quiet"], 2)
    until = time.monotonic() + 200
    while time.monotonic() < until and not (Path(run) / "metrics.jsonl").exists():
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [code for code, _, _ in found] == [75, 75], found[0][2] + found[1][2]
    saved = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    assert len(saved) == 1


def test_the_first_process_names_a_bad_task_of_another(tmp_path):
    poisoned = (
        "import types; from fewshot_jax.cli.main import main; from tests.runs.test_faults import poisoned\n"
        "poisoned(types.SimpleNamespace(setattr=setattr), [1], task=3); main()\n"
    )
    path, run = tmp_path / "config.yaml", tmp_path / "run"
    write_config(config(evaluation={"at_end": False}), path)
    found = ends(launch(["train", str(path), "--run-dir", str(run)], 2, program=("-c", poisoned)))
    assert "step 1: the loss of tasks [3] is not finite; the update is skipped" in found[0][2], found[1][2]


def test_a_coordinator_that_cannot_be_reached_is_named():
    code = (
        "from fewshot_jax.parallel.processes import start\nfrom fewshot_jax.errors import UserError\n"
        "try:\n    start('localhost:1', 2, 1, timeout=3)\nexcept UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "cannot join the other processes through localhost:1" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", None, None), "together"),
        (("localhost", 2, 0), "expected HOST:PORT"),
        (("localhost:1", 2, 2), "expected a number from 0 to 1"),
    ],
)
def test_incomplete_addresses_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        start(*arguments)


def test_one_process_agrees_with_itself():
    check_agreement({"a": 1}, "configs")
    assert gather_json({"a": [1, None]}) == [{"a": [1, None]}]
