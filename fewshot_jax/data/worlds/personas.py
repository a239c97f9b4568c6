"""Conversations with personas, whose replies depend on facts that they state.

A persona has a favourite of each kind and a manner of speaking. A support example asks for a favourite in one
wording, a query in another:

    [USER] tell me your colour   ->   well my colour is red friend
    [USER] which colour is it    ->   well my colour is red friend

Favourites and manners are drawn anew in every task: without examples a reader knows the form of a reply and the
kind of its favourite. Support examples ask for the five kinds in turn, queries for any.
"""

from typing import NamedTuple

import numpy as np

from fewshot_jax.data.examples import Example

FAVOURITES = {
    "colour": ("red", "blue", "green", "white", "black", "brown"),
    "food": ("rice", "soup", "bread", "fruit", "cheese", "beans"),
    "animal": ("cat", "owl", "horse", "bee", "fox", "duck"),
    "place": ("lake", "forest", "harbour", "market", "hill", "garden"),
    "sport": ("chess", "tennis", "rowing", "judo", "golf", "boxing"),
}
OPENERS = ("well", "oh", "sure", "hmm", "ah", "yes")
CLOSERS = ("friend", "indeed", "today", "always", "really", "honestly")
TOLD = ("tell me your {}", "what {} do you like", "say your {} please")
ASKED = ("which {} is it", "and your {}", "your favourite {}")
DETERMINED_FROM = 5  # support examples, from which every query follows


class Persona(NamedTuple):
    """Attributes: ``favourites`` by kind, and the words that begin and end a reply."""

    favourites: dict[str, str]
    opener: str
    closer: str

    def reply(self, turn: str) -> str:
        """The reply to a turn that names a kind."""
        kind = next(word for word in turn.split() if word in self.favourites)
        return f"{self.opener} my {kind} is {self.favourites[kind]} {self.closer}"


def random_persona(rng: np.random.Generator) -> Persona:
    """Draw favourites and manner."""
    favourites = {kind: str(rng.choice(things)) for kind, things in FAVOURITES.items()}
    return Persona(favourites, str(rng.choice(OPENERS)), str(rng.choice(CLOSERS)))


def persona_task(
    rng: np.random.Generator, shots: int, queries: int, unseen: bool = False
) -> tuple[list[Example], list[Example]]:
    """Support and query turns of a new persona, with its replies.

    Args:
        rng: consumed.
        shots: support examples.
        queries: query examples.
        unseen: not read: of 279,936 personas few come twice.

    Returns:
        Examples whose source is "[USER] TURN", whose ``values`` hold the favourite, and whose ``task`` is "persona".
    """
    del unseen
    persona = random_persona(rng)
    kinds = rng.permutation(list(FAVOURITES)).tolist()
    told = [kinds[i % len(kinds)] for i in range(shots)]
    support = [_example(rng, persona, kind, TOLD) for kind in rng.permutation(told).tolist()]
    query = [_example(rng, persona, kind, ASKED) for kind in rng.choice(kinds, queries).tolist()]
    return support, query


def _example(rng: np.random.Generator, persona: Persona, kind: str, wordings: tuple[str, ...]) -> Example:
    turn = wordings[rng.integers(len(wordings))].format(kind)
    return Example(f"[USER] {turn}", persona.reply(turn), "persona", values=(persona.favourites[kind],))
