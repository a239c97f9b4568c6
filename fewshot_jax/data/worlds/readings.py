"""Reading with questions whose words for the relations are new in every task.

A text states four facts about a person, in any order, each relation with things of its own kind. A question asks by
a word that stands for one of the relations in this task alone:

    zorp anna ? anna eats rice . anna fears fog . anna plays harp . anna keeps coal .   ->   fog     (zorp: fears)

The answer is a word of the text, so a span of it too. Without examples a reader can guess among the four things.
Support questions ask for the relations in turn, queries for any: three questions leave one meaning for the fourth word.
"""

import itertools
from typing import NamedTuple

import numpy as np

from fewshot_jax.data.examples import Example

PERSONS = ("anna", "ben", "carla", "dan", "eva", "finn")
THINGS = {
    "eats": ("rice", "bread", "soup", "cake", "beans", "plums"),
    "plays": ("drum", "flute", "harp", "bell", "horn", "lute"),
    "fears": ("fog", "rain", "wind", "snow", "hail", "frost"),
    "keeps": ("gold", "salt", "coal", "silk", "wool", "glass"),
}
RELATIONS = tuple(THINGS)
WORDS = ("zorp", "blick", "quam", "tref")
MEANINGS = tuple(itertools.permutations(RELATIONS))  # of the words
# Never trained on: one word alone has its number's relation. So each word has each relation equally often in both.
UNSEEN = tuple(one for one in MEANINGS if sum(a == b for a, b in zip(one, RELATIONS, strict=True)) == 1)
DETERMINED_FROM = 3  # support questions, from which every query follows


class Fact(NamedTuple):
    """Attributes: ``person``, ``relation`` and ``thing``, a word each."""

    person: str
    relation: str
    thing: str


def answer(meaning: dict[str, str], source: str) -> str:
    """The right answer to "WORD PERSON ? TEXT" where ``meaning`` says what the words stand for."""
    question, _, text = source.partition(" ? ")
    word, _ = question.split()
    facts = [Fact(*fact.split()) for fact in text.removesuffix(" .").split(" . ")]
    return next(fact.thing for fact in facts if fact.relation == meaning[word])


def reading_task(
    rng: np.random.Generator, shots: int, queries: int, unseen: bool = False
) -> tuple[list[Example], list[Example]]:
    """Support and query questions about texts that are new each.

    Args:
        rng: consumed.
        shots: support questions.
        queries: query questions.
        unseen: a meaning of the words that tasks of training never have.

    Returns:
        Examples whose source is "WORD PERSON ? TEXT", and whose ``task`` is "reading".
    """
    known = UNSEEN if unseen else [one for one in MEANINGS if one not in UNSEEN]
    meaning = dict(zip(WORDS, known[rng.integers(len(known))], strict=True))
    words = rng.permutation(WORDS).tolist()
    asked = [words[i % len(words)] for i in range(shots)]
    support = [_example(rng, meaning, word) for word in rng.permutation(asked).tolist()]
    query = [_example(rng, meaning, word) for word in rng.choice(words, queries).tolist()]
    return support, query


def _example(rng: np.random.Generator, meaning: dict[str, str], word: str) -> Example:
    person = str(rng.choice(PERSONS))
    facts = [Fact(person, relation, str(rng.choice(things))) for relation, things in THINGS.items()]
    text = " . ".join(" ".join(facts[i]) for i in rng.permutation(len(facts)))
    source = f"{word} {person} ? {text} ."
    return Example(source, answer(meaning, source), "reading")
