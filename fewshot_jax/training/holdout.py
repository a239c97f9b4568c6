"""Generalisation over what is held out: one run for each fold and seed, each tested on what it was not trained on.

Holdout and cross-validation differ in one field of the config: `data.fractions` divides classes (or groups, tasks,
data sets) anew for each seed; `data.folds` deals them into parts once for all seeds, and fold ``i`` tests part ``i``.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from fewshot_jax.applications.optional import By, HeldOut
from fewshot_jax.applications.table import application_of
from fewshot_jax.config import Config, DataConfig
from fewshot_jax.errors import UserError, require
from fewshot_jax.training.run_directory import resolve


class Part(NamedTuple):
    """One training.

    Attributes:
        name: of its directory.
        config: of its run.
        tested: the names of its test split: classes, or tasks; none where tasks are generated.
        held_out: the names of what was divided: those, or domains, or data sets.
    """

    name: str
    config: Config
    tested: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()

    @property
    def group(self) -> tuple[str, ...]:
        """Return the key that trainings share when they hold out the same classes (one fold under several seeds)."""
        return self.held_out if self.config.data.folds else (self.name,)


def parts_of(
    config: Config, *, by: By | None = None, folds: int | None = None, seeds: Sequence[int] = ()
) -> list[Part]:
    """The trainings of a holdout, each of them checked against the data.

    Args:
        config: what they have in common.
        by: what is held out; None for what the config divides. "class"; "domain", the groups of labelled texts or the
            tasks of other data; "file", the data sets of `data.sets`.
        folds: parts, each of which is tested once for each seed; None for a test split by `data.fractions`.
        seeds: of `seed` and, where there are no ``folds``, of `data.split_seed`; none for the config's. The folds of
            all seeds are the same, so that what varies over seeds is the training and not what is held out.

    Raises:
        UserError: the data has nothing of that kind to hold out, a part cannot fill its episodes, or there is nothing
            to repeat.
    """
    seeds = tuple(seeds) or (config.seed,)
    require(folds is None or folds >= 2, f"--folds {folds}: expected at least 2")
    require(len(set(seeds)) == len(seeds), f"--seeds {' '.join(map(str, seeds))}: expected each seed once")
    require(folds is not None or len(seeds) > 1, "one training is no holdout; give --folds K, or several --seeds")
    base = resolve(dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, at_end=True)))
    divided = by is not None or folds is not None
    data = _division(base, by, folds) if divided else base.data
    parts = []
    for seed in seeds:
        for fold in range(folds or 1):
            changed = data
            if folds:
                changed = dataclasses.replace(data, folds=folds, fold=fold)
            elif _is_divided(base, data):
                changed = dataclasses.replace(data, split_seed=seed)
            name = f"fold_{fold}_seed_{seed}" if folds else f"seed_{seed}"
            parts.append(Part(name, dataclasses.replace(base, seed=seed, data=changed)))
    return [_checked(part, parts) for part in parts]


def _is_divided(config: Config, data: DataConfig) -> bool:
    """Whether the data is divided by a seed."""
    given = application_of(config).is_endless(config)
    return not (given or data.split_files or data.class_split is not None)


def _division(config: Config, by: By | None, folds: int | None) -> DataConfig:
    """The data divided by what is held out, and no longer as a file says."""
    application, flag = application_of(config), f"--by {by}" if by else f"--folds {folds}"
    require(
        not application.is_endless(config),
        f"{flag}: {config.application} draws a new task for each episode, which is unseen as it is; give --seeds "
        "alone, or files",
    )
    data = dataclasses.replace(config.data, class_split=None, class_split_name=None, split_files=False)
    return application.division(dataclasses.replace(config, data=data), by, flag)


def _checked(part: Part, parts: Sequence[Part]) -> Part:
    """A part with the names of its test split.

    Raises:
        UserError: its validation or its test split cannot fill an episode.
    """
    try:
        application = application_of(part.config)
        found = HeldOut() if application.is_endless(part.config) else application.held_out(part.config)
        return part._replace(tested=found.tested, held_out=found.divided)
    except UserError as error:
        fewer = "; or take fewer --folds" if part.config.data.folds and "data.folds" not in str(error) else ""
        raise UserError(f"{part.name} (one of {len(parts)} trainings): {error}{fewer}") from None
