"""Labelled texts that occur more than once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fewshot_jax.data.examples import key_of
from fewshot_jax.data.labels import tidy_records
from fewshot_jax.data.records import Record


class Distinct(NamedTuple):
    """Labelled texts, each once for each label.

    Attributes:
        records: without duplicates, in their order.
        skipped: number of duplicates.
        unclear: the texts that have several labels, each as it is first written.
    """

    records: list[Record]
    skipped: int
    unclear: list[str]


def distinct(records: Sequence[Record]) -> Distinct:
    """Skip the labelled texts that occur before with the same label, or look like one that does; see `key_of`.

    A text with several labels is kept once for each of them.
    """
    labels: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    kept = []
    for record in records:
        key = key_of(record.text)
        texts.setdefault(key, record.text)
        known = labels.setdefault(key, [])
        if record.label not in known:
            kept.append(record)
            known.append(record.label)
    unclear = [texts[key] for key, names in labels.items() if len(names) > 1]
    return Distinct(kept, len(records) - len(kept), unclear)


def distinct_examples(records: Sequence[Record], where: str) -> tuple[list[Record], list[str], list[str]]:
    """Check the texts that a model is adapted to, as `tidy_records` does, and skip the duplicates.

    Args:
        records: the labelled texts.
        where: they are, for messages.

    Returns:
        (records, notes, doubts): notes on names that were joined and on duplicates, and what is perhaps wrong, texts
        with several labels.

    Raises:
        UserError: as of `tidy_records`.
    """
    tidy, notes = tidy_records(records, where)
    kept, skipped, unclear = distinct(tidy)
    if skipped:
        notes.append(f"skipped {skipped:,} duplicate example{'' if skipped == 1 else 's'}")
    doubts = []
    if unclear:
        more = len(unclear) - 1
        others = f" (and {more:,} more text{'' if more == 1 else 's'})" if more else ""
        doubts.append(f"'{unclear[0][:80]}' has several labels{others}; keep one")
    return kept, notes, doubts


def notes_of(splits: Mapping[str, Distinct]) -> list[str]:
    """Describe the duplicates of some splits, and their texts with several labels; nothing where there are none."""
    notes = []
    if total := sum(one.skipped for one in splits.values()):
        where = ", ".join(f"{one.skipped:,} in {split}" for split, one in splits.items() if one.skipped)
        notes.append(
            f"skipped {total:,} duplicate text{'' if total == 1 else 's'} ({where}): a text counts once for each "
            "class, whatever its case, spaces and invisible characters"
        )
    for split, one in splits.items():
        if count := len(one.unclear):
            notes.append(
                f"{split}: {count:,} text{' has' if count == 1 else 's have'} several labels, such as "
                f"'{one.unclear[0][:60]}'; {'it is' if count == 1 else 'they are'} kept under each"
            )
    return notes
