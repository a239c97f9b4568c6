"""``fewshot-jax env``."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_jax.cli.arguments import parse, print_json
from fewshot_jax.cli.main import use_compilation_cache
from fewshot_jax.versions import versions


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print versions, devices and the compilation cache.

    Attributes:
        json: print JSON.
    """

    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "env", arguments)
    found = {**versions(), "compilation cache": use_compilation_cache()}
    if parsed.json:
        print_json(found)
    else:
        width = max(map(len, found))
        print("\n".join(f"{name:{width}s}  {value}" for name, value in found.items()))
