"""A full disk ends a command with code 2 and one message that names the path and the remedy; nothing is torn."""

import json
import re
import subprocess
import sys

import pytest
import yaml

import fewshot_jax as fsj
from fewshot_jax.config import Config
from fewshot_jax.config_file import read_config
from fewshot_jax.runs.metrics import MetricsFile, read_metrics
from fewshot_jax.training.run_directory import RunDirectory
from tests.cli.test_pretrain import VALUES
from tests.small_run import RUN, merged

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")]

# Each command may write files of so many bytes; what it raises beyond an exit code is the test's failure.
LIMITED = """
import contextlib, io, json, resource, sys
from fewshot_jax.cli.main import main

found = []
for limit, arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found.append((code, err.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Examples, configs and an adapted model."""
    folder = tmp_path_factory.mktemp("full")
    texts = [(f"{words} {i}", label) for words, label in (("parcel lost", "a"), ("bad invoice", "b")) for i in range(4)]
    (folder / "data.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in texts))
    (folder / "texts.txt").write_text("\n\n".join(f"text {n}: " + "all work and no play " * 3 for n in range(30)))
    (folder / "train.yaml").write_text(yaml.safe_dump(merged(RUN, outer={"steps": 2, "tasks": 1})))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(VALUES))
    (folder / "space.yaml").write_text("outer.rate: {choices: [0.001, 0.01]}\n")
    return folder


def test_every_command_that_writes_says_where_the_disk_is_full_and_leaves_nothing(work):
    data, out, predicted = work / "data.csv", work / "out", work / "p.csv"
    adapt = ["adapt", "default", "--data", data, "--folds", "0", "--output"]
    train = [work / "train.yaml", "--quiet"]
    corpus = ["--corpus.path", work / "texts.txt", "--quiet"]
    cases = [
        (2**30, [*adapt, work / "model", "--save", "simple"], None, None),
        (2000, [*adapt, out, "--save", "adapted"], out, "--output"),
        (200, [*adapt, out, "--save", "simple"], out, "--output"),
        (100, ["predict", work / "model", "--input", data, "--output", predicted], predicted, "--output"),
        (1500, ["train", *train, "--run-dir", out], out, "--run-dir"),
        (1500, ["pretrain", work / "pretrain.yaml", *corpus, "--run-dir", out / "run"], out / "run", "--run-dir"),
        (1500, ["tune", *train, "--space", work / "space.yaml", "--study", out / "study"], out / "study", "--study"),
    ]
    sent = json.dumps([(limit, [str(one) for one in arguments]) for limit, arguments, *_ in cases])
    done = subprocess.run([sys.executable, "-c", LIMITED], input=sent, capture_output=True, text=True, check=True)
    (code, err), *found = json.loads(done.stdout)
    assert code == 0, err
    for (code, err), (_, _, place, flag) in zip(found, cases[1:], strict=True):
        last = err.splitlines()[-1]
        assert code == 2 and "Traceback" not in err, err
        said = r"[^ ]*: cannot write here \(File too large\); free disk space, or give another "
        assert re.fullmatch(f"error: {re.escape(str(place))}{said}{flag}", last), err
    left = {str(path.relative_to(work)) for path in work.rglob("*") if ".partial" in path.name}
    assert not left and not predicted.exists()
    assert not list(out.rglob("*.safetensors"))
    assert (out / ".starting").exists() and not (out / "config.yaml").exists()
    RunDirectory(out).check_startable(read_config(work / "train.yaml", Config))  # the same command starts again
    assert fsj.load(work / "model").labels == ["a", "b"]


def test_a_log_that_cannot_be_appended_to_is_named_and_the_rows_before_stay(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.write({"step": 1, "loss": 0.5})
    metrics._file.close()
    metrics._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match="No space left on device") as raised:
        metrics.write({"step": 2, "loss": 0.4})
    assert raised.value.filename == str(path)
    metrics.close()
    assert [row["step"] for row in read_metrics(path)] == [1]
