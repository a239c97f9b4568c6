"""Several data sets read together, each a domain of its own; and the names of labels as texts."""

import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fewshot_jax.data.files import read_records
from fewshot_jax.data.labels import tidy_records
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

_READABLE = tuple(suffix + packed for suffix in (".jsonl", ".csv", ".tsv") for packed in ("", ".gz"))


def domain(name: str) -> str:
    """The name of a data set: its file or folder, without the ending of a file."""
    path = PurePosixPath(name)
    ending = next((ending for ending in _READABLE if path.name.lower().endswith(ending)), "")
    return str(path)[: len(str(path)) - len(ending)]


def read_sets(
    path: str | Path,
    sets: Sequence[str],
    *,
    files: Sequence[str] = (),
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    notes: list[str] | None = None,
) -> list[Record]:
    """Read several data sets; equal labels of two of them are different classes.

    Args:
        path: a folder.
        sets: files or folders in it, each a data set.
        files: names to read in a folder, those of them that it has; empty for all files of
            labelled texts in it, in the order of their names.
        text, label, group: fields or columns, as for `read_records`.
        notes: gets what to tell of the names of labels, see `tidy_records`; None to leave it out.

    Returns:
        The records. Labels and groups stand below the name of their data set, as in
        "banking/refund"; without ``group`` the data set is the group.

    Raises:
        UserError: a data set is absent, has nothing to read, or shares its name with another;
            a name in ``files`` is in none; or a file cannot be read as labelled texts.
    """
    names = [domain(name) for name in sets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"data.sets: two data sets are named '{repeated[0]}'; leave one out, or rename its file")
    found = {name: _files(Path(path) / given, files) for name, given in zip(names, sets, strict=True)}
    if absent := sorted(set(files) - {file.name for these in found.values() for file in these}):
        raise UserError(f"data.files: no folder of data.sets has '{absent[0]}'; correct the name, or leave it out")
    records = []
    for name, these in found.items():
        given = [one for file in these for one in read_records(file, text=text, label=label, group=group)]
        own, own_notes = tidy_records(given, str(Path(path) / name))
        if notes is not None:
            notes += [f"{name}: {note}" for note in own_notes]
        records += [
            Record(one.text, f"{name}/{one.label}", name if group is None else f"{name}/{one.group}") for one in own
        ]
    return records


def _files(path: Path, files: Sequence[str]) -> list[Path]:
    """The files of one data set; at least one."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; see data.path and data.sets")
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.iterdir() if file.name.lower().endswith(_READABLE))
    if chosen := [file for file in inside if not files or file.name in files]:
        return chosen
    wanted = f"none of data.files={tuple(files)}" if files else "no .jsonl, .csv or .tsv file"
    raise UserError(f"{path}: {wanted} here; see data.sets")


def label_text(label: str, sets: Sequence[str] = ()) -> str:
    """The name of a class as a text: "book_a_flight" gives "book a flight".

    Underscores and punctuation become spaces; a name of nothing else stays as it is.

    Args:
        label: the name.
        sets: data sets whose names may stand before it, and are left out.
    """
    prefixes = (f"{domain(name)}/" for name in sets)
    own = label.removeprefix(max((prefix for prefix in prefixes if label.startswith(prefix)), key=len, default=""))
    spaced = "".join(
        " " if char in string.punctuation or unicodedata.category(char).startswith("P") else char for char in own
    )
    return " ".join(spaced.split()) or own
