"""Episodes as a pure function of (seed, step, task index).

There is no sampler state: task 7 of step 300 is the same on any host, in any
order, after any restart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fewshot_jax.data.label_arrays import check_lengths, checked_classes
from fewshot_jax.errors import UserError
from fewshot_jax.types import Episode


class Items(NamedTuple):
    """Positions of a batch's items in a data set, before their fields are gathered.

    Attributes:
        position: ``[..., B]`` int32; 0 where padded.
        label: ``[..., B]`` int32 labels within the episode, 0 to N - 1; 0 where padded.
        mask: ``[..., B]`` bool, False for padded items.
    """

    position: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def check_enough(
    counts: Mapping[str, int],
    *,
    ways: int,
    shots: int,
    queries: int,
    split: str,
    groups: Mapping[str, int] | None,
    section: str = "episodes",
    domains: bool = False,
) -> None:
    """Raise a UserError if a split cannot fill an episode.

    Args:
        counts: items of each class.
        ways, shots, queries: the largest episode asked for.
        split: the split's name, for the message.
        groups: classes of each group, where episodes stay inside a group.
        section: of the config that sets ways, shots and queries, for the message.
        domains: the groups are (parts of) data sets, for the message.
    """
    if len(counts) < ways:
        raise UserError(
            f"{split} split: {len(counts)} classes, but episodes have {ways} ways; "
            f"lower {section}.ways, or give this split more classes"
        )
    if groups is not None and max(groups.values(), default=0) < ways:
        noun, remedy = (
            ("data set", "add classes to one") if domains else ("group", "set episodes.within_group to false")
        )
        raise UserError(
            f"{split} split: no {noun} has {ways} classes (the largest has {max(groups.values(), default=0)}); "
            f"lower {section}.ways, or {remedy}"
        )
    small = sorted((count, name) for name, count in counts.items() if count < shots + queries)
    if small:
        count, name = small[0]
        more = f" (and {len(small) - 1} more classes)" if len(small) > 1 else ""
        raise UserError(
            f"{split} split: class '{name}' has {count} examples{more}, but an episode takes "
            f"{shots} shots + {queries} queries = {shots + queries} of each class; "
            f"add examples, drop the class, or lower {section}.shots or {section}.queries (duplicates of a text count "
            "once)"
        )


@dataclass(frozen=True, kw_only=True)
class EpisodeSize:
    """How many classes and items an episode has.

    Attributes:
        ways: most classes, ``N``.
        shots: most support items per class.
        queries: query items per class.
        min_ways, min_shots: an episode draws its ways and shots uniformly from
            ``min_ways..ways`` and ``min_shots..shots``; None for always the most.
            Smaller episodes are padded, with ``mask`` False.
        uneven: each class of an episode draws shots of its own.

    Raises:
        UserError: a number is out of range.
    """

    ways: int
    shots: int
    queries: int
    min_ways: int | None = None
    min_shots: int | None = None
    uneven: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.fewest_ways <= self.ways and 1 <= self.fewest_shots <= self.shots and self.queries >= 1):
            raise UserError(
                f"episodes: expected 1 <= min_ways <= ways, 1 <= min_shots <= shots and queries >= 1, got "
                f"min_ways={self.fewest_ways}, ways={self.ways}, min_shots={self.fewest_shots}, shots={self.shots}, "
                f"queries={self.queries}"
            )

    @property
    def fewest_ways(self) -> int:
        return self.ways if self.min_ways is None else self.min_ways

    @property
    def fewest_shots(self) -> int:
        return self.shots if self.min_shots is None else self.min_shots


class Naming(NamedTuple):
    """How messages name things.

    Attributes:
        split: the split's name.
        section: of the config that sets ways, shots and queries.
        classes: names of the classes; None for their numbers.
    """

    split: str = "data"
    section: str = "episodes"
    classes: Sequence[str] | None = None

    def of(self, label: Any) -> str:
        """The name of a class."""
        return str(label) if self.classes is None else self.classes[label]


class EpisodeSampler:
    """Draws N-way K-shot episodes from labelled items.

    Args:
        label: ``[n]`` class of each item: numbers or strings.
        size: of an episode.
        seed: of the whole stream.
        group: ``[n]`` group of each item; the classes of an episode then
            come from one group. A class belongs to one group; groups with fewer
            than ``size.min_ways`` classes are not drawn.
        domain_power: a group of ``C`` classes is drawn with probability
            proportional to ``C ** domain_power``; None for uniformly.
        names_from: position of the name of class 0 among the items; that of class
            ``c`` is at ``names_from + c``, and is its last support item beside
            ``shots`` others. None for no names.
        naming: for messages.

    Raises:
        UserError: too few classes, or too few items in a class.
    """

    def __init__(
        self,
        label: np.ndarray,
        size: EpisodeSize,
        *,
        seed: int = 0,
        group: np.ndarray | None = None,
        domain_power: float | None = None,
        names_from: int | None = None,
        naming: Naming = Naming(),  # noqa: B008
    ):
        label = checked_classes(label)
        if group is not None:
            group = checked_classes(group, "group")
            check_lengths({"label": len(label), "group": len(group)})
        self.size, self.seed, self.names_from = size, seed, names_from
        classes = np.unique(label)
        self._items = {c: np.flatnonzero(label == c).astype(np.int32) for c in classes.tolist()}
        pools = [classes] if group is None else _pools_of_groups(self._items, group, naming, domain_power is not None)
        check_enough(
            {naming.of(c): len(items) for c, items in self._items.items()},
            ways=size.ways,
            shots=size.shots,
            queries=size.queries,
            split=naming.split,
            groups=None if group is None else {str(i): len(pool) for i, pool in enumerate(pools)},
            section=naming.section,
            domains=domain_power is not None,
        )
        self._pools = [pool for pool in pools if len(pool) >= size.fewest_ways]
        self._odds = None
        if domain_power is not None:
            sizes = np.array([len(pool) for pool in self._pools]) ** float(domain_power)
            self._odds = sizes / sizes.sum()

    def task(self, step: int, index: int) -> Episode:
        """Task ``index`` of step ``step``: an `Episode` of `Items` ``[N K]`` and ``[N Q]``.

        With names the support set is ``[N (K + 1)]``.
        """
        rng = np.random.default_rng((self.seed, step, index))
        size = self.size
        ways = int(rng.integers(size.fewest_ways, size.ways + 1))
        shots = int(rng.integers(size.fewest_shots, size.shots + 1))
        count = len(self._pools)
        pool = self._pools[int(rng.integers(count) if self._odds is None else rng.choice(count, p=self._odds))]
        ways = min(ways, len(pool))
        support = _blank(size.ways, size.shots + (self.names_from is not None))
        query = _blank(size.ways, size.queries)
        # The order of choice is random, so each class gets a random label.
        for label, chosen in enumerate(rng.choice(pool, ways, replace=False).tolist()):
            if size.uneven:
                shots = int(rng.integers(size.fewest_shots, size.shots + 1))
            drawn = rng.choice(self._items[chosen], shots + size.queries, replace=False)
            for items, these in ((support, drawn[:shots]), (query, drawn[shots:])):
                items.position[label, : len(these)] = these
                items.label[label, : len(these)] = label
                items.mask[label, : len(these)] = True
            if self.names_from is not None:
                for field, value in zip(support, (self.names_from + chosen, label, True), strict=True):
                    field[label, -1] = value
        flat = lambda items: Items(*(field.reshape(-1) for field in items))  # noqa: E731
        return Episode(flat(support), flat(query))

    def batch(self, step: int, tasks: int, *, offset: int = 0) -> Episode:
        """Tasks ``offset .. offset + tasks - 1`` of a step, with a leading axis ``[T]``."""
        episodes = [self.task(step, offset + index) for index in range(tasks)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *episodes)


def _pools_of_groups(
    items: Mapping[Any, np.ndarray], group: np.ndarray, naming: Naming, domains: bool
) -> list[np.ndarray]:
    """The classes of each group, in the order of the groups.

    Raises:
        UserError: a class occurs in several groups.
    """
    pools: dict[Any, list[Any]] = {}
    for c, of_class in items.items():
        groups = np.unique(group[of_class]).tolist()
        if len(groups) > 1:
            remedy = "leave data.group_field out" if domains else "set episodes.within_group to false"
            raise UserError(
                f"{naming.split} split: class '{naming.of(c)}' occurs in {len(groups)} groups, but episodes stay "
                f"inside a group; rename the label by group, or {remedy}"
            )
        pools.setdefault(groups[0], []).append(c)
    return [np.array(pool) for _, pool in sorted(pools.items())]


def _blank(ways: int, items: int) -> Items:
    shape = (ways, items)
    return Items(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool))


def gather(fields: Mapping[str, np.ndarray], items: Items) -> dict[str, np.ndarray]:
    """The batch of a set of items: each field ``[n, ...]`` at ``position``, with label and mask."""
    return {**{name: field[items.position] for name, field in fields.items()}, "label": items.label, "mask": items.mask}


def episodes(
    fields: Mapping[str, np.ndarray],
    label: np.ndarray,
    *,
    step: int,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    seed: int = 0,
    group: np.ndarray | None = None,
) -> Episode:
    """Draw a meta-batch of N-way K-shot tasks from arrays.

    Has more than 8 parameters because it is the public call, whose arguments are plain numbers.

    Args:
        fields: arrays ``[n, ...]`` that the model reads, by name.
        label: ``[n]`` class of each item: numbers or strings.
        step, seed: which meta-batch; the same numbers give the same episodes.
        tasks: number of tasks ``T``.
        ways, shots, queries: classes, and support and query items per class.
        group: ``[n]`` numbers or strings; the classes of an episode come from one group.

    Returns:
        `Episode` of dict batches: each field ``[T, N*K, ...]`` (support) and
        ``[T, N*Q, ...]`` (query), ``label`` in ``0..N-1`` and ``mask``.

    Raises:
        UserError: the arrays have different lengths, too few classes, or too few items in a class.
    """
    lengths = {name: len(field) for name, field in fields.items()}
    check_lengths({"label": len(label), **lengths, **({} if group is None else {"group": len(group)})})
    sampler = EpisodeSampler(label, EpisodeSize(ways=ways, shots=shots, queries=queries), seed=seed, group=group)
    support, query = sampler.batch(step, tasks)
    return Episode(gather(fields, support), gather(fields, query))
