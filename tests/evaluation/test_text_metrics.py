"""Scores of texts against hand-computed and published values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_jax.evaluation.text_metrics import (
    bleu,
    chrf,
    distinct_n,
    exact_match,
    f1,
    normalize_answer,
    signatures,
    slot_recall,
)

# The example of sacrebleu's README: two references for each of three sentences.
PREDICTIONS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("a an the", ""),
        ("Anthem, another; theatre", "anthem another theatre"),
        ("U.S.A.", "usa"),
        ("$1,200.50", "120050"),
        ("over-the-air", "overtheair"),  # punctuation goes first, then articles
        ("Die Stadt und das Land", "die stadt und das land"),  # other languages keep their articles
        ("¿El año?", "¿el año"),  # and their own punctuation
    ],
)
def test_answers_are_normalized_by_the_rule_of_squad(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("the Cat", ["cat."], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),  # precision 1/2, recall 1
        ("the black cat sat", ["a cat sat down"], 0, 2 / 3),  # 2 of 3 words on both sides
        ("cat cat", ["cat"], 0, 2 / 3),  # a word is shared as often as both have it
        ("dog", ["cat"], 0, 0),
        ("black cat", ["dog", "the cat", "black cat"], 1, 1),  # the best answer counts
        ("cat", [], 0, 0),  # unanswerable
        ("", [], 1, 1),
        ("the", [], 1, 1),  # nothing is left of it
        ("", ["cat"], 0, 0),
        ("", ["the", "cat"], 0, 0),  # an answer of which nothing is left does not count
        ("", ["the"], 1, 1),  # unless there is no other
    ],
)
def test_exact_match_and_f1_by_hand(prediction, answers, exact, overlap):
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap)


@given(st.text("ab the.", max_size=12), st.lists(st.text("ab the.", max_size=12), max_size=3))
def test_f1_is_at_least_exact_match_and_the_best_over_answers(prediction, answers):
    score = f1(prediction, answers)
    assert 0 <= exact_match(prediction, answers) <= score <= 1
    assert score == max((f1(prediction, [answer]) for answer in answers if normalize_answer(answer)), default=score)


@given(st.text(max_size=30))
def test_every_text_answers_itself(text):
    assert exact_match(text, [text]) == f1(text, [text]) == 1


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; equal lengths.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(["the cat sat on the mat"], ["the cat sat on a mat"]) == pytest.approx(expected)


def test_chrf_by_hand():
    # 2 of 3 characters, 1 of 2 pairs, 0 of 1 triple on both sides; longer orders do not occur.
    assert chrf(["abc"], ["abd"]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_the_published_example_of_sacrebleu():
    assert bleu(PREDICTIONS, REFERENCES) == pytest.approx(48.53, abs=0.005)
    assert chrf(PREDICTIONS, REFERENCES) == pytest.approx(59.73, abs=0.005)


@pytest.mark.parametrize("score", [bleu, chrf])
def test_corpus_scores(score):
    assert score(PREDICTIONS, PREDICTIONS) == pytest.approx(100)
    assert score(["x y z w"], ["a b c d"]) == pytest.approx(0)
    assert score(["x y z w"], [["a b c d", "x y z w"]]) == pytest.approx(100)
    some = [REFERENCES[0], REFERENCES[1][:1], REFERENCES[2][0]]  # two, one and a plain string
    assert score(PREDICTIONS, some) < score(PREDICTIONS, REFERENCES)
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        score(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 predictions"):
        score([], [])
    with pytest.raises(ValueError, match="no reference"):
        score(["a"], [[]])


def test_signatures_tell_how_a_score_came_about():
    assert signatures()["BLEU"].startswith("nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:")
    assert signatures()["chrF"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert all(text.startswith("nrefs:2|") for text in signatures(REFERENCES).values())
    assert all(text.startswith("nrefs:var|") for text in signatures([*REFERENCES, "one"]).values())


def test_distinct_n_by_hand():
    texts = ["i do not know", "i do", "i"]
    assert distinct_n(texts, 1) == pytest.approx(4 / 7)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)  # pairs do not reach over the end of a text
    assert distinct_n(texts, 4) == 1
    assert distinct_n(texts, 5) == distinct_n([], 1) == 0
    with pytest.raises(ValueError, match="n=0"):
        distinct_n(texts, 0)


def test_slot_recall_by_hand():
    assert slot_recall("A table at  SINO for 12.", ["Sino", "2", "12"]) == pytest.approx(2 / 3)
    assert slot_recall("", ["Sino"]) == 0
    assert slot_recall("Sino", []) is None
