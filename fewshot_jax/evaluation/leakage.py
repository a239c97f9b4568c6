"""Whether the test split of an application shares texts or names of classes with training or validation."""

import sys
from typing import Any

from fewshot_jax.applications.application import Application
from fewshot_jax.data.leakage import SIMILAR, Leakage, TextPair, find_leakage
from fewshot_jax.errors import UserError

MOST_AT_START = 2_000_000  # characters of two splits that a start looks for nearly equal texts in: about a second
MOST = 50_000_000  # that a check asked for looks in: about 3 GB of memory
_SHOWN = 60  # characters of an example
_KNOWN = {"train": "training", "validation": "validation"}  # what test is compared with, and what that is called

Leakages = dict[str, Leakage]  # by "training" and "validation"


def leakage_of(application: Application, *, most_characters: int | None = None) -> Leakages | None:
    """Find what test shares with training, and with validation; None where there is nothing to compare.

    Args:
        application: of a run.
        most_characters: as of `find_leakage`.
    """
    found = application.split_texts()
    if found is None:
        return None
    texts, names = found
    return {
        called: find_leakage(
            texts[split],
            texts["test"],
            known_classes=names[split],
            test_classes=names["test"],
            most_characters=most_characters,
        )
        for split, called in _KNOWN.items()
    }


def warn_of_leakage(application: Application) -> None:
    """Say on stderr what the test split of a run that begins shares with training or validation, if it does."""
    found = leakage_of(application, most_characters=MOST_AT_START)
    if found is None:
        return
    lines = [line for split, one in found.items() for line in warnings_of(one, split)]
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
    if lines:
        print("'fewshot-jax evaluate RUN --check-leakage' lists them; --quiet leaves this out", file=sys.stderr)
    if skipped := [split for split, one in found.items() if one.near is None]:
        print(
            f"note: more than {MOST_AT_START:,} characters of text; nearly equal ones in {' or '.join(skipped)} and "
            "test were not looked for ('fewshot-jax evaluate RUN --check-leakage' does)",
            file=sys.stderr,
        )


def check_leakage(application: Application) -> Leakages:
    """`leakage_of` an application that has texts.

    Raises:
        UserError: it has none.
    """
    found = leakage_of(application, most_characters=MOST)
    if found is None:
        kind = application.config.application
        raise UserError(f"--check-leakage: the data of this run ({kind}) holds no texts to compare; leave it out")
    return found


def warnings_of(found: Leakage, split: str) -> list[str]:
    """What is wrong, and what helps, a line for each kind; nothing where nothing is shared.

    Args:
        found: what test shares with a split.
        split: "training" or "validation".
    """
    many = f"{found.test_texts:,} test texts"
    lines = []
    if found.classes:
        lines.append(
            f"{len(found.classes):,} names of classes (or tasks) are in {split} and test (such as "
            f"'{found.classes[0]}'), which is then not unseen; give both to one split"
        )
    if found.exact:
        lines.append(
            f"{len(found.exact):,} of {many} are {split} texts too ({_shown(found.exact[0])}); remove them from one"
        )
    if found.near:
        first = found.near[0]
        lines.append(
            f"{len(found.near):,} of {many} are nearly {split} texts ({_shown(first)}, similarity "
            f"{first.similarity:.2f}); remove from one split those that say the same"
        )
    return lines


def to_json(found: Leakages) -> dict[str, Any]:
    """Plain lists and numbers, those of training and of validation."""

    def pairs(of: list[TextPair] | None) -> list[dict[str, Any]] | None:
        return None if of is None else [pair._asdict() for pair in of]

    def plain(one: Leakage) -> dict[str, Any]:
        return {**one._asdict(), "exact": pairs(one.exact), "near": pairs(one.near)}

    return {**{split: plain(one) for split, one in found.items()}, "similar": SIMILAR}


def _shown(pair: TextPair) -> str:
    return f"such as {shortened(pair.test)!r}"


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
