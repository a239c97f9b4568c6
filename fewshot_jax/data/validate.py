"""What a file of examples holds, and everything that is wrong with it, read as training and adaptation read it."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_jax.data.examples import folded, key_of
from fewshot_jax.data.fields import listed
from fewshot_jax.data.files import Problems, read_rows, suffix_of
from fewshot_jax.data.labels import check_numbers
from fewshot_jax.data.names import joined_names, normal_name
from fewshot_jax.data.spreadsheet import encoding_of
from fewshot_jax.errors import UserError

_WORD = re.compile(r"\w+|[^\w\s]")  # as the tokenizers split before they look for pieces
_MARK = b"\xef\xbb\xbf"


class Lengths(NamedTuple):
    """Words and punctuation marks of some texts: the median, the 95th percentile (nearest rank), the longest."""

    p50: int
    p95: int
    max: int


class Item(NamedTuple):
    """An example, as far as all applications have it in common.

    Attributes:
        texts: what is read and, where something is written, that, by their names.
        group: the class, or the task, that it belongs to.
    """

    texts: Mapping[str, str]
    group: str


class FileFormat(NamedTuple):
    """How an application reads a file of its examples.

    Attributes:
        read: ``(path, text, label, problems) -> items``: the names of the columns of a classification, and the list
            that gets what is wrong with single rows; None to raise the first.
        labelled: the group of an item is its label, one of at least two.
        empty: what is wrong with a file that has no items, every row of it being right, and the remedy.
    """

    read: Callable[[Path, str, str, Problems | None], list[Item]]
    labelled: bool = False
    empty: str = "has no examples. Give it at least one."

    @property
    def group(self) -> str:
        """What the group of an item is called."""
        return "label" if self.labelled else "task"


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What is in a file.

    Attributes:
        path: of the file.
        application: that it was read for.
        encoding: of its characters.
        rows: examples that can be used; of dialogues, replies.
        groups: examples of each class, or of each task where something is written.
        duplicates: examples that stand in the file before, word for word.
        empty: rows refused because a text or a label is empty.
        lengths: of the texts, by their names.
        problems: what training and adaptation would refuse, with place and remedy.
        notes: what can be used and is perhaps not meant.
    """

    path: str
    application: str
    encoding: str
    rows: int
    groups: Mapping[str, int]
    duplicates: int
    empty: int
    lengths: Mapping[str, Lengths]
    problems: Sequence[str]
    notes: Sequence[str]

    @property
    def usable(self) -> bool:
        """Whether training and adaptation can read it."""
        return not self.problems


def check_file(
    path: Path, application: str, file_format: FileFormat, *, text: str = "text", label: str = "label"
) -> FileReport:
    """Read a file to its end, whatever is wrong with its rows.

    Args:
        path: of the file.
        application: its name, for the report.
        file_format: how it reads files.
        text: the column of the text of a classification.
        label: that of the label.
    """
    path = path.expanduser()
    found = Problems()
    items: list[Item] = []
    try:
        items = file_format.read(path, text, label, found)
    except UserError as error:  # of the whole file
        found.append(error)
    spelled = {item.group for item in items}
    items = [item._replace(group=normal_name(item.group)) for item in items]
    groups = dict(Counter(item.group for item in items).most_common())
    if file_format.labelled:
        try:
            check_numbers(groups, str(path))
        except UserError as error:
            found.append(error)
    if not found:
        found += _too_few(path, file_format, groups)
    names = list(items[0].texts) if items else []
    problems = [str(error) for error in found]
    return FileReport(
        path=str(path),
        application=application,
        encoding=_encoding(path, problems),
        rows=len(items),
        groups=groups,
        duplicates=len(items) - len({(*item.texts.values(), item.group) for item in items}),
        empty=sum("is empty. Fill it in" in problem for problem in problems),
        lengths={name: text_lengths([item.texts[name] for item in items]) for name in names},
        problems=problems,
        notes=[*joined_names(spelled, "label"), *_notes(path, file_format, items, label)],
    )


def _too_few(path: Path, file_format: FileFormat, groups: Mapping[str, int]) -> Problems:
    """What is wrong with a file whose every row is right."""
    if file_format.labelled and len(groups) == 1:
        only = f"{path}: one label only ('{next(iter(groups))}'). Give examples of at least two classes."
        return [UserError(only)]
    if not groups:
        return [UserError(f"{path}: {file_format.empty}")]
    return []


def text_lengths(texts: Sequence[str]) -> Lengths:
    """Count the words and punctuation marks of some texts; at least one."""
    counts = sorted(len(_WORD.findall(text)) for text in texts)
    p50, p95 = (counts[max(math.ceil(share * len(counts)) - 1, 0)] for share in (0.5, 0.95))
    return Lengths(p50, p95, counts[-1])


def _encoding(path: Path, problems: Sequence[str]) -> str:
    """What the file's characters are, as far as its first bytes and the reader say."""
    if any("not UTF-8" in problem for problem in problems):
        return "not UTF-8"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return "unknown"
    if path.name.lower().endswith(".gz"):
        return "UTF-8, gzip"
    if encoding_of(start) == "utf-16":
        return "UTF-16"
    return "UTF-8 with a byte order mark" if start.startswith(_MARK) else "UTF-8"


def _notes(path: Path, file_format: FileFormat, items: Sequence[Item], label: str) -> list[str]:
    """What is perhaps not meant: duplicates, one text in two classes, labels that differ in case, rare classes."""
    notes = []
    if file_format.labelled and items:
        notes = [*_contradictions(items), *_alike(items), *_number_labels(path, label)]
        if rare := [name for name, count in Counter(item.group for item in items).items() if count == 1]:
            shown = listed(sorted(rare)[:5]) + (" ..." if len(rare) > 5 else "")
            notes.append(f"classes with one example: {len(rare)} ({shown}); nothing is left to judge them by")
    if long := [item for item in items for words in item.texts.values() if len(words) > 10_000]:
        notes.append(f"texts of more than 10,000 characters: {len(long)}; a model reads tokenizer.max_length tokens")
    return notes


def _contradictions(items: Sequence[Item]) -> list[str]:
    labels: dict[str, set[str]] = {}
    for item in items:
        labels.setdefault(key_of(item.texts["text"]), set()).add(item.group)
    twice = [(text, sorted(names)) for text, names in labels.items() if len(names) > 1]
    if not twice:
        return []
    text, names = twice[0]
    return [f"texts with several labels: {len(twice)}, such as '{text[:60]}' with {listed(names)}; decide for one"]


def _alike(items: Sequence[Item]) -> list[str]:
    names: dict[str, set[str]] = {}
    for item in items:
        names.setdefault(folded(item.group), set()).add(item.group)
    return [
        f"the labels {listed(sorted(same))} differ in case or spaces only, and count as {len(same)} classes"
        for same in names.values()
        if len(same) > 1
    ]


def _number_labels(path: Path, label: str) -> list[str]:
    """Labels of JSONL that stand there as a number and as a string: to the reader they are one."""
    if suffix_of(path) != ".jsonl":
        return []
    kinds: dict[str, set[type[Any]]] = {}
    for _, row in read_rows(path, {}, problems=Problems()):
        value = row.get(label)
        if isinstance(value, int | str) and not isinstance(value, bool):
            kinds.setdefault(str(value).strip(), set()).add(type(value))
    mixed = sorted(name for name, found in kinds.items() if len(found) > 1)
    return [f"the label {listed(mixed[:3])} stands as a number and as a string: they are one class"] if mixed else []
