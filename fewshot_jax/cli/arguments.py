"""Parsing with tyro: dataclasses in, filled dataclasses out."""

import json
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], command: str, arguments: Sequence[str], default: Arguments | None = None) -> Arguments:
    """Parse the arguments of a command; exits with code 2 and a message if they are wrong."""
    return tyro.cli(
        kind,
        prog=f"fewshot-jax {command}",
        args=list(arguments),
        default=tyro.MISSING_NONPROP if default is None else default,
    )


def print_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
