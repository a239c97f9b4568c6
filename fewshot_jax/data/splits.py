"""Class-disjoint train, validation and test splits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewshot_jax.config import DataConfig
from fewshot_jax.data.duplicates import distinct, notes_of
from fewshot_jax.data.folds import divide_fold
from fewshot_jax.data.names import normal_name
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

_EXAMPLE = '{"train": ["a"], "valid": ["b"], "test": ["c"]}'
SPLITS = ("train", "validation", "test")


class TextSplit(NamedTuple):
    """The labelled texts of one split.

    Attributes:
        texts: ``n`` texts.
        label: ``[n]`` int32, positions in ``classes``.
        classes: label names, sorted.
        group: ``[n]`` int32, numbers of the records' groups.
    """

    texts: list[str]
    label: np.ndarray
    classes: list[str]
    group: np.ndarray


def text_split(records: Sequence[Record]) -> TextSplit:
    """Number the classes and groups of records."""
    classes = sorted({record.label for record in records})
    groups = sorted({record.group for record in records})
    class_number, group_number = ({name: i for i, name in enumerate(names)} for names in (classes, groups))
    return TextSplit(
        [record.text for record in records],
        np.array([class_number[record.label] for record in records], np.int32),
        classes,
        np.array([group_number[record.group] for record in records], np.int32),
    )


def divide(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Shuffle names (of classes, or of groups) and divide them by fractions.

    Args:
        names: what to divide; the order given does not matter.
        fractions: shares of train, validation and test; they sum to one.
        seed: of the shuffle.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"data.fractions={tuple(fractions)}: expected three shares (train, validation, test) of sum 1")
    shuffled = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    ends = np.round(np.cumsum((0, *fractions)) * len(shuffled)).astype(int)
    return {split: shuffled[ends[i] : ends[i + 1]] for i, split in enumerate(SPLITS)}


def read_class_split(path: Path, name: str | None = None) -> dict[str, list[str]]:
    """Read which classes are for training, validation and test.

    Args:
        path: a JSON file ``{"train": [...], "valid": [...], "test": [...]}``
            (``"validation"`` is accepted too), or several of those by name.
        name: which one, where the file holds several.

    Raises:
        UserError: the file cannot be read, or a class is in two splits.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot read the class split ({reason}). Expected JSON such as {_EXAMPLE}; see data.class_split"
        ) from None
    if name is not None:
        if not isinstance(content, dict) or name not in content:
            found = ", ".join(content) if isinstance(content, dict) else "no names"
            raise UserError(f"{path}: no class split named '{name}' (found: {found}); see data.class_split_name")
        content = content[name]
    if isinstance(content, dict) and "valid" in content:
        content["validation"] = content.pop("valid")
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in SPLITS):
        raise UserError(f"{path}: expected lists of class names under train, validation and test, as in {_EXAMPLE}")
    members = {
        split: [normal_name(name) if isinstance(name, str) else name for name in content[split]] for split in SPLITS
    }
    check_disjoint(members, path)
    return members


def class_members(names: Sequence[str], config: DataConfig) -> dict[str, list[str]]:
    """The classes (or groups) of each split: as a file says, or divided by fractions or into folds."""
    if config.folds is not None:
        return divide_fold(names, config.folds, config.fold, config.fractions, config.split_seed)
    if config.class_split is None:
        return divide(names, config.fractions, config.split_seed)
    return read_class_split(Path(config.path or ".") / config.class_split, config.class_split_name)


def check_disjoint(members: Mapping[str, Sequence[str]], where: object) -> None:
    """Raise a UserError, which begins with ``where``, if two splits name one class."""
    seen: dict[str, str] = {}
    for split, names in members.items():
        for name in names:
            if seen.setdefault(name, split) != split:
                raise UserError(
                    f"{where}: class '{name}' is in {seen[name]} and in {split}; splits must be disjoint: remove it "
                    "from one"
                )


def split_records(
    records: Sequence[Record],
    members: Mapping[str, Sequence[str]],
    *,
    by: str = "label",
    notes: list[str] | None = None,
) -> dict[str, TextSplit]:
    """Distribute records over splits by their label or group; of duplicates in a split the first is kept.

    Otherwise a query could stand in its own support set. Duplicates are those of `distinct`.

    Args:
        records: the labelled texts.
        members: the labels (or groups) of each split.
        by: ``"label"`` or ``"group"``.
        notes: gets how many duplicates are skipped, and how many texts have several labels; None to leave it out.

    Raises:
        UserError: a split names a label that no record has, or a division by
            group puts one label into two splits.
    """
    present = {getattr(record, by) for record in records}
    for split, names in members.items():
        if missing := sorted(set(names) - present):
            raise UserError(
                f"{split} split: no record has the {by} '{missing[0]}' ({len(missing)} such names); correct "
                "the names in data.class_split, or add examples"
            )
    of_name = {name: split for split, names in members.items() for name in names}
    parts: dict[str, list[Record]] = {split: [] for split in members}
    for record in records:
        if getattr(record, by) in of_name:
            parts[of_name[getattr(record, by)]].append(record)
    found: dict[str, str] = {}
    for split, part in parts.items():
        for label in {record.label for record in part}:
            if found.setdefault(label, split) != split:
                raise UserError(
                    f"label '{label}' occurs in groups of the {found[label]} split and of the {split} split: classes "
                    "must be disjoint; rename the label by group, or set data.split_by to label"
                )
    found_in = {split: distinct(part) for split, part in parts.items()}
    if notes is not None:
        notes += notes_of(found_in)
    return {split: text_split(one.records) for split, one in found_in.items()}
