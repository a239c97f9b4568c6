"""What test shares with other splits: all of what was planted is found, and nothing else."""

import numpy as np
import pytest

from fewshot_jax.data.generated import generated_intents
from fewshot_jax.data.leakage import SIMILAR, find_leakage, jaccard, near_duplicates
from fewshot_jax.data.splits import divide, split_records


def texts(count, seed):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 9))) for _ in range(3000)]
    return [" ".join(rng.choice(words, rng.integers(6, 14))) for _ in range(count)]


def test_planted_duplicates_and_near_duplicates_are_found_and_nothing_else():
    train, test = texts(400, 0), texts(200, 1)
    test[3], test[50] = f"  {train[7].upper()} ", train[8].replace(" ", "\t")
    test[60], test[70] = f"{train[20]} ok", f"a {train[21]}"
    found = find_leakage(train, test)
    assert found.exact == [(train[7], test[3], 1.0), (train[8], test[50], 1.0)]
    assert [(pair.known, pair.test) for pair in found.near] == [(train[20], test[60]), (train[21], test[70])]
    assert all(pair.similarity == jaccard(pair.known, pair.test) >= SIMILAR for pair in found.near)
    assert found
    assert (found.known_texts, found.test_texts) == (400, 200)


def test_texts_that_share_nothing_are_reported_as_such():
    found = find_leakage(texts(300, 0), texts(300, 1), known_classes=["a", "b"], test_classes=["c"])
    assert not found
    assert (found.classes, found.exact, found.near) == ([], [], [])


def test_all_pairs_that_a_plain_search_finds_are_found():
    """Each training text with a word or two changed, which gives similarities on both sides of 0.8."""
    rng, train = np.random.default_rng(2), texts(150, 3)
    test = []
    for text in train:
        words = text.split()
        for place in rng.integers(0, len(words), rng.integers(1, 3)):
            words[place] = words[place][:-1] + "x"
        test.append(" ".join(words))
    wanted = {b for b, one in enumerate(test) if max(jaccard(other, one) for other in train) >= SIMILAR}
    assert 20 < len(wanted) < 130
    assert {b for _, b, _ in near_duplicates(train, test)} == wanted


def test_a_similarity_by_hand():
    """abcdef and abcdeg have the 5-grams abcde, bcdef and abcde, bcdeg: one of three."""
    assert jaccard("abcdef", "abcdeg") == pytest.approx(1 / 3)
    assert jaccard("abc", "abc") == 0, "no 5-grams"


def test_names_of_classes_are_compared_without_case_and_spaces():
    found = find_leakage([], [], known_classes=["Book  Flight", "b"], test_classes=["c", "book flight"])
    assert found.classes == ["book flight"]


def test_a_text_repeated_in_test_counts_each_time_and_copies_in_training_once():
    train = [f"{text}." for text in texts(1, 0)] * 300
    found = find_leakage(train, [train[0][:-1]] * 2 + [train[0]] * 3)
    assert (len(found.near), len(found.exact)) == (2, 3)


def test_short_and_empty_sides():
    assert find_leakage(["ab", "abcdefgh"], ["abc", "ab"]).exact == [("ab", "ab", 1.0)]
    for train, test in (([], ["abcdefgh"]), (["abcdefgh"], []), (["ab"], ["abcdefgh"]), (["abcdefgh"], ["ab"])):
        assert find_leakage(train, test).near == []


def test_beyond_a_size_nearly_equal_texts_are_not_looked_for():
    train, test = ["abcdefghij", "x"], ["abcdefghij", "abcdefghijk"]
    assert find_leakage(train, test, most_characters=22).near is not None
    found = find_leakage(train, test, most_characters=21)
    assert found.near is None
    assert len(found.exact) == 1


def test_the_generated_intents_share_words_and_no_texts():
    records = generated_intents(groups=30, texts_per_class=10)
    groups = sorted({record.group for record in records})
    splits = split_records(records, divide(groups, (0.7, 0.1, 0.2), 0), by="group")
    test = splits["test"]
    for known in (splits["train"], splits["validation"]):
        assert {word for text in test.texts for word in text.split()} & set(known.texts[0].split())
        assert not find_leakage(known.texts, test.texts, known_classes=known.classes, test_classes=test.classes)
