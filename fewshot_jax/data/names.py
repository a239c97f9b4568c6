"""Names of classes, groups and tasks in one form, so that names that look alike are one."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Characters that Unicode lets programs ignore (Default_Ignorable_Code_Point), which have no width or no ink: marks of
# direction, fillers, selectors of variants. Tags, which spell flags, stay; so do the joiners U+200C and U+200D between
# characters beyond ASCII, where they spell Persian and Indic words and emoji.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0100-\U000e01ef]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_SHOWN = 3  # names in a note


def first_few(items: Sequence[str], separator: str = "; ", last: str = "; and ") -> str:
    """The first few of some items, and how many more there are, for a message."""
    more = f"{last}{len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return separator.join(items[:_SHOWN]) + more


def normal_name(name: str) -> str:
    """Return a name in Unicode's form NFC, without characters of no width, with single plain spaces."""
    seen = _INVISIBLE.sub("", unicodedata.normalize("NFC", name))
    return " ".join(unicodedata.normalize("NFC", seen).split())  # what stood apart may compose


def joined_names(names: Iterable[str], noun: str) -> list[str]:
    """Describe the names that `normal_name` makes one: a note, or none.

    Args:
        names: as they are given.
        noun: what they name, such as "label".
    """
    spelled: dict[str, set[str]] = {}
    for name in names:
        spelled.setdefault(normal_name(name), set()).add(name)
    joined = [f"'{name}' ({len(forms)} spellings)" for name, forms in sorted(spelled.items()) if len(forms) > 1]
    if not joined:
        return []
    return [
        f"joined {noun}s that look alike and differ in Unicode form, in invisible characters or in spaces: "
        f"{first_few(joined, ', ', ' and ')}"
    ]


def differ_in_case(labels: Iterable[str]) -> list[str]:
    """Describe the labels that are the same but for their case, which stay classes of their own: a note, or none."""
    spelled: dict[str, list[str]] = {}
    for label in sorted(labels):
        spelled.setdefault(label.casefold(), []).append(label)
    pairs = [" and ".join(f"'{form}'" for form in forms) for forms in spelled.values() if len(forms) > 1]
    return [f"labels that differ in case alone are different classes: {first_few(pairs)}"] if pairs else []


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 text", "2 texts"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
