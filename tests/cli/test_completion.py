"""Shells complete commands and flags, and the help of each command ends with an example that it would take."""

import contextlib
import io
import os
import shlex
import shutil
import subprocess

import pytest

from fewshot_jax.cli.completion import PARTS, flags_of
from fewshot_jax.cli.data import PARTS as PARTS_OF_DATA
from fewshot_jax.cli.examples import EXAMPLES
from fewshot_jax.cli.main import COMMANDS, main
from fewshot_jax.config import Config
from fewshot_jax.config_file import flat


def output_of(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code
    assert code in (0, None)
    return out.getvalue()


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "fewshot-jax"
    path.write_text(output_of("completion", "bash"), encoding="utf-8")
    return path


def completed(script, line):
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    asked = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f'COMP_CWORD={len(words) - 1}; _fewshot_jax; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_accepts_the_script(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands_and_their_parts(script):
    assert completed(script, "fewshot-jax tr") == {"train"}
    assert COMMANDS.keys() <= completed(script, "fewshot-jax ")
    assert completed(script, "fewshot-jax data v") == {"validate"}
    assert completed(script, "fewshot-jax data ") == set(PARTS_OF_DATA) == set(PARTS["data"])


def test_bash_completes_the_flags_of_the_command(script):
    assert completed(script, "fewshot-jax train --inner.st") == {"--inner.steps"}
    assert completed(script, "fewshot-jax train config.yaml --run") == {"--run-dir"}
    assert completed(script, "fewshot-jax data validate x.csv --te") == {"--text-field"}
    assert {"--help", "--shots", "--json", "--no-json"} <= completed(script, "fewshot-jax evaluate --")
    assert completed(script, "fewshot-jax evaluate --inner.st") == set(), "evaluate has no such flag"
    assert completed(script, "fewshot-jax adapt run") == set(), "then bash offers files"


@pytest.mark.parametrize("columns", ["80", "240"])
def test_every_field_of_a_config_is_a_flag(script, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    flags = set(flags_of("fewshot_jax.cli.train", []))
    assert {f"--{name.replace('_', '-')}" for name in flat(Config())} <= flags
    assert flags == completed(script, "fewshot-jax train -")
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command_and_accept_their_script(shell, tmp_path):
    text = output_of("completion", shell)
    for word in (*COMMANDS, "run-dir", "inner.steps", "validate", "text-field"):
        assert word in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text, encoding="utf-8")
        done = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_commands_parts_and_flags(tmp_path):
    path = tmp_path / "script"
    path.write_text(output_of("completion", "fish"), encoding="utf-8")

    def offered(line):
        asked = f"source {shlex.quote(str(path))}; complete -C {shlex.quote(line)}"
        done = subprocess.run(["fish", "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path)
        return {choice.split("\t")[0] for choice in done.stdout.splitlines()}

    assert offered("fewshot-jax tr") == {"train"}
    assert offered("fewshot-jax data ") == set(PARTS_OF_DATA)
    assert offered("fewshot-jax train --inner.st") == {"--inner.steps"}
    assert offered("fewshot-jax data validate --te") == {"--text-field"}
    assert offered("fewshot-jax adapt scr") == {"script"}


@pytest.mark.parametrize("command", [*COMMANDS, *(f"data {part}" for part in PARTS_OF_DATA)])
def test_the_help_of_every_command_ends_with_an_example(command):
    last = output_of(*command.split(), "--help").rstrip().splitlines()[-1]
    assert last == f"example: {EXAMPLES[command]}"
    assert EXAMPLES[command].startswith(f"fewshot-jax {command}")


@pytest.mark.parametrize("command", [*COMMANDS, *(f"data {part}" for part in PARTS_OF_DATA)])
def test_an_example_has_flags_that_the_command_knows(command):
    flags = {word for word in EXAMPLES[command].split() if word.startswith("--")}
    described = output_of(*EXAMPLES[command].split()[1 : 1 + len(command.split())], "--help")
    assert all(flag in described for flag in flags)


def test_the_usage_ends_with_an_example():
    assert output_of("--help").rstrip().splitlines()[-1].startswith("example: fewshot-jax train configs/")
