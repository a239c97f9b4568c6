"""The examples that a model is adapted to: from a file, or from Python."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fewshot_jax.adaptation.named import NamedModel
from fewshot_jax.applications.table import application_of
from fewshot_jax.config.applications import APPLICATION_RECORDS
from fewshot_jax.data.detect import detect_application
from fewshot_jax.data.examples import Example
from fewshot_jax.data.fields import TASK_FIELD
from fewshot_jax.data.files import read_records
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError
from fewshot_jax.training.experiment import model_of_run
from fewshot_jax.training.run_directory import RunDirectory

Examples = Sequence[Record] | Sequence[Example]


def read_examples(named: NamedModel, path: Path, *, text: str = "text", label: str = "label") -> Examples:
    """Read the examples of a file, in the form that a model adapts to.

    Args:
        named: the model.
        path: the file.
        text: the column or field of the text; of a model that writes, the config of its run names the fields.
        label: that of the label.

    Raises:
        UserError: the file cannot be read, or its columns are those of another application.
    """
    if named.writes:
        assert named.config is not None
        config = dataclasses.replace(named.config, data=dataclasses.replace(named.config.data, task_field=TASK_FIELD))
        # The examples are those of one task, which need not be named.
        return application_of(config).read(config, path, model_of_run(RunDirectory(named.origin)))
    found = detect_application(path, APPLICATION_RECORDS, text=text, label=label, prefer=named.application)
    if found != named.application:
        raise UserError(
            f"{path}: has the columns of {found}, and {named.origin} labels texts; give a run of {found} as MODEL"
        )
    return read_records(path, text=text, label=label)


def given_examples(named: NamedModel, records_or_texts: Iterable[Any], labels: Iterable[Any] | None) -> Examples:
    """Check the examples that a Python program gives.

    Args:
        named: the model.
        records_or_texts: records in the form that the model adapts to; with ``labels``, texts.
        labels: the label of each text; None where records are given.

    Raises:
        UserError: they are not in that form, or there is not one label for each text.
    """
    given = _listed("texts" if labels is not None else "records", records_or_texts)
    kind = Example if named.writes else Record
    model = f"{named.name}:" if named.config is None else f"{named.origin}: is a run of {named.application}, which"
    wanted = f"{model} adapts to records of type {kind.__name__}"
    if labels is None:
        remedy = "fsj.Example(source, target)" if named.writes else "fsj.Record(text, label), or texts with labels="
        for i, one in enumerate(given):
            if not isinstance(one, kind):
                raise UserError(f"{wanted}, and records[{i}] is of type {type(one).__name__}. Give {remedy}")
            if isinstance(one, Example):
                _check_filled(one, f"records[{i}]")
        return given
    if named.writes:
        raise UserError(f"{wanted}, which hold what to write. Give fsj.Example(source, target), and no labels")
    for i, one in enumerate(given):
        if isinstance(one, Record | Example):
            raise UserError(f"texts[{i}] is of type {type(one).__name__}, which has its label: leave labels= out")
    names = _listed("labels", labels)
    if len(given) != len(names):
        raise UserError(f"{len(given)} texts, but {len(names)} labels: expected one label for each text. Add the rest")
    return [Record(text, label) for text, label in zip(given, names, strict=True)]


def _check_filled(example: Example, place: str) -> None:
    """Raise a UserError if an example has nothing to read or nothing to write."""
    for field in ("source", "target"):
        value = getattr(example, field)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: its {field} is {value!r}. Expected a text; fill it in, or leave the record out")


def _listed(what: str, values: Iterable[Any]) -> list[Any]:
    """Values as a list; raises a UserError where they are one string or nothing to iterate over."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        found = "one string" if isinstance(values, str) else f"of type {type(values).__name__}"
        raise UserError(f"the {what} are {found}: expected a list. Give one of each example")
    return list(values)
