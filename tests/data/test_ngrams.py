"""Hashed n-grams: what they see, and that nothing is fitted."""

import numpy as np
import pytest

from fewshot_jax.data.ngrams import hashed_ngrams

TEXTS = ["please book a table", "booking two tables, please", "what is my balance", "xqzzy wvvy"]


def cosine(vectors):
    dense = vectors.toarray()
    dense = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    return dense @ dense.T


@pytest.mark.parametrize("width", [64, 4096])
def test_a_vector_depends_on_its_text_alone(width):
    together = hashed_ngrams(TEXTS, width)
    assert together.shape == (4, width)
    assert together.dtype == np.float32
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(together[row].toarray(), hashed_ngrams([text], width).toarray())


def test_inflected_words_are_alike_and_unseen_ones_are_something():
    similarity = cosine(hashed_ngrams(TEXTS, 4096))
    assert similarity[0, 1] > 0.3 > similarity[0, 2]
    assert abs(similarity[3, :3]).max() < 0.1
    assert hashed_ngrams(["xqzzy"], 4096).nnz > 3


def test_what_collides_cancels_on_average():
    # 2,000 words that share no n-gram, in few columns: an unsigned hash would make every pair look alike.
    words = [chr(0x4E00 + 3 * i) + chr(0x4E01 + 3 * i) + chr(0x4E02 + 3 * i) for i in range(2000)]
    texts = [" ".join(words[start : start + 40]) for start in range(0, 2000, 40)]
    similarity = cosine(hashed_ngrams(texts, 64))
    pairs = similarity[np.triu_indices(len(texts), 1)]
    standard_error = pairs.std() / np.sqrt(len(pairs))
    assert abs(pairs.mean()) < 4 * standard_error < 0.02


def test_a_repeated_word_counts_less_each_time():
    once, thrice = (abs(hashed_ngrams([text], 4096).toarray()).max() for text in ("no", "no no no"))
    assert once == pytest.approx(np.log(2))
    assert thrice == pytest.approx(np.log(4))
