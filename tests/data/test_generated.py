"""The generated intents: deterministic, and solvable by word order alone."""

import itertools
import re

import numpy as np
import pytest

from fewshot_jax.data.generated import ACTIONS, LEADS, OPENERS, THINGS, generated_intents
from fewshot_jax.errors import UserError


def classes_by_group(records):
    groups = {}
    for record in records:
        groups.setdefault(record.group, set()).add(record.label)
    return {group: sorted(labels) for group, labels in groups.items()}


def by_class(records):
    classes = {}
    for position, record in enumerate(records):
        classes.setdefault(record.label, []).append(position)
    return classes


@pytest.fixture(scope="module")
def records():
    return generated_intents(groups=60, texts_per_class=15)


def test_a_group_is_three_actions_and_its_classes_are_their_orders(records):
    groups = classes_by_group(records)
    assert len(groups) == 60
    for group, labels in groups.items():
        actions = group.split("+")
        assert actions == sorted(set(actions)) and set(actions) <= set(ACTIONS)
        assert labels == sorted(">".join(o) for o in itertools.permutations(actions))


def test_a_text_names_the_actions_in_the_order_of_its_label(records):
    for record in records:
        words = record.text.split()
        assert [word for word in words if word in ACTIONS] == record.label.split(">")
        assert 9 <= len(words) <= 10


def test_two_actions_are_too_far_apart_for_a_short_ngram(records):
    vocabulary = [*ACTIONS, *LEADS, *THINGS, *OPENERS]
    assert len(set(vocabulary)) == len(vocabulary)
    assert min(map(len, vocabulary)) >= 3
    action = "|".join(ACTIONS)
    for record in records:
        gaps = re.split(rf"\b(?:{action})\b", record.text)
        assert all(gap.strip() for gap in gaps), "an action stands at the end of the text"
        assert min(map(len, gaps[1:-1])) >= 9  # " cups now ": at least 4 + 3 letters, 3 spaces


def test_the_texts_of_a_class_are_distinct(records):
    classes = by_class(records)
    assert {len({records[i].text for i in rows}) for rows in classes.values()} == {15}


def test_every_action_occurs_in_many_groups():
    groups = classes_by_group(generated_intents(texts_per_class=1))
    assert len(groups) == 200
    counts = [sum(action in group.split("+") for group in groups) for action in ACTIONS]
    assert min(counts) >= 5


def test_the_seed_decides_and_a_larger_set_extends_a_smaller_one(records):
    assert records == generated_intents(groups=60, texts_per_class=15)
    assert records[: 20 * 6 * 15] == generated_intents(groups=20, texts_per_class=15)
    few = generated_intents(groups=60, texts_per_class=4)
    assert set(few) < set(records)
    assert not set(few) & set(generated_intents(groups=60, texts_per_class=4, seed=1))


def test_the_default_texts_stay_what_they_are():
    # Published results rest on them: a change here is a new data set.
    first = generated_intents(groups=1, texts_per_class=1)[0]
    assert first == (
        "also block notes just share notes calmly sort flowers",
        "block>share>sort",
        "block+share+sort",
    )


def test_a_bag_of_ngrams_stays_at_chance(records):
    from sklearn import pipeline
    from sklearn.feature_extraction import text

    names = sorted(classes_by_group(records))
    held_out = set(names[:20])
    features = pipeline.make_union(
        text.TfidfVectorizer(ngram_range=(1, 2)),
        text.TfidfVectorizer(analyzer="char", ngram_range=(3, 5)),
    ).fit([record.text for record in records if record.group not in held_out])
    classes = by_class(records)
    vectors = {
        label: features.transform([records[i].text for i in rows]).toarray()
        for label, rows in classes.items()
        if records[rows[0]].group in held_out
    }

    rng = np.random.default_rng(0)
    accuracies = []
    for group in sorted(held_out) * 10:  # 5 ways, 5 shots, 10 queries per class
        labels = [label for label in vectors if records[classes[label][0]].group == group]
        episode = [rng.permutation(vectors[label]) for label in rng.permutation(labels)[:5]]
        centroids = np.stack([rows[:5].mean(0) for rows in episode])
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        predicted = np.stack([rows[5:] for rows in episode]) @ centroids.T  # [5, 10, 5]
        accuracies.append((predicted.argmax(-1) == np.arange(5)[:, None]).mean())
    # 200 episodes: standard error about half a point.
    assert 0.17 < np.mean(accuracies) < 0.23


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 0}, "groups is 0: choose between 1 and 9880"),
        ({"groups": 9881}, "groups is 9881"),
        ({"texts_per_class": 0}, "texts_per_class is 0: choose between 1"),
    ],
)
def test_a_number_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        generated_intents(**options)
