"""There is one macro F1, that of scikit-learn, on the host and inside a compiled program."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from fewshot_jax.adaptation import summary
from fewshot_jax.applications.classification import MACRO_F1, macro_f1_of_episode
from fewshot_jax.evaluation import baselines
from fewshot_jax.evaluation.classification_metrics import macro_f1
from fewshot_jax.types import Episode

WAYS, QUERIES = 5, 12
score_of_episode = jax.jit(macro_f1_of_episode)


def reference(true, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f1_score(true, predicted, average="macro", zero_division=0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1))
def test_it_is_that_of_the_classes_that_are_true_or_predicted(pairs):
    true, predicted = zip(*pairs, strict=True)
    assert macro_f1(true, predicted) == pytest.approx(reference(true, predicted), abs=1e-12)


def test_a_class_that_is_predicted_alone_counts_as_zero_and_an_absent_one_not_at_all():
    true, predicted = [0, 0, 1, 1], [0, 0, 1, 2]  # F1 of 1, 2/3 and 0; class 3 is nowhere
    assert macro_f1(true, predicted) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert macro_f1(np.array(true), np.array(predicted)) == macro_f1(true, predicted)


def test_of_no_items_it_is_zero_and_unequal_numbers_are_refused():
    assert macro_f1([], []) == 0
    with pytest.raises(ValueError, match="inconsistent"):
        macro_f1(["a"], ["a", "b"])


def test_the_tables_of_adapt_and_of_the_baselines_use_it():
    assert summary.macro_f1 is baselines.macro_f1 is macro_f1
    assert MACRO_F1.of is macro_f1_of_episode


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32 - 1), st.integers(1, WAYS), st.floats(0, 1))
def test_that_of_an_episode_is_the_same_of_its_real_queries(seed, present, share):
    rng = np.random.default_rng(seed)
    support = {"label": np.minimum(np.arange(2 * WAYS) % WAYS, present - 1), "mask": rng.random(2 * WAYS) < 0.8}
    support["mask"][:present] = True  # of each class one
    query = {"label": rng.integers(0, present, QUERIES), "mask": rng.random(QUERIES) < share}
    logits = rng.normal(size=(QUERIES, WAYS)).astype(np.float32)
    logits[:, present:] += 9  # classes that the support set lacks
    real = query["mask"]
    true, predicted = query["label"][real], logits[real, :present].argmax(-1)
    score = score_of_episode(jnp.asarray(logits), jax.tree.map(jnp.asarray, Episode(support, query)))
    assert float(score) == pytest.approx(macro_f1(true, predicted), abs=1e-6)
