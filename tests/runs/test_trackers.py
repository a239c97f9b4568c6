"""The numbers of metrics.jsonl reach TensorBoard and Weights & Biases, none twice after a kill, none missing."""

import json
import shutil
import struct
import sys
import types

import pytest
import yaml

from fewshot_jax.cli.main import main
from fewshot_jax.errors import UserError
from fewshot_jax.runs import weights_and_biases
from fewshot_jax.runs.metrics import TENSORBOARD, MetricsFile, read_metrics
from fewshot_jax.training.loop import train
from tests.small_run import RUN, config_of, merged


def events_of(file):
    """The events of a file; the checksums are those of the TFRecord format."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data = file.read_bytes()
    while data:
        head, (length,) = data[:8], struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(head),)
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked_crc32c(body),)
        yield Event.FromString(body)
        data = data[16 + length :]


def shown(run):
    """``{(step, name): value}`` as TensorBoard shows them: a session's start purges the steps from its own on.

    tensorboard/backend/event_processing/event_accumulator.py, `_CheckForRestartAndMaybePurge`.
    """
    found = []
    for file in sorted((run / TENSORBOARD).iterdir()):
        first, *events = events_of(file)
        assert first.file_version == "brain.Event:2"
        for event in events:
            if event.HasField("session_log"):
                found = [one for one in found if one[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    assert len({(step, name) for step, name, _ in found}) == len(found), "no point stands twice"
    return {(step, name): value for step, name, value in found}


def logged(run):
    """The same of metrics.jsonl."""
    return {
        (row["step"], name): value
        for row in read_metrics(run / "metrics.jsonl")
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    }


def assert_same(run):
    assert logged(run)
    assert shown(run) == pytest.approx(logged(run), rel=1e-6)  # an event holds single precision


def test_a_killed_run_that_goes_on_shows_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    killed = MetricsFile(path)
    for step in (10, 20, 30):
        killed.write({"step": step, "loss": step / 7, "rate": None, "skipped_because": "words"})
    # no close: what a kill leaves is what has been written
    assert_same(tmp_path)
    resumed = MetricsFile(path, after=20)
    assert_same(tmp_path)
    for step in (25, 30, 40):
        resumed.write({"step": step, "loss": float("nan"), "score": -step})
    assert_same(tmp_path)
    assert {step for step, _ in shown(tmp_path)} == {10, 20, 25, 30, 40}
    started_over = MetricsFile(path)
    started_over.write({"step": 5, "loss": 1.0})
    assert_same(tmp_path)
    assert {step for step, _ in shown(tmp_path)} == {5}


@pytest.mark.parametrize(
    "torn",
    [
        *(b'{"step": 20, "lo', b'["not", "a", "row"]', b'{"loss": 1.0}', b"\xff\xfe\0", b"[" * 9999, b""),
        *(b'{"step": 20, "loss": "high"}', b'{"step": 20, "seconds": [1]}', b'{"step": 20, "loss": NaN}'),
        *(b'{"step": true, "loss": 1.0}', b'{"step": 20, "skipped_because": 3}'),
    ],
)
def test_a_line_that_is_torn_or_foreign_costs_no_other(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10, "loss": 1.5, "seconds": 2.0}\n' + torn + b'\n{"step": 15, "loss": 1.0}\n')
    resumed = MetricsFile(path, after=30)
    assert resumed.seconds == 2.0
    assert read_metrics(path) == [{"step": 10, "loss": 1.5, "seconds": 2.0}, {"step": 15, "loss": 1.0}]
    assert read_metrics(tmp_path / "absent") == []


def test_a_process_that_only_reads_writes_no_events(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl", read_only=True).write({"step": 1, "loss": 1.0})
    assert not (tmp_path / TENSORBOARD).exists()


class FakeRun:
    def __init__(self, options):
        self.options, self.id, self.rows, self.finished = options, options["id"] or "a1b2", [], False

    def log(self, row, step):
        assert not self.finished
        self.rows.append((step, row))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A package of the same name that remembers its runs."""
    module = types.ModuleType("wandb")
    module.runs = []

    def init(**options):
        module.runs.append(FakeRun(options))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_training_tells_both_what_it_logs_and_goes_on_as_the_same_run(tmp_path, wandb):
    run = tmp_path / "run"
    path = tmp_path / "config.yaml"
    values = merged(RUN, outer={"steps": 4, "tasks": 1}, evaluation={"every": 2})
    path.write_text(yaml.safe_dump(values))
    assert main(["train", str(path), "--run-dir", str(run), "--quiet", "--wandb", "few"]) == 0
    assert_same(run)
    (begun,) = wandb.runs
    assert begun.finished
    assert (begun.options["project"], begun.options["name"], begun.options["id"]) == ("few", "run", None)
    assert begun.options["config"]["model"]["width"] == 16
    sent = {(step, name): value for step, row in begun.rows for name, value in row.items()}
    assert sent == logged(run)

    # Killed after its first checkpoint: the second is gone, the metrics and the events are there.
    (run / "result.json").unlink()
    (run / "checksums" / "4.json").unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoints" / "4")
    train(config_of(values), run, quiet=True, wandb="few")
    assert_same(run)
    went_on = wandb.runs[-1]
    assert went_on.options["id"] == json.loads((run / "wandb.json").read_text())["id"] == "a1b2"
    assert went_on.options["resume"] == "allow"
    assert min(step for step, _ in went_on.rows) > 2


@pytest.mark.parametrize("torn", ["", "{", "[]", "{}"])
def test_a_torn_record_of_a_tracked_run_is_named(tmp_path, wandb, torn):
    (tmp_path / "wandb.json").write_text(torn)
    with pytest.raises(UserError, match=r"wandb\.json: expected the id of the run .* or delete it"):
        weights_and_biases.Tracker("few", tmp_path, after=2, config={})
    assert weights_and_biases.Tracker("few", tmp_path, after=0, config={})._run.options["id"] is None


def test_without_the_package_the_message_names_it_and_nothing_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(RUN))
    for command in ("train", "pretrain"):
        path.write_text(yaml.safe_dump(RUN if command == "train" else {}))
        assert main([command, str(path), "--run-dir", str(tmp_path / "run"), "--wandb", "few"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --wandb few: needs the package wandb")
        assert "pip install wandb" in error
    assert not (tmp_path / "run").exists()


def test_a_project_that_cannot_be_reached_is_the_users_to_mend(tmp_path, wandb):
    def refuse(**options):
        raise RuntimeError("api_key not configured\nmore")

    wandb.init = refuse
    with pytest.raises(UserError, match=r"--wandb few: cannot start \(api_key not configured\).*wandb login"):
        weights_and_biases.Tracker("few", tmp_path, after=0, config={})
