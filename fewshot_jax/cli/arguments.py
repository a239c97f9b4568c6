"""Parsing with tyro: dataclasses in, filled dataclasses out."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import tyro

from fewshot_jax import strict_json
from fewshot_jax.cli.examples import example_of
from fewshot_jax.config import Config
from fewshot_jax.config_file import read_config
from fewshot_jax.errors import UserError

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], command: str, arguments: Sequence[str], default: Arguments | None = None) -> Arguments:
    """Parse the arguments of a command; exits with code 2 and a message if they are wrong, with 0 after its help."""
    try:
        return tyro.cli(
            kind,
            prog=f"fewshot-jax {command}",
            args=list(arguments),
            default=tyro.MISSING_NONPROP if default is None else default,
        )
    except SystemExit as end:
        if not end.code and (example := example_of(command)):
            print(example)
        raise


def config_path(command: str, arguments: Sequence[str]) -> Path | None:
    """The config of a command, which is needed before the flags can be parsed, since they override it.

    It is the first argument or the first that ends in .yaml or .yml; None where help is asked for without one.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        named = [a for a in arguments if a.endswith((".yaml", ".yml")) and Path(a).exists()]
        return Path(named[0]) if named else None
    if arguments and not arguments[0].startswith("-"):
        return Path(arguments[0])
    named = [argument for argument in arguments if argument.endswith((".yaml", ".yml"))]
    if not named:
        then = "" if command == "plan" else " --run-dir RUN"
        raise UserError(f"{command} needs a config: fewshot-jax {command} CONFIG{then} (see configs/)")
    return Path(named[0])


def parse_run(kind: type[Arguments], command: str, arguments: Sequence[str], config_kind: type = Config) -> Arguments:
    """Parse the arguments of a command that runs a config: its file gives the fields that the flags override.

    Args:
        kind: of the arguments, with ``config`` and ``settings``.
        command: its name.
        arguments: of the command line.
        config_kind: of the config.
    """
    path = config_path(command, arguments)
    settings = config_kind() if path is None else read_config(path, config_kind)
    made: Any = kind
    required = [field.name for field in fields(made) if field.default is field.default_factory is MISSING]
    default = made(**dict.fromkeys(required, tyro.MISSING), settings=settings)
    return parse(kind, command, arguments, default=default)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Say, when a run is interrupted, how it goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(
            f"{str(error) + '; ' if str(error) else ''}the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        raise


@dataclass(frozen=True, kw_only=True)
class ProcessArguments:
    """Several processes that train together, each started with the same command.

    Attributes:
        distributed: join the processes that the cluster (Slurm, Kubernetes, MPI) has started.
        coordinator: HOST:PORT of process 0, where no cluster says so; with the two numbers below.
        processes: how many there are.
        process: number of this one, from 0.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def join(self) -> None:
        """Join the others, if there are any."""
        if self.distributed or (self.coordinator, self.processes, self.process) != (None, None, None):
            from fewshot_jax.parallel.processes import start

            start(self.coordinator, self.processes, self.process)


class _Sink(io.TextIOBase):
    """Takes what is written to it and keeps nothing; never closed, since handlers of logs may hold it."""

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Print no notes, warnings or progress in the block, whoever they are of, if ``quiet``; errors are raised."""
    if not quiet:
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logger = logging.getLogger("jax")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(_Sink()):
            yield
    finally:
        logger.setLevel(before)


def print_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(strict_json.dumps(value, "--json", strict_json.DIVERGED, indent=2) + "\n")
