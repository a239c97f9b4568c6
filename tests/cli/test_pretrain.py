"""``fewshot-jax pretrain``: from a file of texts to a model; a mistake is one message and code 2."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

import fewshot_jax as fsj
from fewshot_jax.cli.main import main
from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.config_file import from_dict, read_config, to_dict

VALUES = {
    "corpus": {"validation_share": 0.2},
    "tokenizer": {"kind": "bpe", "vocab_size": 300},
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "optimizer": {"steps": 4},
    "batch": {"sequences": 4, "length": 32},
    "evaluation": {"every": 2, "batches": 1},
}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("pretrain*.yaml"))


def call(arguments):
    """(exit code, stdout, stderr) of a command; any other exception than SystemExit gets through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["pretrain", *(str(argument) for argument in arguments)])
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(VALUES))
    (tmp_path / "texts.txt").write_text("\n\n".join(f"text {n}: " + "all work and no play " * 3 for n in range(30)))
    return tmp_path


def arguments(files, *more):
    return [files / "config.yaml", "--run-dir", files / "run", "--corpus.path", files / "texts.txt", *more]


def test_a_file_of_texts_becomes_a_model(files):
    code, out, err = call(arguments(files, "--json"))
    assert code == 0, err
    result = json.loads(out)
    assert result["steps"] == 4 and result["validation_perplexity"] > 1
    assert "train: 24 documents" in err and "100.0% of the slots filled" in err
    assert "tokens/s" in err
    assert fsj.load_pretrained(files / "run" / "model").head == "causal_lm"
    code, out, err = call(arguments(files))
    assert code == 0 and "is finished" in err
    assert "nats per token on held-out documents (perplexity" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch.length", "4"), "batch.length=4: expected at least 8 tokens"),
        (("--corpus.text-field", "body", "--corpus.path", "no.csv"), "no.csv: no such file"),
        (("--model.dropout", "0.1"), "model.dropout=0.1: the decoder of causal_lm has none"),
        (("--tokenizer.vocab-size", "50"), "tokenizer.vocab_size=50: "),
        (("--model.width", "18"), "model.width=18: expected a multiple of twice model.heads=2"),
        (("--tokenizer.path", "nowhere"), "nowhere: no such directory"),
        (("--model.pretrained", "nowhere"), "nowhere: no such directory"),
        (("--batch.sequences", "5000"), "fewer than batch.sequences=5000"),
        (("--corpus.validation-share", "1.5"), "corpus.validation_share=1.5: expected a share between 0 and 1"),
    ],
)
def test_a_mistake_is_one_message(files, more, message):
    code, out, err = call(arguments(files, "--quiet", *more))
    assert (code, out) == (2, "")
    # What a section of the config refuses stands in a frame, broken into lines.
    assert message in " ".join(err.replace("|", " ").split())
    assert "Traceback" not in err


def test_a_config_is_needed():
    code, _, err = call(["--run-dir", "x"])
    assert code == 2
    assert "pretrain needs a config" in err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": {}}, "config.yaml: unknown field 'optimiser'; did you mean 'optimizer'?"),
        ({"batch": {"lenght": 3}}, "config.yaml: unknown field 'batch.lenght'; did you mean 'length'?"),
        ({"objective": "lm"}, "objective: 'lm' is not one of 'causal_lm', 'masked_lm', 'span_corruption'"),
    ],
)
def test_a_field_that_is_not_known_is_refused_with_the_nearest_one(files, values, message):
    (files / "config.yaml").write_text(yaml.safe_dump({**VALUES, **values}))
    code, _, err = call(arguments(files))
    assert code == 2
    assert message in err


def test_help_explains_the_fields():
    code, out, _ = call(["--help"])
    assert code == 0
    for word in ("--objective", "--corpus.path", "--batch.mask-rate", "--model.pretrained"):
        assert word in out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_reads(path):
    config = read_config(path, PretrainConfig)
    assert from_dict(to_dict(config), kind=PretrainConfig) == config
    assert path.read_text().startswith("# ")


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_run_goes_on_to_the_same_model(files):
    """SIGKILL at some step, twice; the parameters are those of a run that nobody disturbed."""
    steps = ("--optimizer.steps", "120", "--evaluation.every", "20", "--quiet")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for _ in range(2):
        command = [sys.executable, "-m", "fewshot_jax", "pretrain", *map(str, arguments(files, *steps))]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        known = {path.name for path in (files / "run" / "checkpoints").glob("*")}
        while process.poll() is None:
            if {path.name for path in (files / "run" / "checkpoints").glob("*") if path.name.isdigit()} - known:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads((files / "run" / "result.json").read_text())["resumed_at"] > 0
    undisturbed = list(map(str, arguments(files, *steps)))
    undisturbed[undisturbed.index(str(files / "run"))] = str(files / "other")
    whole = subprocess.run(
        [sys.executable, "-m", "fewshot_jax", "pretrain", *undisturbed],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert whole.returncode == 0, whole.stderr
    one, other = (fsj.load_pretrained(files / name / "model").params for name in ("run", "other"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
