"""What test shares with another split and should not: names of classes, texts, and texts that are nearly the same.

Two texts are the same if they look so (see `key_of`), and nearly the same if the sets of their
character 5-grams have a Jaccard similarity of 0.8 or more. Candidates are found by minwise hashing in bands, and
judged by their 5-grams: no pair is reported wrongly, and one of similarity 0.8 is overlooked in 2 of 1,000 cases
(1 - (1 - 0.8^5)^16 = 0.998 are found), one of 0.9 in 1 of a million.

References:
    Broder. On the Resemblance and Containment of Documents. SEQUENCES 1997 (minwise hashing).
    Leskovec, Rajaraman, Ullman. Mining of Massive Datasets. 2014 (section 3.4: bands of a signature).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewshot_jax.data.examples import key_of

SIMILAR = 0.8
_WIDTH = 5  # characters of an n-gram
_BANDS, _ROWS = 16, 5
_MOST = 50  # known texts that one band may propose for a test text: of hundreds of copies one is enough
_AGREEING = 0.6  # share of a signature in which a pair of similarity 0.8 agrees, less 4 standard deviations


class TextPair(NamedTuple):
    """A text of the other split, ``known``, and a ``test`` text, and their ``similarity``, 1 for equal ones."""

    known: str
    test: str
    similarity: float


class Leakage(NamedTuple):
    """What a test split shares with another one, that of training or validation, whose texts are known.

    Attributes:
        classes: the shared names.
        exact: a pair for each test text that is a known text.
        near: a pair for each other one that is nearly one; None where that was not looked for.
        known_texts, test_texts: how many there are.
    """

    classes: list[str]
    exact: list[TextPair]
    near: list[TextPair] | None
    known_texts: int
    test_texts: int

    def __bool__(self) -> bool:
        """Whether anything is shared."""
        return bool(self.classes or self.exact or self.near)


def find_leakage(
    known: Sequence[str],
    test: Sequence[str],
    *,
    known_classes: Sequence[str] = (),
    test_classes: Sequence[str] = (),
    most_characters: int | None = None,
) -> Leakage:
    """Compare the texts and the names of classes of a test split with those of another split.

    Args:
        known, test: the texts.
        known_classes, test_classes: the names, the same where they look so.
        most_characters: of all texts, beyond which nearly equal ones are not looked for; None for no bound.
    """
    names = {key_of(name) for name in known_classes}
    by_key: dict[str, str] = {}
    for text in known:
        by_key.setdefault(key_of(text), text)
    exact, others = [], dict[str, list[str]]()  # those of one folded text together
    for text in test:
        key = key_of(text)
        if key in by_key:
            exact.append(TextPair(by_key[key], text, 1.0))
        else:
            others.setdefault(key, []).append(text)
    near = None
    if most_characters is None or sum(map(len, by_key)) + sum(map(len, others)) <= most_characters:
        keys, own = list(by_key), list(others)
        near = [
            TextPair(by_key[keys[a]], text, similarity)
            for a, b, similarity in near_duplicates(keys, own)
            for text in others[own[b]]
        ]
    shared = [name for name in test_classes if key_of(name) in names]
    return Leakage(shared, exact, near, len(known), len(test))


def near_duplicates(known: Sequence[str], test: Sequence[str]) -> list[tuple[int, int, float]]:
    """For each test text that is similar to a known text: positions of such a pair, and its similarity.

    Texts are compared as they stand; those shorter than an n-gram are similar to nothing.
    """
    count = len(known)
    texts = [*known, *test]
    long_enough = np.array([i for i, text in enumerate(texts) if len(text) >= _WIDTH], np.int64)
    first_test = int(np.searchsorted(long_enough, count))
    if first_test in (0, len(long_enough)):
        return []
    signatures = _signatures([texts[i] for i in long_enough])
    pairs = _candidates(signatures[:first_test], signatures[first_test:])
    agreeing = np.zeros(len(pairs))
    for start in range(0, len(pairs), 100_000):  # 8 MB at a time
        one, other = pairs[start : start + 100_000].T
        agreeing[start : start + len(one)] = (signatures[one] == signatures[first_test + other]).mean(1)
    found: dict[int, tuple[int, int, float]] = {}
    for place in np.argsort(-agreeing, kind="stable"):
        if agreeing[place] < _AGREEING:
            break
        a, b = int(long_enough[pairs[place, 0]]), int(long_enough[first_test + pairs[place, 1]])
        if b not in found and (similarity := jaccard(texts[a], texts[b])) >= SIMILAR:
            found[b] = (a, b - count, similarity)
    return [found[b] for b in sorted(found)]


def jaccard(one: str, other: str) -> float:
    """Size of the intersection of two texts' sets of 5-grams over that of their union; 0 where both are empty."""
    a, b = ({text[i : i + _WIDTH] for i in range(len(text) - _WIDTH + 1)} for text in (one, other))
    return len(a & b) / max(1, len(a | b))


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """Minima ``[n, bands * rows]`` uint32 of hash functions over the n-grams of each text, which has at least one."""
    rng = np.random.default_rng(0)  # any hash functions serve; the same each time
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in texts])
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), bool)  # n-grams that begin where they do not reach into the next text
    for back in range(1, _WIDTH):
        inside[ends - back] = False
    windows = len(codes) - _WIDTH + 1
    mixed = np.zeros(windows, np.uint64)
    for place, factor in enumerate(_odd(rng, _WIDTH)):
        mixed += codes[place : place + windows] * factor
    hashes = (mixed >> np.uint64(32)).astype(np.uint32)[inside[:windows]]
    counts = lengths - _WIDTH + 1
    starts = np.cumsum(counts) - counts
    signatures = np.empty((len(texts), _BANDS * _ROWS), np.uint32)
    for column, factor in enumerate(_odd(rng, _BANDS * _ROWS).astype(np.uint32)):
        signatures[:, column] = np.minimum.reduceat(hashes * factor, starts)
    return signatures


def _candidates(known: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Pairs ``[p, 2]`` of rows, of known and test texts, whose signatures agree in a whole band."""
    rng = np.random.default_rng(1)
    codes = []
    for band in range(_BANDS):
        columns, factors = slice(band * _ROWS, (band + 1) * _ROWS), _odd(rng, _ROWS)
        keys, wanted = ((part[:, columns] * factors).sum(1, dtype=np.uint64) for part in (known, test))
        order = np.argsort(keys, kind="stable")
        left, right = (np.searchsorted(keys[order], wanted, side) for side in ("left", "right"))
        counts = np.minimum(right - left, _MOST)
        row = np.repeat(np.arange(len(test)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        codes.append(order[left[row] + within] * len(test) + row)
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), len(test)), 1)


def _odd(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random odd factors of multiplicative hashing."""
    return rng.integers(0, 2**63, count, np.uint64) * np.uint64(2) + np.uint64(1)
