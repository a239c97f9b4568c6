"""What goes wrong while a run trains, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.text_classification import TextClassification
from fewshot_jax.config_file import write_config
from fewshot_jax.errors import Terminated, UserError
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.checksums import Checksums
from fewshot_jax.runs.interruption import locked, termination
from fewshot_jax.runs.metrics import read_metrics
from fewshot_jax.runs.state import first_state
from fewshot_jax.runs.step import SPIKE_WARMUP, guarded_step
from fewshot_jax.training import loop
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, config_of, last_state, merged

pytestmark = pytest.mark.faults
STEPS = 6
VALUES = merged(RUN, outer={"steps": STEPS, "tasks": 2, "rate": 0.01}, evaluation={"every": 3})


def config(**sections):
    return config_of(VALUES, **sections)


def final(run):
    return last_state(run, STEPS)


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = RunDirectory(tmp_path_factory.mktemp("undisturbed") / "run")
    fsj.train(config(), run.path, quiet=True)
    return final(run)


def at_step(patch, number, act):
    """Do something while the batch of a step is made."""
    training_stream = TextClassification.training_stream

    def disturbed(self):
        stream = training_stream(self)

        def episodes(step, tasks):
            if step == number:
                act()
            return stream(step, tasks)

        return episodes

    patch.setattr(TextClassification, "training_stream", disturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_too_late_to_stop_the_steps_is_not_lost(number):
    came = []
    before = signal.signal(number, lambda number, frame: came.append(number))
    try:
        with termination() as asked:
            assert not asked()
            signal.raise_signal(number)
            assert asked()
            assert not came
        assert came == [number]
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with termination() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


def twice(number):
    with termination() as asked:
        signal.raise_signal(number)
        assert asked()
        signal.raise_signal(number)
    pytest.fail("the second one did nothing")


def test_ctrl_c_once_asks_and_twice_ends(default_interrupt):
    with pytest.raises(KeyboardInterrupt):
        twice(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_same_seed_gives_the_same_bits(undisturbed, tmp_path):
    fsj.train(config(), tmp_path / "run", quiet=True)
    assert_identical(undisturbed, final(RunDirectory(tmp_path / "run")))


@pytest.mark.parametrize(
    ("number", "error", "usual"),
    [
        (signal.SIGTERM, Terminated, signal.SIG_DFL),
        (signal.SIGINT, KeyboardInterrupt, signal.default_int_handler),
    ],
)
def test_a_run_that_is_told_to_end_saves_and_goes_on_to_the_same_bits(
    undisturbed, default_interrupt, tmp_path, monkeypatch, number, error, usual
):
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        # Batches are made ahead: the signal comes before the step that it was sent at.
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        with pytest.raises(error, match=r"told to end, saved at step \d of 6"):
            fsj.train(config(), run.path, quiet=True)
    assert signal.getsignal(number) is usual
    saved = max(int(path.name) for path in run.checkpoints.glob("*"))
    assert saved < STEPS and run.result() is None
    fsj.train(config(), run.path, quiet=True)
    assert run.result()["resumed_at"] == saved
    assert_identical(undisturbed, final(run))


def test_the_command_ends_with_its_own_code(tmp_path):
    path, run = tmp_path / "config.yaml", tmp_path / "run"
    write_config(config(outer={"steps": 100_000}, evaluation={"every": 100_000}), path)
    command = [sys.executable, "-m", "fewshot_jax", "train", str(path), "--run-dir", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert "told to end, saved at step" in told and "the same command goes on from there" in told


def test_checkpoints_between_validations_change_nothing(undisturbed, tmp_path):
    run = RunDirectory(tmp_path / "run")
    fsj.train(config(recovery={"checkpoint_every": 1, "keep": 3}), run.path, quiet=True)
    assert {int(path.name) for path in run.checkpoints.glob("*")} >= {4, 5, 6}
    assert_identical(undisturbed, final(run))


def poisoned(patch, steps, task=1):
    """Make the loss of one task NaN, and the gradient, at some steps."""
    meta_gradient = loop.meta_gradient

    def changed(learner, *shards):
        def grad(meta_params, episodes, key, progress):
            grads, metrics = meta_gradient(learner, *shards)(meta_params, episodes, key, progress)
            bad = jnp.isin(jnp.round(progress * STEPS) + 1, jnp.array(steps))
            factor = jnp.where(bad, jnp.nan, 1.0)
            metrics = {
                **metrics,
                "task_loss": metrics["task_loss"].at[task].multiply(factor),
                "loss": metrics["loss"] * factor,
            }
            return jax.tree.map(lambda leaf: leaf * factor, grads), metrics

        return grad

    patch.setattr(loop, "meta_gradient", changed)


def test_a_step_that_is_not_finite_is_skipped_counted_and_named(tmp_path, monkeypatch, capsys):
    run = RunDirectory(tmp_path / "run")
    poisoned(monkeypatch, [2, 5])
    fsj.train(config(), run.path)
    told = capsys.readouterr().err
    assert "step 2: the loss of tasks [1] is not finite; the update is skipped" in told
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows if "skipped_because" in row] == [2, 5]
    assert rows[-2]["skipped"] == 2 and np.isfinite(rows[-2]["loss"])
    state = final(run)
    assert state.health.skipped == 2 and state.health.in_a_row == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta_params))


def test_too_many_in_a_row_end_the_run_with_the_last_good_checkpoint(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        poisoned(patch, [4, 5])
        with pytest.raises(UserError, match=r"2 updates in a row were skipped, at step 5 the loss of tasks \[1\]"):
            fsj.train(config(recovery={"skip_limit": 2}), run.path, quiet=True)
    assert [path.name for path in run.checkpoints.glob("*")] == ["3"]
    fsj.train(config(), run.path, quiet=True)  # what was wrong is mended
    assert run.result()["resumed_at"] == 3 and final(run).health.skipped == 0


def test_a_spike_is_skipped():
    losses = jnp.array([1.0] * (SPIKE_WARMUP + 1) + [100.0, 1.0, 2.5])

    def grad(params, batch, key, progress):
        return {"w": jnp.ones(2)}, {"loss": losses[batch]}

    optimizer = optax.sgd(0.1)
    step = jax.jit(guarded_step(grad, optimizer, steps=len(losses), spike_factor=3.0))
    state, seen = first_state({"w": jnp.zeros(2)}, optimizer, jax.random.key(0)), []
    for i in range(len(losses)):
        state, metrics = step(state, i)
        seen.append(bool(metrics["spike"]))
    assert seen == [loss == 100.0 for loss in losses.tolist()]
    np.testing.assert_allclose(state.meta_params["w"], -0.1 * (len(losses) - 1), rtol=1e-5)
    assert int(state.health.skipped) == 1 and float(state.health.loss) < 1.1


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("harm", [flip, truncate, lambda file: file.unlink()], ids=["flipped", "truncated", "gone"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(undisturbed, tmp_path, capsys, harm):
    run = RunDirectory(tmp_path / "run")
    fsj.train(config(), run.path, quiet=True)
    (run.path / "result.json").unlink()  # as if it were not finished
    largest = max((run.checkpoints / "6").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    harm(largest)
    with pytest.raises(UserError, match=r"checkpoints/6: this checkpoint is damaged .*sets it aside"):
        final(run)
    fsj.train(config(), run.path, quiet=True)
    assert "the checkpoint of step 6 is damaged" in capsys.readouterr().err
    assert (run.path / "damaged" / "6").is_dir()
    assert run.result()["resumed_at"] == 3
    assert_identical(undisturbed, final(run))


def test_every_change_of_a_file_is_noticed(tmp_path):
    folder = tmp_path / "checkpoints" / "7"
    (folder / "d").mkdir(parents=True)
    for name in ("a", "d/b", "empty"):
        (folder / name).write_bytes(b"" if name == "empty" else os.urandom(64))
    sums = Checksums(tmp_path / "checkpoints")
    assert sums.damage(7) is None, "no checksums yet"
    sums.write(7)
    assert sums.damage(7) is None
    rng = np.random.default_rng(0)
    for _ in range(200):
        file = folder / rng.choice(["a", "d/b"])
        before = file.read_bytes()
        changed = bytearray(before)
        match int(rng.integers(3)):
            case 0:
                changed[rng.integers(64)] ^= 1 << rng.integers(8)
            case 1:
                changed = changed[: rng.integers(64)]
            case _:
                changed += b"x"
        file.write_bytes(changed)
        assert str(file.relative_to(folder)) in sums.damage(7)
        file.write_bytes(before)
    assert sums.damage(7) is None
    (tmp_path / "checksums" / "7.json").write_text('{"a": ')
    assert "cannot be read" in sums.damage(7)


def test_a_second_start_is_refused_while_one_runs(tmp_path):
    run = tmp_path / "run"
    with locked(run):
        with pytest.raises(UserError, match=rf"a run is going on here \(process {os.getpid()} on"):
            fsj.train(config(), run, quiet=True)
        assert (run / ".lock").exists()
    assert not run.exists(), "nothing was written"


def test_a_full_disk_is_named_and_spares_the_checkpoints_before(undisturbed, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        save = Checkpoints.save

        def full(self, state, record, metrics):
            if int(state.step) > 3:

                def refuse(*arguments, **keywords):
                    raise OSError(28, "No space left on device")

                patch.setattr(self._manager, "save", refuse)
            save(self, state, record, metrics)

        patch.setattr(Checkpoints, "save", full)
        with pytest.raises(UserError, match=r"cannot write a checkpoint .*No space left on device.*free the disk"):
            fsj.train(config(), run.path, quiet=True)
    fsj.train(config(), run.path, quiet=True)
    assert run.result()["resumed_at"] == 3
    assert_identical(undisturbed, final(run))


def test_a_run_goes_on_with_other_devices_and_the_same_episodes(undisturbed, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            fsj.train(config(evaluation={"every": 2}), run.path, quiet=True)
    fsj.train(config(evaluation={"every": 2}, parallel={"fsdp": 2}), run.path, quiet=True)
    for a, b in zip(jax.tree.leaves(undisturbed.meta_params), jax.tree.leaves(final(run).meta_params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert json.loads((run.path / "result.json").read_text())["steps"] == STEPS
