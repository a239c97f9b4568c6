"""A text to read and the text to write: what translation, dialogue and free answers have in common."""

from typing import NamedTuple

from fewshot_jax.data.names import normal_name


class Example(NamedTuple):
    """A text to read and the text to write.

    Attributes:
        source: what the model reads, not empty.
        target: what it should write, not empty.
        task: the name of its task (a language pair, an article, a service).
        answers: all accepted targets, where there are several; empty for `target` alone.
        values: strings that a good target names (slot values); empty where that is not asked.
        key: what must not stand in two splits at once (an English caption, an article); "" for nothing.
        start: where the target stands in the text that a question is about, in characters; None where it is the
            first occurrence, or where that is not asked.
    """

    source: str
    target: str
    task: str = ""
    answers: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    key: str = ""
    start: int | None = None


def folded(text: str) -> str:
    """The text by which two are the same but for case and white space."""
    return " ".join(text.casefold().split())


def key_of(text: str) -> str:
    """The text by which two look the same: but for case, white space, Unicode form and characters of no width."""
    return folded(normal_name(text))


def names(text: str, value: str) -> bool:
    """Whether a text holds a value as whole words, but for case and white space.

    Whole words, so that a party of "2" is not found in "12". Scripts that put no
    spaces between words are not served.
    """
    text, value = f" {folded(text)} ", folded(value)
    start = text.find(value) if value else -1
    while start >= 0:  # not a regular expression: to compile one for each value takes most of the time
        if not (_in_word(text[start - 1]) or _in_word(text[start + len(value)])):
            return True
        start = text.find(value, start + 1)
    return False


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
