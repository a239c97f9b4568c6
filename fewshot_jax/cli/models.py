"""``fewshot-jax models [ls|show NAME|get NAME]``."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from fewshot_jax.cli.arguments import print_json, quietly
from fewshot_jax.cli.parts import CommandParts, run_part

if TYPE_CHECKING:
    from fewshot_jax.models.sources.at_hand import Here
    from fewshot_jax.models.sources.describe import Description


@dataclass(frozen=True, kw_only=True)
class AtHand:
    """List the models that are at hand, and the families that can be read.

    At hand is what needs no network: the default encoder, models inside installed packages, and the cache of the
    Hugging Face hub.

    Attributes:
        json: print JSON.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Show:
    """Say what a model is: family, sizes, head, positions, licence, and the memory that it takes.

    Attributes:
        name: a directory, a .gguf file, 'org/name' or 'org/name@revision' of the Hugging Face hub, 'package:NAME', or
            'default'. Of the hub, config and tokenizer are fetched, and no weights.
        json: print JSON.
        quiet: print the result alone, no progress and no notes.
    """

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    json: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Get:
    """Fetch a model of the Hugging Face hub into its cache, and print where it is.

    Attributes:
        name: 'org/name' or 'org/name@revision'; of another name the place is printed.
        json: print JSON.
        quiet: print the result alone, no progress and no notes.
    """

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    json: bool = False
    quiet: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the part that the first argument names; without one, list."""
    run_part("models", PARTS, arguments, default="ls")


def _ls(arguments: AtHand) -> None:
    from fewshot_jax.models.huggingface.families import FAMILIES
    from fewshot_jax.models.sources.at_hand import models_at_hand

    found = models_at_hand()
    if arguments.json:
        print_json({"models": [{**one._asdict(), "path": str(one.path)} for one in found], "families": list(FAMILIES)})
        return
    _print_table(found)
    print(f"families that can be read: {', '.join(FAMILIES)}")


def _print_table(found: list["Here"]) -> None:
    named = {
        one: one.name if one.revision is None or "@" in one.name else f"{one.name} ({one.revision})" for one in found
    }
    longest = max(map(len, named.values()))
    for one, name in named.items():
        licence = one.licence or "licence not stated"
        print(f"{name:{longest}s}  {one.family or '?':16s} {size(one.bytes_on_disk):>9s}  {licence}")
        if one.problem is not None:
            print(f"  cannot be used: {one.problem}")


def _show(arguments: Show) -> None:
    from fewshot_jax.models.sources.describe import describe
    from fewshot_jax.models.sources.names import find_files

    with quietly(arguments.quiet):
        described = describe(find_files(arguments.name, weights=False))
    values = {**dataclasses.asdict(described), "path": str(described.path)}
    if arguments.json:
        print_json(values)
    else:
        print("\n".join(f"{name:14s} {value}" for name, value in shown_rows(described).items()))


def shown_rows(one: "Description") -> dict[str, str]:
    """What is printed of a model, by the names of the rows."""
    rows = {
        "name": one.name,
        "path": str(one.path),
        "revision": one.revision,
        "SHA-256": one.sha256,
        "family": f"{one.family} ({one.architecture.replace('_', '-')})",
        "head": one.head or "none: hidden states",
        "can have": ", ".join(one.heads) or None,
        "parameters": f"{one.parameters:,} ({one.layers} layers of width {one.width}, {one.vocabulary:,} token ids)",
        "tokenizer": "none" if one.tokens is None else f"{one.tokens:,} tokens",
        "positions": "no limit stated" if one.positions is None else f"{one.positions:,} tokens",
        "a vector is": vector_of(one),
        "licence": one.licence or "not stated",
        "on disk": size(one.bytes_on_disk) if one.bytes_on_disk else "no weights yet: 'fewshot-jax models get' them",
        "to load": f"{size(one.bytes_to_load)} (float32)",
        "to adapt": f"{size(one.bytes_to_adapt)} (a gradient step: LoRA of rank 8 on queries and values, 4 texts of "
        f"{one.tokens_to_adapt} tokens)",
    }
    return {name: value for name, value in rows.items() if value is not None}


def vector_of(one: "Description") -> str:
    """How a text becomes one vector, in words."""
    vectors = one.vectors
    steps = [f"{' and '.join(vectors.shape.pooling)} of the hidden states"]
    for step in vectors.shape.steps:
        steps.append("of unit length" if step == "normalize" else f"a dense layer to {step.outputs}")
    if vectors.max_length is not None:
        steps.append(f"of at most {vectors.max_length} tokens")
    if prompt := vectors.prompt(None):
        steps.append(f"after the prompt {prompt!r}")
    return f"{', '.join(steps)}{'' if vectors.stated else ' (nothing is stated)'}"


def size(number: int) -> str:
    """Bytes as people read them, in powers of 1,000."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _get(arguments: Get) -> None:
    from fewshot_jax.models.sources.names import find_files

    with quietly(arguments.quiet):
        files = find_files(arguments.name)
    if arguments.json:
        print_json({"name": files.name, "path": str(files.path), "revision": files.revision})
    else:
        print(f"{files.name}: {files.path}")


# The parts of the command: their arguments and what they do.
PARTS: CommandParts = {"ls": (AtHand, _ls), "show": (Show, _show), "get": (Get, _get)}
