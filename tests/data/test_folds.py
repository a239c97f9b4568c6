"""Folds: each name is tested once, and never trained on where it is tested."""

import pytest

from fewshot_jax.data.folds import divide_fold
from fewshot_jax.errors import UserError

SHARES = (0.6, 0.2, 0.2)
NAMES = [f"n{i}" for i in range(23)]


@pytest.mark.parametrize("folds", [2, 5, 23])
def test_each_name_is_tested_in_one_fold_and_the_splits_of_a_fold_partition_the_names(folds):
    parts = [divide_fold(NAMES, folds, fold, SHARES, seed=3) for fold in range(folds)]
    assert sorted(name for part in parts for name in part["test"]) == sorted(NAMES)
    assert {len(part["test"]) for part in parts} <= {23 // folds, -(-23 // folds)}
    for part in parts:
        assert sorted(name for names in part.values() for name in names) == sorted(NAMES)


def test_fractions_divide_what_is_not_tested():
    part = divide_fold([f"n{i}" for i in range(20)], 5, 0, (0.6, 0.2, 0.2), seed=0)
    assert {split: len(names) for split, names in part.items()} == {"train": 12, "validation": 4, "test": 4}


def test_training_and_validation_get_a_name_at_least():
    for shares in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), SHARES):
        part = divide_fold(["a", "b", "c"], 3, 1, shares, seed=0)
        assert {len(names) for names in part.values()} == {1}


def test_the_folds_depend_on_the_seed_and_not_on_the_order():
    assert divide_fold(NAMES, 4, 1, SHARES, 0) == divide_fold(NAMES[::-1], 4, 1, SHARES, 0)
    assert divide_fold(NAMES, 4, 1, SHARES, 0) != divide_fold(NAMES, 4, 1, SHARES, 1)


@pytest.mark.parametrize(
    ("count", "folds", "remedy"),
    [(4, 5, "take 4 folds or fewer"), (3, 2, "take 3 folds$"), (2, 2, "add some")],
)
def test_more_folds_than_names_are_refused_with_the_numbers(count, folds, remedy):
    with pytest.raises(UserError, match=rf"data\.folds={folds}: there are {count} classes .*{remedy}"):
        divide_fold(NAMES[:count], folds, 0, SHARES, 0)
