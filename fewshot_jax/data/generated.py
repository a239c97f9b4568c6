"""Generated intents that only a model which reads word order can tell apart.

A text asks for three actions, as in "please book tickets then cancel lunch also print
photos". A group is a set of three actions, its six classes are their orders: the classes
of a group share their words. Nothing else in a text depends on its class:

- A text is a sequence of three (lead, action, thing) units. Leads and things are drawn
  independently of class and position, hence the words next to an action say nothing about
  the action's place. No action stands at either end, where the missing neighbour would.
- Between two actions are at least two fillers of three letters or more, so that no word
  bigram or trigram and no character n-gram of up to ten characters spans two actions.

Bags of words, word bigrams and character 5-grams are thus distributed alike in all classes
of a group: a classifier on them stays at chance, 20% in a 5-way episode from one group.
"""

import itertools
import math
import random

from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError


def _words(words: str) -> tuple[str, ...]:
    return tuple(words.split())


ACTIONS = _words(
    "archive block book borrow cancel check clean close collect compare copy count deliver "
    "describe donate download draw export find frame hide import label measure move open order "
    "pack paint print rename rent repair sell send share sort store translate wrap"
)
LEADS = _words(
    "again also anyway briefly calmly gladly just kindly later maybe now perhaps please promptly "
    "quickly quietly simply soon surely then today tonight"
)
THINGS = _words(
    "albums apples badges bikes boxes cameras chairs coffee cups dresses flowers gifts keys lamps "
    "lunch magazines maps notes parcels photos pictures plates posters recipes reports rooms "
    "songs stamps tables tickets tools toys videos"
)
OPENERS = _words("hello hey okay right thanks well")


def generated_intents(*, groups: int = 200, texts_per_class: int = 20, seed: int = 0) -> list[Record]:
    """Generate texts of 9 or 10 words whose classes differ by the order of three actions.

    The first groups are the same whatever their number, and so are the first texts of a
    class: a larger set extends a smaller one.

    Args:
        groups: the number of sets of three actions; an action occurs in about 3 in 40.
        texts_per_class: the number of distinct texts in each of a group's six classes.
        seed: which sets and texts.

    Returns:
        `groups * 6 * texts_per_class` records, group by group and class by class. A label
        reads "book>cancel>print", a group "book+cancel+print", its actions sorted.

    Raises:
        UserError: a number is out of range.
    """
    most = math.comb(len(ACTIONS), 3)
    if not 1 <= groups <= most:
        raise UserError(f"groups is {groups}: choose between 1 and {most}.")
    if not 1 <= texts_per_class <= 100_000:
        raise UserError(f"texts_per_class is {texts_per_class}: choose between 1 and 100000.")
    triples = list(itertools.combinations(ACTIONS, 3))
    random.Random(f"{seed}/groups").shuffle(triples)
    return [
        Record(text, ">".join(order), "+".join(triple))
        for triple in triples[:groups]
        for order in itertools.permutations(triple)
        for text in _texts(order, texts_per_class, seed)
    ]


def _texts(order: tuple[str, ...], count: int, seed: int) -> list[str]:
    """Return `count` distinct texts that name the actions in this order."""
    # A generator of its own for each class, seeded by a string: the same in every process.
    rng = random.Random(f"{seed}/{'>'.join(order)}")
    texts: dict[str, None] = {}
    while len(texts) < count:
        words = [rng.choice(OPENERS)] if rng.random() < 0.5 else []
        for action in order:
            words += [rng.choice(LEADS), action, rng.choice(THINGS)]
        texts[" ".join(words)] = None
    return list(texts)
