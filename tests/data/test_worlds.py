"""Generated tasks: at chance without examples, determined by the support set, right for who knows the task."""

import itertools
from collections import Counter

import numpy as np
import pytest

from fewshot_jax.data.tasks import NewTasks
from fewshot_jax.data.worlds import languages, personas, readings

WORLDS = {
    "languages": (languages.language_task, languages.DETERMINED_FROM),
    "readings": (readings.reading_task, readings.DETERMINED_FROM),
    "personas": (personas.persona_task, personas.DETERMINED_FROM),
}


def tasks(world, shots, count=200, queries=5):
    sampler = NewTasks(WORLDS[world][0], shots=shots, queries=queries, seed=7)
    return [sampler.task(0, index) for index in range(count)]


@pytest.mark.parametrize("world", WORLDS)
def test_a_task_is_a_function_of_seed_step_and_index(world):
    make = WORLDS[world][0]
    one, other = (NewTasks(make, shots=3, queries=2, seed=1) for _ in range(2))
    assert one.task(4, 2) == other.task(4, 2)
    assert one.task(4, 2) != one.task(4, 3) and one.task(4, 2) != one.task(5, 2)
    assert one.task(4, 2) != NewTasks(make, shots=3, queries=2, seed=2).task(4, 2)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("shots", [1, 5, 16])
def test_a_task_has_the_sizes_asked_for(world, shots):
    for task in tasks(world, shots, count=20):
        assert (len(task.support), len(task.query)) == (shots, 5)
        assert all(example.source and example.target for part in task for example in part)


# What a reader who knows how the world is made, but not the task, holds possible: functions from source to target.
def language_hypotheses(task):
    """All languages that translate the support sentences, restricted to the words that occur."""
    used = [sorted({w for e in task.support for w in e.source.split() if w in words}) for words in (N, V)]
    foreign = [sorted({w for e in task.support for w in e.target.split() if w in words}) for words in (FN, FV)]
    for order in languages.ORDERS:
        for nouns in itertools.permutations(foreign[0], len(used[0])):
            for verbs in itertools.permutations(foreign[1], len(used[1])):
                lexicon = dict(zip((*used[0], *used[1]), (*nouns, *verbs), strict=True))
                yield languages.Language(order, lexicon).translate


N, V, FN, FV = languages.NOUNS, languages.VERBS, languages.FOREIGN_NOUNS, languages.FOREIGN_VERBS


def reading_hypotheses(task):
    asked = sorted({e.source.split()[0] for part in task for e in part})
    for relations in itertools.permutations(readings.RELATIONS, len(asked)):
        meaning = dict(zip(asked, relations, strict=True))
        yield lambda source, meaning=meaning: readings.answer(meaning, source)


def persona_hypotheses(task):
    """All personas whose favourites of each kind, taken alone, agree with the support replies."""
    kinds = sorted(personas.FAVOURITES)
    said = [(example.source, example.target) for example in task.support]
    for opener, closer in itertools.product(personas.OPENERS, personas.CLOSERS):
        fits = [
            [
                thing
                for thing in personas.FAVOURITES[kind]
                if all(
                    personas.Persona({kind: thing}, opener, closer).reply(source) == target
                    for source, target in said
                    if kind in source.split()
                )
            ]
            for kind in kinds
        ]
        for things in itertools.product(*fits):
            yield personas.Persona(dict(zip(kinds, things, strict=True)), opener, closer).reply


HYPOTHESES = {"languages": language_hypotheses, "readings": reading_hypotheses, "personas": persona_hypotheses}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("more", [0, 1, 4])
def test_the_support_set_determines_every_answer(world, more):
    for task in tasks(world, WORLDS[world][1] + more, count=25):
        answers = set()
        for write in HYPOTHESES[world](task):
            if all(write(example.source) == example.target for example in task.support):
                answers.add(tuple(write(example.source) for example in task.query))
        assert answers == {tuple(example.target for example in task.query)}


def test_what_words_mean_in_tests_is_not_what_they_mean_in_training():
    found = []
    for unseen in (False, True):
        sampler = NewTasks(readings.reading_task, shots=4, queries=1, seed=7, unseen=unseen)
        meanings = set()
        for index in range(400):
            kinds = {
                e.source.split()[0]: next(kind for kind, things in readings.THINGS.items() if e.target in things)
                for e in sampler.task(0, index).support
            }
            meanings.add(tuple(kinds[word] for word in readings.WORDS))
        found.append(meanings)
    assert [len(meanings) for meanings in found] == [16, 8] and not found[0] & found[1]
    # Each word has each meaning in both, so that nothing about a word alone tells one from the other.
    for meanings in found:
        assert all({meaning[place] for meaning in meanings} == set(readings.RELATIONS) for place in range(4))


def test_without_examples_a_word_of_a_language_could_be_any_of_its_kind():
    counts = Counter(task.query[0].target.split()[i] for task in tasks("languages", 5, count=3000) for i in range(3))
    for words in (FN, FV):
        shares = np.array([counts[word] for word in words]) / sum(counts[word] for word in words)
        np.testing.assert_allclose(shares, 1 / len(words), atol=0.03)


def test_without_examples_the_answer_is_any_of_the_four_things():
    places = Counter()
    for task in tasks("readings", 1, count=3000):
        example = task.query[0]
        word = example.source.split()[0]
        kind = next(relation for relation, things in readings.THINGS.items() if example.target in things)
        places[word, kind] += 1
    for word in readings.WORDS:
        total = sum(places[word, kind] for kind in readings.THINGS)
        np.testing.assert_allclose([places[word, kind] / total for kind in readings.THINGS], 0.25, atol=0.06)


def test_without_examples_a_favourite_is_any_of_its_kind():
    counts = Counter(example.values[0] for task in tasks("personas", 1, count=3000) for example in task.query[:1])
    for things in personas.FAVOURITES.values():
        total = sum(counts[thing] for thing in things)
        np.testing.assert_allclose([counts[thing] / total for thing in things], 1 / len(things), atol=0.08)


def test_the_answer_stands_in_the_text_once():
    for task in tasks("readings", 5, count=50):
        for example in (*task.support, *task.query):
            assert example.source.partition(" ? ")[2].split().count(example.target) == 1


def test_a_query_is_worded_as_no_support_example_is():
    for task in tasks("personas", 5, count=50):
        assert not {e.source for e in task.query} & {e.source for e in task.support}
        assert all(example.values[0] in example.target.split() for example in task.query)


@pytest.mark.parametrize("shots", [1, 5, 16])
def test_query_sentences_are_not_among_the_support_sentences(shots):
    for task in tasks("languages", shots, count=50):
        assert not {e.source for e in task.query} & {e.source for e in task.support}
