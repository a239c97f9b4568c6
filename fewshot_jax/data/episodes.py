"""Episodes as a pure function of (seed, step, task index).

There is no sampler state: task 7 of step 300 is the same on any host, in any
order, after any restart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

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


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Raise a UserError unless arrays have one entry for each of the same items.

    Args:
        lengths: entries of each array, by its name; the first is compared with the others.
    """
    (first, items), *others = lengths.items()
    for name, count in others:
        if count != items:
            raise UserError(
                f"'{name}' has {count} entries, but '{first}' has {items}. Expected one for each item; give arrays of "
                "equal length."
            )


def _checked_classes(values: np.ndarray, name: str = "label") -> np.ndarray:
    """The labels or groups of items as an array ``[n]`` of numbers or strings, none of them NaN."""
    values = np.asarray(values)
    if values.ndim == 1 and values.dtype.kind in "OT":  # a column of strings from pandas, or of NumPy's StringDType
        values = _of_one_type(values.tolist(), name)
    if values.ndim != 1 or values.dtype.kind not in "iufbUS":
        raise UserError(
            f"'{name}' has shape {values.shape} and dtype {values.dtype}. Expected one number or string for each item, "
            "[n]; convert them, for example with np.array(list_of_str)."
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        item = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(
            f"'{name}' of item {item} is {values[item]}. Expected a class for each item; fill it in, or leave it out."
        )
    return values


def _of_one_type(values: list[Any], name: str) -> np.ndarray:
    """An array of Python objects that are all strings, or all numbers of one type.

    Raises:
        UserError: one of them is something else.
    """
    known = next((kind for kind in (str, bool, int, float) if values and isinstance(values[0], kind)), str)
    for item, value in enumerate(values):
        if not isinstance(value, known) or isinstance(value, bool) != (known is bool):
            raise UserError(
                f"'{name}' of item {item} is {value!r}, of the type {type(value).__name__}. Expected strings, or "
                "numbers of one type, for all items; fill it in, convert it, or leave the item out."
            )
    return np.array(values, known)


class EpisodeSampler:
    """Draws N-way K-shot episodes from labelled items.

    Args:
        label: ``[n]`` class of each item: numbers or strings.
        ways: most classes in an episode, ``N``.
        shots: most support items per class.
        queries: query items per class.
        seed: of the whole stream.
        group: ``[n]`` group of each item; the classes of an episode then
            come from one group. A class belongs to one group; groups with fewer
            than ``min_ways`` classes are not drawn.
        domain_power: a group of ``C`` classes is drawn with probability
            proportional to ``C ** domain_power``; None for uniformly.
        min_ways, min_shots: an episode draws its ways and shots uniformly from
            ``min_ways..ways`` and ``min_shots..shots``; None for always the most.
            Smaller episodes are padded, with ``mask`` False.
        uneven: each class of an episode draws shots of its own.
        names_from: position of the name of class 0 among the items; that of class
            ``c`` is at ``names_from + c``, and is its last support item beside
            ``shots`` others. None for no names.
        class_names: names for messages; by default the numbers.
        split: the split's name, for messages.
        section: of the config that sets ways, shots and queries, for messages.

    Raises:
        UserError: too few classes, or too few items in a class.
    """

    def __init__(
        self,
        label: np.ndarray,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int = 0,
        group: np.ndarray | None = None,
        domain_power: float | None = None,
        min_ways: int | None = None,
        min_shots: int | None = None,
        uneven: bool = False,
        names_from: int | None = None,
        class_names: Sequence[str] | None = None,
        split: str = "data",
        section: str = "episodes",
    ):
        label = _checked_classes(label)
        if group is not None:
            group = _checked_classes(group, "group")
            check_lengths({"label": len(label), "group": len(group)})
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        self.min_ways = ways if min_ways is None else min_ways
        self.min_shots = shots if min_shots is None else min_shots
        self.uneven, self.names_from = uneven, names_from
        if not (1 <= self.min_ways <= ways and 1 <= self.min_shots <= shots and queries >= 1):
            raise UserError(
                f"episodes: expected 1 <= min_ways <= ways, 1 <= min_shots <= shots and queries >= 1, got "
                f"min_ways={self.min_ways}, ways={ways}, min_shots={self.min_shots}, shots={shots}, queries={queries}"
            )
        classes = np.unique(label)
        self._items = {c: np.flatnonzero(label == c).astype(np.int32) for c in classes.tolist()}
        name = (lambda c: str(c)) if class_names is None else (lambda c: class_names[c])
        self._pools = [classes]
        if group is not None:
            pools: dict[int, list[int]] = {}
            for c, items in self._items.items():
                of_class = np.unique(np.asarray(group)[items]).tolist()
                if len(of_class) > 1:
                    remedy = (
                        "leave data.group_field out"
                        if domain_power is not None
                        else "set episodes.within_group to false"
                    )
                    raise UserError(
                        f"{split} split: class '{name(c)}' occurs in {len(of_class)} groups, but episodes stay inside "
                        f"a group; rename the label by group, or {remedy}"
                    )
                pools.setdefault(of_class[0], []).append(c)
            self._pools = [np.array(pool) for _, pool in sorted(pools.items())]
        check_enough(
            {name(c): len(items) for c, items in self._items.items()},
            ways=ways,
            shots=shots,
            queries=queries,
            split=split,
            groups=None if group is None else {str(i): len(pool) for i, pool in enumerate(self._pools)},
            section=section,
            domains=domain_power is not None,
        )
        self._pools = [pool for pool in self._pools if len(pool) >= self.min_ways]
        self._odds = None
        if domain_power is not None:
            sizes = np.array([len(pool) for pool in self._pools]) ** float(domain_power)
            self._odds = sizes / sizes.sum()

    def task(self, step: int, index: int) -> Episode:
        """Task ``index`` of step ``step``: an `Episode` of `Items` ``[N K]`` and ``[N Q]``.

        With names the support set is ``[N (K + 1)]``.
        """
        rng = np.random.default_rng((self.seed, step, index))
        ways = int(rng.integers(self.min_ways, self.ways + 1))
        shots = int(rng.integers(self.min_shots, self.shots + 1))
        count = len(self._pools)
        pool = self._pools[int(rng.integers(count) if self._odds is None else rng.choice(count, p=self._odds))]
        ways = min(ways, len(pool))
        support, query = _blank(self.ways, self.shots + (self.names_from is not None)), _blank(self.ways, self.queries)
        # The order of choice is random, so each class gets a random label.
        for label, chosen in enumerate(rng.choice(pool, ways, replace=False).tolist()):
            if self.uneven:
                shots = int(rng.integers(self.min_shots, self.shots + 1))
            drawn = rng.choice(self._items[chosen], shots + self.queries, replace=False)
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
    sampler = EpisodeSampler(label, ways=ways, shots=shots, queries=queries, seed=seed, group=group)
    support, query = sampler.batch(step, tasks)
    return Episode(gather(fields, support), gather(fields, query))
