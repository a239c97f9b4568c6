"""Commands whose first argument is a command, such as ``data validate``."""

from collections.abc import Mapping, Sequence
from typing import Any

from fewshot_jax.cli.arguments import parse
from fewshot_jax.cli.examples import example_of
from fewshot_jax.config_file import nearest
from fewshot_jax.errors import UserError

CommandParts = Mapping[str, tuple[Any, Any]]  # name of a part: its arguments and what it does with them


def run_part(command: str, parts: CommandParts, arguments: Sequence[str], default: str | None = None) -> None:
    """Run the part of a command that the first argument names.

    Args:
        command: its name.
        parts: of it.
        arguments: of the command line, after the command.
        default: the part that is meant where none is named; None where one must be.

    Raises:
        UserError: there is no such part, or none is named.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(parts_usage(command, parts, default))
        return
    if default is not None and (not arguments or arguments[0].startswith("-")):
        arguments = [default, *arguments]
    if not arguments:
        print(parts_usage(command, parts, default))
        raise UserError(f"{command} needs one of {', '.join(parts)}")
    name, *rest = arguments
    if name not in parts:
        raise UserError(f"unknown command '{command} {name}'; {nearest(name, parts)}")
    kind, work = parts[name]
    work(parse(kind, f"{command} {name}", rest))


def parts_usage(command: str, parts: CommandParts, default: str | None = None) -> str:
    """The text of the command's ``--help``."""
    shown, meant = "COMMAND ...", ""
    if default is not None:
        shown, meant = f"[{shown}]", f" ({default} if none is given)"
    lines = [f"  {name:10s} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in parts.items()]
    return "\n".join(
        [f"usage: fewshot-jax {command} {shown}", "", f"commands{meant}:", *lines, "", example_of(command)]
    )
