"""Tasks for meta-training from raw texts: which word has been masked?"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-ZÀ-Þ0-9])|\n\s*\n")
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def smlmt_records(
    texts: Iterable[str],
    *,
    min_count: int = 30,
    max_count: int = 200,
    max_words: int = 1000,
    stop_words: int = 50,
    min_length: int = 5,
    max_length: int = 60,
    shared: bool = True,
    mask: str = "[MASK]",
    seed: int = 0,
) -> list[Record]:
    """Sentences in which one word is masked, labelled by that word.

    Has more than 8 parameters because each is a choice of the method with a default; a call sets two or three.

    An episode of ``N`` classes over these records asks which of ``N`` words is missing from a sentence: a task
    for every choice of words, without a label written by anyone.

    Args:
        texts: raw texts.
        min_count: sentences that a word needs.
        max_count: sentences kept of a word, drawn at random.
        max_words: words kept, the most frequent ones.
        stop_words: so many of the most frequent words, which fit anywhere, are left out first.
        min_length: shortest sentence, in words.
        max_length: longest sentence, in words.
        shared: a sentence may serve several words; False for one at most, the rarest, so that words which are
            held out have sentences of their own.
        mask: stands in the place of the word, wherever it occurs in the sentence.
        seed: of the draw.

    Returns:
        The records, by label and then in the order of the texts.

    Raises:
        UserError: an argument is out of range, or no two words have enough sentences.

    References:
        Bansal, Jha, Munkhdalai, McCallum. Self-Supervised Meta-Learning for Few-Shot Natural Language
        Classification Tasks. EMNLP 2020 (section 3, algorithm 1).
    """
    for name, value, least in (("min_count", min_count, 2), ("max_count", max_count, min_count)):
        if value < least:
            raise UserError(f"{name} is {value}: choose at least {least}.")
    if not 1 <= min_length <= max_length:
        raise UserError(f"min_length is {min_length}, max_length {max_length}: choose at least 1, and no more than it.")
    sentences, holders = _sentences(texts, min_length, max_length)
    frequent = sorted(holders, key=lambda word: (-len(holders[word]), word))[stop_words:]
    words = [word for word in frequent if len(holders[word]) >= min_count and word.isalpha()][:max_words]
    if not shared:
        words = _apart(words, holders, min_count)
    if len(words) < 2:
        raise UserError(
            f"{len(words)} words stand in {min_count} sentences of {min_length} to {max_length} words or more, beside "
            f"the {stop_words} most frequent ones: give more text, or longer sentences (max_length; in a config "
            "data.smlmt_length)."
        )
    rng = np.random.default_rng(seed)
    records = []
    for word in sorted(words):
        found = holders[word]
        if len(found) > max_count:
            found = [found[i] for i in np.sort(rng.choice(len(found), max_count, replace=False))]
        hidden = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        records += [Record(hidden.sub(lambda _: mask, sentences[i]), word) for i in found]
    return records


def _apart(words: Sequence[str], holders: dict[str, list[int]], min_count: int) -> list[str]:
    """Give each sentence to the rarest of its words, in ``holders``; returns the words that keep enough of them."""
    taken, kept = set[int](), []
    for word in reversed(words):
        own = [i for i in holders[word] if i not in taken]
        if len(own) >= min_count:
            holders[word] = own
            taken.update(own)
            kept.append(word)
    return kept


def _sentences(texts: Iterable[str], min_length: int, max_length: int) -> tuple[Sequence[str], dict[str, list[int]]]:
    """The different sentences, and which of them hold each word (in lower case)."""
    sentences: dict[str, None] = {}
    holders: dict[str, list[int]] = defaultdict(list)
    for text in texts:
        for part in _SENTENCE.split(text):
            sentence = " ".join(part.split())
            words = _WORD.findall(sentence)
            if not min_length <= len(words) <= max_length or sentence in sentences:
                continue
            for word in dict.fromkeys(word.lower() for word in words):
                holders[word].append(len(sentences))
            sentences[sentence] = None
    return list(sentences), holders
