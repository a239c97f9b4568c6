"""Labels of texts: what can be one, and which labels are the same number."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fewshot_jax.data.fields import check_characters
from fewshot_jax.data.names import differ_in_case, first_few, joined_names, normal_name
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d{0,99}))(?:\.0*)?(?:[eE]\+?(\d{1,2}))?", re.ASCII)  # int reads 4,000 digits
_LABEL_TYPES = (str, int, float, bool)


def check_numbers(labels: Iterable[str], where: str) -> None:
    """Raise if two labels are one whole number that is written in two ways.

    ``1000``, ``1000.0`` and ``1e3`` are the same number. ``1`` and ``01``, or ``1.1`` and ``1.10``, are different
    names: codes and numbers of sections are written so.

    Args:
        labels: names of classes.
        where: the labels are, for the message.
    """
    written: dict[int, set[str]] = {}
    for label in labels:
        if match := _WHOLE.fullmatch(label):
            written.setdefault(int(match[1]) * 10 ** int(match[2] or 0), set()).add(label)
    same = [sorted(forms) for _, forms in sorted(written.items()) if len(forms) > 1]
    if pairs := [" and ".join(f"'{form}'" for form in forms) for forms in same]:
        raise UserError(
            f"{where}: labels that are the same number: {first_few(pairs)}. Expected one spelling for each class; "
            "write each number in one way."
        )


def tidy_records(records: Sequence[Record], where: str) -> tuple[list[Record], list[str]]:
    """Check labelled texts and bring the names of their classes and groups into one form.

    Labels of files are strings. Labels of Python are strings, integers, floats or booleans, all of one type; numpy's
    scalars become Python's.

    Args:
        records: the labelled texts.
        where: they are, for messages.

    Returns:
        The records, with names as of `normal_name`, and notes on the names that were joined.

    Raises:
        UserError: a text or a label is none, labels are of several types, or two labels are the same number.
    """
    plain = [_plain(record, f"{where}, record {i}") for i, record in enumerate(records)]
    for i, record in enumerate(plain):
        if type(record.label) is not type(plain[0].label):
            raise UserError(
                f"{where}, record {i}: label {record.label!r} of type {type(record.label).__name__}, but label "
                f"{plain[0].label!r} of record 0 is of type {type(plain[0].label).__name__}. Expected one type; "
                "convert the labels, for example with str."
            )
    if not plain or not isinstance(plain[0].label, str):
        return plain, []
    names = {name: normal_name(name) for record in plain for name in (record.label, record.group)}
    if hollow := [i for i, record in enumerate(plain) if not names[record.label]]:
        raise UserError(
            f"{where}, record {hollow[0]}: label {plain[hollow[0]].label!r} is empty. Expected the name of a class; "
            "fill it in, or leave the record out."
        )
    check_numbers({names[record.label] for record in plain}, where)
    notes = [
        *joined_names({r.label for r in plain}, "label"),
        *joined_names({r.group for r in plain}, "group"),
        *differ_in_case({names[r.label] for r in plain}),
    ]
    return [r._replace(label=names[r.label], group=names[r.group]) for r in plain], notes


def plain_texts(texts: Iterable[str]) -> list[str]:
    """Return texts to predict as a list of Python's strings.

    Args:
        texts: a list, an array or whatever else gives strings.

    Raises:
        TypeError: they are one string, or nothing to iterate over.
        UserError: one of them is no string.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        found = "one string" if isinstance(texts, str) else _shown(texts)
        raise TypeError(f"predict takes a list of texts, not {found}")
    plain = []
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{i}]: {_shown(text)}. Expected a string; convert it or leave it out.")
        check_characters(f"texts[{i}]", "text", text)
        plain.append(str(text))
    return plain


def _plain(record: Record, place: str) -> Record:
    """Return a record of Python's own types."""
    text, label, group = (value.item() if isinstance(value, np.generic) else value for value in record)
    for field, value in (("text", text), ("group", group)):
        if not isinstance(value, str):
            raise UserError(
                f"{place}: {field} {_shown(value)}. Expected a string; convert it, or leave the record out."
            )
    text = text.strip()
    if not normal_name(text):  # nothing, or characters of no width
        raise UserError(f"{place}: the text is empty. Expected at least one character; leave the record out.")
    check_characters(place, "text", text)
    if type(label) not in _LABEL_TYPES or (isinstance(label, float) and not math.isfinite(label)):
        raise UserError(
            f"{place} ('{text[:40]}'): label {_shown(label)}. Expected a string, an integer, a finite float or a "
            "boolean; fill it in, or leave the record out."
        )
    return Record(text, label, group)


def _shown(value: Any) -> str:
    """A value and its type, for messages."""
    return "None" if value is None else f"{repr(value)[:40]} of type {type(value).__name__}"
