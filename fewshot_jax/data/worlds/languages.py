"""Languages of a lexicon and a word order, new in every task.

A sentence is a subject, a verb and an object. A language has a word of its own for each word of the source
language and puts the three in one of six orders:

    the king sees the dog   ->   mako duri pelu    (verb-subject-object; mako: sees, duri: king, pelu: dog)

Nouns of all languages come from one list and verbs from another, each dealt out anew: without examples a reader
can tell the verb of a translation from its nouns, and nothing else. A query is a sentence that the support set has
not, of the same three nouns and four verbs: four support sentences have them all.
"""

import itertools
from typing import NamedTuple

import numpy as np

from fewshot_jax.data.examples import Example
from fewshot_jax.errors import UserError

NOUNS = ("king", "queen", "dog", "child", "bird", "horse")
VERBS = ("sees", "helps", "finds", "calls")
FOREIGN_NOUNS = ("duri", "pelu", "tavo", "sime", "gola", "reka")
FOREIGN_VERBS = ("mako", "nezi", "bufa", "wiho")
ORDERS = tuple(itertools.permutations("SVO"))
NOUNS_OF_A_TASK, VERBS_OF_A_TASK = 3, 4
DETERMINED_FROM = 4  # support sentences, from which every query follows


class Language(NamedTuple):
    """Attributes: ``order`` of the parts of a sentence; ``lexicon`` from source words to its own."""

    order: tuple[str, ...]
    lexicon: dict[str, str]

    def translate(self, sentence: str) -> str:
        """The translation of "the SUBJECT VERB the OBJECT"."""
        _, subject, verb, _, obj = sentence.split()
        parts = {"S": subject, "V": verb, "O": obj}
        return " ".join(self.lexicon[parts[part]] for part in self.order)


def random_language(rng: np.random.Generator) -> Language:
    """Deal out the words and draw an order."""
    lexicon = {
        **dict(zip(NOUNS, rng.permutation(FOREIGN_NOUNS).tolist(), strict=True)),
        **dict(zip(VERBS, rng.permutation(FOREIGN_VERBS).tolist(), strict=True)),
    }
    return Language(ORDERS[rng.integers(len(ORDERS))], lexicon)


def language_task(
    rng: np.random.Generator, shots: int, queries: int, unseen: bool = False
) -> tuple[list[Example], list[Example]]:
    """Support and query sentences of a new language.

    Args:
        rng: consumed.
        shots: support sentences.
        queries: query sentences, which differ from them.
        unseen: not read: of more than ten million languages hardly one comes twice.

    Returns:
        Examples whose ``task`` is "language".

    Raises:
        UserError: a language has too few sentences.
    """
    del unseen
    language = random_language(rng)
    nouns = rng.permutation(NOUNS)[:NOUNS_OF_A_TASK].tolist()
    verbs = rng.permutation(VERBS)[:VERBS_OF_A_TASK].tolist()
    # Pairs in an order in which each noun soon stands in both places; a verb after the other.
    a, b, c = nouns
    pairs = [(a, b), (c, a), (b, c), (b, a), (a, c), (c, b)]
    made = [
        _sentence(*pairs[i % len(pairs)], verbs[(i + i // len(pairs)) % len(verbs)])
        for i in range(len(pairs) * len(verbs))
    ]
    if shots + queries > len(made):
        raise UserError(f"a language has {len(made)} sentences: lower shots + queries = {shots + queries}")
    support = made[:shots]
    asked = rng.choice(made[shots:], queries, replace=False).tolist()
    order = rng.permutation(shots)
    return [_example(language, support[i]) for i in order], [_example(language, sentence) for sentence in asked]


def _sentence(subject: str, obj: str, verb: str) -> str:
    return f"the {subject} {verb} the {obj}"


def _example(language: Language, sentence: str) -> Example:
    return Example(sentence, language.translate(sentence), "language")
