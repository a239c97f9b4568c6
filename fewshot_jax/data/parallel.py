"""Pairs of a text and its translation, from rows or from two files aligned by line."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from fewshot_jax.data.examples import Example, key_of
from fewshot_jax.data.fields import string, task_of
from fewshot_jax.data.files import Problems, each, plain_lines, read_rows, read_text
from fewshot_jax.errors import UserError

# Where the name of a field can be given.
_SOURCE, _TARGET = "data.source_field of the run's config", "data.target_field of the run's config"


def read_pairs(
    path: str | PurePath,
    *,
    task: str | None = None,
    task_field: str = "task",
    source: str = "source",
    target: str = "target",
    problems: Problems | None = None,
) -> list[Example]:
    """Read pairs from a `.jsonl`, `.csv` or `.tsv` file, or a `.gz` of one.

    Args:
        path: the file.
        task: the name of the task, such as a language pair; None for what a row says, or else the file's name.
        task_field: the field or column of the task, which rows need not have.
        source: the field (JSONL) or column (CSV, TSV) of the text.
        target: that of its translation.
        problems: gets what is wrong with single rows; None to raise the first.

    Returns:
        The pairs in the order of the file, at least one; their keys are the source texts.

    Raises:
        UserError: the file, or a line of it, cannot be read as a pair.
    """
    path = Path(path).expanduser()

    def pair(line: int, row: dict[str, Any]) -> Example:
        place = f"{path}, line {line}"
        own = task_of(place, row, task_field, path) if task is None else task
        return _pair(string(place, source, row[source]), string(place, target, row[target]), own)

    return each(read_rows(path, {_SOURCE: source, _TARGET: target}, problems=problems), pair, problems)


def read_aligned(source_path: str | PurePath, target_path: str | PurePath, *, task: str = "") -> list[Example]:
    """Read pairs from two text files (or `.gz` of them) whose lines belong together.

    Blank lines at the ends of the files are left out.

    Args:
        source_path: the texts, one a line.
        target_path: their translations.
        task: the name of the task, such as a language pair.

    Returns:
        The pairs in the order of the files, at least one; their keys are the source texts.

    Raises:
        UserError: a file cannot be read, a line is blank, or the files have different numbers of lines.
    """
    paths = Path(source_path).expanduser(), Path(target_path).expanduser()
    sources, targets = ([text for _, text in plain_lines(read_text(path))] for path in paths)
    if len(sources) != len(targets):
        raise UserError(
            f"{paths[0]} has {len(sources)} lines, {paths[1]} has {len(targets)}. Align them: line n of one must be "
            "the translation of line n of the other."
        )
    for path, other, lines in zip(paths, reversed(paths), (sources, targets), strict=True):
        if "" in lines:
            line = lines.index("") + 1
            raise UserError(f"{path}, line {line}: empty. Fill it in, or remove the line here and in {other}.")
    return [_pair(source, target, task) for source, target in zip(sources, targets, strict=True)]


def without_sources(examples: Sequence[Example], held_out: Sequence[Example]) -> tuple[list[Example], int]:
    """Leave out the examples whose key occurs among those held out.

    Keys are the same where they look so, see `key_of`; the empty key is nobody's.

    Returns:
        (kept, dropped): the other examples in their order, and how many were left out.
    """
    taken = {key_of(example.key) for example in held_out} - {""}
    kept = [example for example in examples if key_of(example.key) not in taken]
    return kept, len(examples) - len(kept)


def _pair(source: str, target: str, task: str) -> Example:
    return Example(source, target, task, key=source)
