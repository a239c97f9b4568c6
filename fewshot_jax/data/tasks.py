"""Tasks of examples to read and write, as a pure function of (seed, step, task index)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fewshot_jax.data.examples import Example
from fewshot_jax.errors import UserError

# ``(rng, shots, queries, unseen) -> (support, query)``, a new task; unseen ones share no rule with those of training.
World = Callable[[np.random.Generator, int, int, bool], tuple[list[Example], list[Example]]]


class Drawn(NamedTuple):
    """The examples of one task: ``support`` and ``query``."""

    support: list[Example]
    query: list[Example]


class TaskSampler(Protocol):
    """Where tasks come from."""

    def task(self, step: int, index: int) -> Drawn:
        """Task ``index`` of a step; the same numbers give the same examples."""


class NewTasks:
    """Tasks of a generated world, each drawn anew.

    Args:
        world: makes a task.
        shots: most support examples.
        queries: query examples.
        seed: of the whole stream.
        min_shots: a task draws its number of support examples from ``min_shots..shots``; None for always the most.
        unseen: tasks that are not those of training.
    """

    def __init__(
        self,
        world: World,
        *,
        shots: int,
        queries: int,
        seed: int,
        min_shots: int | None = None,
        unseen: bool = False,
    ):
        self._unseen = unseen
        self._world, self._shots, self._queries, self._seed = world, shots, queries, seed
        self._min_shots = shots if min_shots is None else min_shots

    def task(self, step: int, index: int) -> Drawn:
        rng = np.random.default_rng((self._seed, step, index))
        shots = int(rng.integers(self._min_shots, self._shots + 1))
        return Drawn(*self._world(rng, shots, self._queries, self._unseen))


class PooledTasks:
    """Tasks of a file: each draws its examples from one named pool, the pools in equal shares.

    Args:
        examples: of all tasks.
        shots, queries, seed, min_shots: as in `NewTasks`.
        split: its name, for messages.
        section: of the config that sets shots and queries, for messages.
        apart: no query shares its `Example.key` with a support example.

    Raises:
        UserError: there are no examples, or a task has too few.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        shots: int,
        queries: int,
        seed: int,
        min_shots: int | None = None,
        split: str = "data",
        section: str = "episodes",
        apart: bool = False,
    ):
        self._apart, self._where = apart, f"{split} split"
        self._shots, self._queries, self._seed = shots, queries, seed
        self._min_shots = shots if min_shots is None else min_shots
        pools: dict[str, dict[tuple[str, str], Example]] = {}  # an example that comes twice counts once
        for example in examples:
            pools.setdefault(example.task, {}).setdefault((example.source, example.target), example)
        if not pools:
            raise UserError(f"{split} split: has no examples; give it a file, or other fractions")
        small = sorted((len(pool), name) for name, pool in pools.items() if len(pool) < shots + queries)
        if small:
            count, name = small[0]
            more = f" (and {len(small) - 1} more tasks)" if len(small) > 1 else ""
            raise UserError(
                f"{split} split: task '{name}' has {count} different examples{more}, but an episode takes {shots} "
                f"shots + {queries} queries; add examples, drop the task, or lower {section}.shots or {section}.queries"
            )
        self._pools = [list(pool.values()) for _, pool in sorted(pools.items())]

    def task(self, step: int, index: int) -> Drawn:
        rng = np.random.default_rng((self._seed, step, index))
        shots = int(rng.integers(self._min_shots, self._shots + 1))
        pool = self._pools[int(rng.integers(len(self._pools)))]
        if self._apart:
            return self._drawn_apart(rng, pool, shots)
        drawn = [pool[i] for i in rng.choice(len(pool), shots + self._queries, replace=False)]
        return Drawn(drawn[:shots], drawn[shots:])

    def _drawn_apart(self, rng: np.random.Generator, pool: list[Example], shots: int) -> Drawn:
        order = iter(rng.permutation(len(pool)).tolist())
        support = [pool[next(order)] for _ in range(shots)]
        taken, query = {example.key for example in support} - {""}, list[Example]()
        for i in order:
            if len(query) == self._queries:
                break
            if pool[i].key not in taken:
                query.append(pool[i])
        if len(query) < self._queries:
            raise UserError(
                f"{self._where}: task '{pool[0].task}' has too few dialogues (or other sources of examples) for "
                f"{self._queries} queries beside those of {shots} shots; add some, or lower shots or queries"
            )
        return Drawn(support, query)
