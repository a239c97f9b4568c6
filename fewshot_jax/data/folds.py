"""Cross-validation over classes, groups or tasks: each is tested in one of the folds."""

from collections.abc import Sequence

import numpy as np

from fewshot_jax.errors import UserError


def divide_fold(
    names: Sequence[str], folds: int, fold: int, fractions: Sequence[float], seed: int
) -> dict[str, list[str]]:
    """Shuffle names and deal them into folds: one is the test split, the others are training and validation.

    Args:
        names: what to divide; the order given does not matter.
        folds: how many, of sizes that differ by one at most.
        fold: which is tested, from 0.
        fractions: shares of train, validation and test, of which the first two divide what is not tested; both get
            at least one name.
        seed: of the shuffle.

    Raises:
        UserError: there are fewer names than folds, or fewer than two are left beside a fold.
    """
    count = len(names)
    if count < folds or count - -(-count // folds) < 2:  # less the largest fold
        remedy = "add some" if count < 3 else f"take {count} folds{' or fewer' if count > 3 else ''}"
        raise UserError(
            f"data.folds={folds}: there are {count} classes (or groups, or tasks) to divide, and each fold needs one "
            f"to test on and two others to train and to validate on; {remedy}"
        )
    shuffled = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    tested = shuffled[fold::folds]
    rest = [name for place, name in enumerate(shuffled) if place % folds != fold]
    share = fractions[1] / (fractions[0] + fractions[1])
    held_out = min(max(1, round(share * len(rest))), len(rest) - 1)
    return {"train": rest[held_out:], "validation": rest[:held_out], "test": tested}
