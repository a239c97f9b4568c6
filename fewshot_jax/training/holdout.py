"""Generalisation over what is held out: one run for each fold and seed, each tested on what it was not trained on.

Holdout and cross-validation differ in one field of the config: `data.fractions` divides classes (or groups, tasks,
data sets) anew for each seed; `data.folds` deals them into parts once for all seeds, and fold ``i`` tests part ``i``.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

from fewshot_jax.applications.classification import ClassApplication, data_files
from fewshot_jax.applications.image_classification import read_images
from fewshot_jax.applications.table import application_of
from fewshot_jax.applications.text_classification import read_data, split_data
from fewshot_jax.config import WRITES, Config, DataConfig
from fewshot_jax.data.records import Record
from fewshot_jax.data.tasks import PooledTasks
from fewshot_jax.errors import UserError, require
from fewshot_jax.training.run_directory import resolve

By = Literal["class", "domain", "file"]


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
        """The same for trainings that are one draw of what is held out: a fold under several seeds."""
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
    given = config.application == "regression" or (config.kind in WRITES and data.source == "generated")
    return not (given or data.split_files or data.class_split is not None)


def _division(config: Config, by: By | None, folds: int | None) -> DataConfig:
    """The data divided by what is held out, and no longer as a file says."""
    data, kind = config.data, config.kind
    flag = f"--by {by}" if by else f"--folds {folds}"
    endless = kind == "regression" or (kind in WRITES and data.source == "generated")
    require(
        not endless,
        f"{flag}: {kind} draws a new task for each episode, which is unseen as it is; give --seeds alone, or files",
    )
    data = dataclasses.replace(data, class_split=None, class_split_name=None, split_files=False)
    if kind == "image_classification":
        require(by in (None, "class"), f"{flag}: images have classes alone; take --by class")
        return data
    if kind in WRITES:
        require(
            by in (None, "domain"),
            f"{flag}: {kind} has tasks (what data.task_field says, or else the name of a file); hold them out with "
            "--by domain",
        )
        return data
    if by == "domain":
        require(
            data.source == "generated" or bool(data.sets) or data.group_field is not None,
            "--by domain: the texts have no domains; name their field with --data.group_field, or list data sets in "
            "--data.sets",
        )
        return dataclasses.replace(data, split_by="group")
    if by == "file":
        require(bool(data.sets), "--by file: there is one data set; list files or folders of data.path in --data.sets")
        return dataclasses.replace(data, split_by="group", group_field=None)
    return data if by is None else dataclasses.replace(data, split_by="label")


def _checked(part: Part, parts: Sequence[Part]) -> Part:
    """A part with the names of its test split.

    Raises:
        UserError: its validation or its test split cannot fill an episode.
    """
    try:
        tested, held_out = _names(part.config)
        return part._replace(tested=tested, held_out=held_out)
    except UserError as error:
        fewer = "; or take fewer --folds" if part.config.data.folds and "data.folds" not in str(error) else ""
        raise UserError(f"{part.name} (one of {len(parts)} trainings): {error}{fewer}") from None


def _names(config: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the test split the classes or tasks, and what was divided to hold them out."""
    evaluation, data = config.evaluation, config.data
    if config.application == "regression" or (config.kind in WRITES and data.source == "generated"):
        return (), ()
    splits, divided = ("validation", "test"), None
    if config.kind in WRITES:
        read = application_of(config)
        pools = read.split(config, [read.read(config, path, None) for path in data_files(data)])[0]
        for split in splits:
            sizes = {"shots": evaluation.most_shots(split), "queries": evaluation.queries}
            PooledTasks(pools[split], **sizes, seed=0, split=split, section="evaluation", apart=read.apart)
        tasks = tuple(sorted({example.task for example in pools["test"]}))
        return tasks, tasks
    if config.application == "image_classification":
        application = ClassApplication(config, read_images(data))
    else:
        undivided = dataclasses.replace(data, folds=None, fold=0, split_seed=0)
        records = _records(undivided, config.seed)
        application = ClassApplication(config, split_data(records, data))
        known = set(application.labels()["test"])
        divided = {getattr(record, data.split_by) for record in records if record.label in known}
    for split in splits:
        application.sampler(split, evaluation.most_shots(split))
    classes = tuple(application.labels()["test"])
    return classes, classes if divided is None else tuple(sorted(divided))


@functools.lru_cache(maxsize=1)
def _records(data: DataConfig, seed: int) -> list[Record]:
    return read_data(data, seed)
