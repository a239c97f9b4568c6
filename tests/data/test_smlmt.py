"""Tasks from raw text: the masked word is gone, and every word has enough sentences."""

import json
from collections import Counter

import numpy as np
import pytest

from fewshot_jax.applications.labelled_texts import read_data
from fewshot_jax.config import DataConfig
from fewshot_jax.data.smlmt import smlmt_records
from fewshot_jax.errors import UserError

ANIMALS, VERBS = ("cat", "dog", "owl", "fox"), ("sleeps", "eats", "waits", "hides")


def texts(count=200, seed=0):
    rng = np.random.default_rng(seed)

    def sentence(n):
        return f"The {rng.choice(ANIMALS)} number {n} {rng.choice(VERBS)} under the tree."

    return [" ".join(sentence(2 * n + i) for i in range(2)) for n in range(count)]


def test_every_record_has_its_word_masked_and_nothing_else():
    records = smlmt_records(texts(), min_count=20, stop_words=4, max_count=1000)
    assert {record.label for record in records} == {*ANIMALS, *VERBS}
    for record in records:
        assert record.text.count("[MASK]") == 1
        assert record.label not in record.text.split()
        assert record.text.startswith("The ") and record.text.endswith(" under the tree.")


def test_raw_text_is_a_source_of_episodes(tmp_path):
    words = [
        first + second for first in "bdfgklmn" for second in ("ara", "ete", "ini", "oro", "usu", "alo", "emi", "ito")
    ]
    rng = np.random.default_rng(0)
    sentences = [f"The {' '.join(rng.choice(words, 8, replace=False))}." for _ in range(600)]
    path = tmp_path / "raw.txt"
    path.write_text("\n\n".join(sentences), encoding="utf-8")
    data = DataConfig(source="smlmt", path=str(path), smlmt_words=6)
    records = read_data(data, seed=0)
    assert len({record.label for record in records}) == 6  # beside "the" and the 49 most frequent words
    assert all(record.text.count("[MASK]") == 1 for record in records)
    whole = [record.text.replace("[MASK]", record.label) for record in records]
    assert len(set(whole)) == len(whole), "words that are held out have sentences of their own"
    with pytest.raises(UserError, match=r"0 words stand in 30 sentences of 5 to 5 words"):
        read_data(DataConfig(source="smlmt", path=str(path), smlmt_length=5), seed=0)


def test_words_can_have_sentences_of_their_own():
    shared, apart = (
        smlmt_records(texts(400), min_count=20, stop_words=4, max_count=1000, shared=shared) for shared in (True, False)
    )

    def holders(records):
        """The words that each sentence, with its mask filled in, serves."""
        found = {}
        for record in records:
            found.setdefault(record.text.replace("[MASK]", record.label), set()).add(record.label)
        return found

    assert max(map(len, holders(shared).values())) == 2  # an animal and a verb
    assert set(map(len, holders(apart).values())) == {1}
    assert len({record.label for record in apart}) >= 2


def test_a_word_counts_whole_and_in_any_case():
    written = ["Rain falls on the house. The rainy house likes rain, Rain and RAIN!"]
    written += [f"Rain number {n} falls on house {n}." for n in range(3)]
    records = smlmt_records(written, min_count=2, stop_words=0, min_length=3, mask="<mask>")
    of_rain = [record.text for record in records if record.label == "rain"]
    assert "<mask> falls on the house." in of_rain
    assert "The rainy house likes <mask>, <mask> and <mask>!" in of_rain


def test_counts_are_kept_within_bounds():
    records = smlmt_records(texts(), min_count=20, max_count=30, stop_words=4)
    counts = Counter(record.label for record in records)
    assert set(counts.values()) == {30}
    assert len({record.text for record in records if record.label == "cat"}) == 30
    most = smlmt_records(texts(), min_count=20, max_words=3, stop_words=4, max_count=1000)
    assert len({record.label for record in most}) == 3


def test_a_seed_draws_the_sentences():
    one, same, other = (smlmt_records(texts(), min_count=20, max_count=30, stop_words=4, seed=s) for s in (0, 0, 1))
    assert one == same != other


def test_a_sentence_that_occurs_twice_counts_once():
    doubled = [text for text in texts() for _ in range(2)]
    assert smlmt_records(doubled, min_count=20, stop_words=4) == smlmt_records(texts(), min_count=20, stop_words=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 1000, "max_count": 1000}, "0 words stand in 1000 sentences .*give more text"),
        ({"min_count": 1}, "min_count is 1: choose at least 2"),
        ({"min_count": 9, "max_count": 8}, "max_count is 8: choose at least 9"),
        ({"min_length": 9, "max_length": 8}, "min_length is 9, max_length 8"),
    ],
)
def test_what_gives_no_task_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        smlmt_records(texts(), **options)


def test_the_records_are_those_that_a_run_reads(tmp_path):
    from fewshot_jax.data.files import read_records

    records = smlmt_records(texts(), min_count=20, stop_words=4)
    path = tmp_path / "smlmt.jsonl"
    path.write_text("".join(json.dumps({"text": r.text, "label": r.label}) + "\n" for r in records))
    assert read_records(path) == records
