"""``fewshot-jax adapt MODEL --data FILE --output DIR``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewshot_jax.cli.arguments import parse, print_json, quietly
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from fewshot_jax.adaptation.policy import Policy
    from fewshot_jax.adaptation.report import AdaptationReport


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Adapt a model to a few examples, say how well it does, and save it.

    Texts with labels are cross-validated beside TF-IDF and logistic regression, and the better model is saved.

    Attributes:
        model: 'default' (the encoder that ships with the package), a run directory of 'fewshot-jax train', a Hugging
            Face or sentence-transformers directory, a .gguf file, 'org/name' or 'org/name@revision' of the Hugging Face
            hub, 'package:NAME', or a directory that adapt made, to whose examples these are added.
        data: a CSV, TSV or JSONL file with a text and a label in each row; for runs of other applications a file of
            the form that the run was trained on.
        output: new directory for the adapted model.
        text_field: column or field of the text.
        label_field: column or field of the label.
        save: which model is saved: the better one, the adapted one or the simple one.
        folds: of the cross-validation; 0 for none.
        repeats: of the cross-validation, each with other folds.
        quiet: print the result alone, no progress and no notes.
        as_json: print what was found as JSON.
    """

    model: tyro.conf.Positional[str]
    data: Path
    output: Path
    text_field: str = "text"
    label_field: str = "label"
    save: Literal["better", "adapted", "simple"] = "better"
    folds: int = 5
    repeats: int = 1
    quiet: bool = False
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse(Arguments, "adapt", arguments)
    from fewshot_jax.adaptation.policy import Policy

    policy = Policy(folds=parsed.folds, repeats=parsed.repeats, save=parsed.save, flags=True)
    with quietly(parsed.quiet):
        _print(_adapt(parsed, policy), parsed)


def _adapt(parsed: Arguments, policy: "Policy") -> "AdaptationReport":
    """Adapt to the examples of the file and save the model."""
    from fewshot_jax.adaptation.adapt import adapt_named
    from fewshot_jax.adaptation.examples import read_examples
    from fewshot_jax.adaptation.named import find_model
    from fewshot_jax.adaptation.saving import check_output

    check_output(parsed.output)
    named = find_model(parsed.model)
    if named.writes:
        refuse_fields(parsed, named.application)
    examples = read_examples(named, parsed.data, text=parsed.text_field, label=parsed.label_field)
    adapted = adapt_named(named, examples, policy, where=str(parsed.data), on_progress=_print_progress)
    adapted.save(parsed.output)
    assert adapted.report is not None  # it is None of a loaded model alone
    return adapted.report


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(report: "AdaptationReport", parsed: Arguments) -> None:
    """Print what was found, as a table or as JSON."""
    if parsed.as_json:
        print_json(report.to_json())
    elif report.cross_validation is None:
        print(f"{report}; saved in {parsed.output}")
    else:
        from rich.console import Console

        Console().print(report)
        print(f"saved in {parsed.output}")


def refuse_fields(arguments: Any, application: str) -> None:
    """Raise where a text or label field is named to an application that has fields of its own."""
    for field in ("text_field", "label_field"):
        value = getattr(arguments, field, None)
        if value is not None and value != field.removesuffix("_field"):
            raise UserError(
                f"--{field.replace('_', '-')}={value}: {application} does not read it; its fields are those of "
                "the run's config (data)"
            )
