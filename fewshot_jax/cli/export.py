"""``fewshot-jax export RUN --output DIR``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fewshot_jax.cli.arguments import parse, quietly


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the model of a run as a Hugging Face directory, which transformers and fsj.load_pretrained read.

    Of a meta-trained run this is the meta-learned initialisation of its best checkpoint.

    Attributes:
        run: run directory of 'fewshot-jax train' or 'fewshot-jax pretrain'.
        output: new directory for config.json, model.safetensors and the tokenizer.
        force: replace an exported model that exists.
        quiet: print the result alone, no notes.
    """

    run: tyro.conf.Positional[Path]
    output: Path
    force: bool = False
    quiet: bool = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "export", arguments)
    from fewshot_jax.training.export import export

    with quietly(parsed.quiet):
        for note in export(parsed.run, parsed.output, force=parsed.force):
            print(f"note: {note}", file=sys.stderr)
    print(f"written to {parsed.output}; read it with fsj.load_pretrained or transformers' AutoModel")
