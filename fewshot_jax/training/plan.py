"""Choose how to compute a meta-gradient: the fastest way that fits into memory.

Every candidate gives the same numbers. Each is compiled for the very model and
meta-batch, XLA's own account of its memory is read, and those that fit are
ordered by a timed step, or by the operations of their matrix products.
"""

import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax

from fewshot_jax.algorithms.differentiation import Gradient, Keep
from fewshot_jax.algorithms.meta_batch import check_task_axis
from fewshot_jax.block_policy import BlockPolicy
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError
from fewshot_jax.training.experiment import Experiment, build_learner
from fewshot_jax.training.matmul_cost import matmul_flops
from fewshot_jax.training.state import initial_state
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, PyTree

_MIB = 2**20
_SHARE = 0.8  # of the memory that is free: the rest is for the batches to come, the optimizer, the allocator


class Strategy(NamedTuple):
    """One way to compute the meta-gradient: keywords of `maml` and of learners like it."""

    gradient: Gradient
    keep: Keep
    keep_blocks: BlockPolicy
    task_chunk: int | None = None


# Exact ones, from the most memory to the least.
STRATEGIES = (
    Strategy("reverse", "all", "all"),
    Strategy("mixed", "gradients", "all"),
    Strategy("mixed", "gradients", "matmul"),
    Strategy("mixed", "gradients", "boundary"),
    Strategy("mixed", "sqrt", "boundary"),
)


class Candidate(NamedTuple):
    """What was found out about a strategy.

    Attributes:
        strategy: the keywords.
        memory: bytes that the compiled step needs on a device: arguments, results, temporaries.
        operations: of its matrix products, as compiled; None if a loop's length is unknown.
        seconds: of a step, the median of a few; None if it was not timed.
        verdict: "chosen", "slower", "too large" or "out of memory".
    """

    strategy: Strategy
    memory: int
    operations: float | None
    seconds: float | None
    verdict: str


class Plan(NamedTuple):
    """The chosen strategy and how it was found; ``str`` gives a table.

    Attributes:
        strategy: for ``maml(..., **plan.strategy._asdict())``.
        candidates: all that were compiled, in the order of the attempt.
        budget: bytes.
    """

    strategy: Strategy
    candidates: tuple[Candidate, ...]
    budget: int

    def __str__(self) -> str:
        head = ("gradient", "keep", "keep_blocks", "task_chunk", "memory MiB", "Gflop", "ms", "")
        rows = [
            (
                *map(str, one.strategy),
                f"{one.memory / _MIB:,.1f}",
                "?" if one.operations is None else f"{one.operations / 1e9:,.2f}",
                "-" if one.seconds is None else f"{1e3 * one.seconds:,.1f}",
                one.verdict,
            )
            for one in self.candidates
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([*(line.rstrip() for line in lines), f"memory budget: {self.budget / _MIB:,.0f} MiB"])


def free_memory() -> int:
    """Bytes that a program may use: four fifths of what is free on the first device, or of the host's on CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _chunks(tasks: int) -> list[int]:
    """Numbers of tasks to vmap at once: all, then halves of it down to one."""
    return sorted({-(-tasks // 2**power) for power in range(tasks.bit_length() + 1)}, reverse=True)


def plan(
    build: Callable[..., MetaLearner],
    meta_params: MetaParams,
    episodes: Episode,
    *,
    rng: Key | None = None,
    frozen: PyTree = None,
    memory_budget: int | None = None,
    order: Literal["time", "operations"] = "time",
    strategies: Sequence[Strategy] = STRATEGIES,
    report: Callable[[str], None] = lambda message: None,
) -> Plan:
    """Choose the strategy for a learner's ``grad``; call it outside ``jit``.

    For each strategy the largest number of tasks that fits is vmapped at once, and
    on a CPU one task at a time is tried as well, which transformers like better there.

    Args:
        build: ``(gradient=, keep=, keep_blocks=, task_chunk=) -> MetaLearner``, such as
            ``functools.partial(fsj.maml, loss_fn, inner_steps=5)``.
        meta_params: from ``learner.init``.
        episodes: a meta-batch as training will see it, ``[T, ...]``.
        rng: the key of the step; None for a fixed one.
        frozen: passed on.
        memory_budget: bytes on a device; None for four fifths of what is free.
        order: "time" runs a step of each candidate that fits, "operations" runs none
            and compares the operations of the compiled matrix products.
        strategies: what to try; ``task_chunk`` None means as many as fit.
        report: called with a line for each thing worth saying.

    Returns:
        The `Plan`.

    Raises:
        ValueError: nothing fits; the message has the table.
    """
    tasks = check_task_axis(episodes)
    rng = jax.random.key(0) if rng is None else rng
    budget = free_memory() if memory_budget is None else memory_budget
    keywords = {} if frozen is None else {"frozen": frozen}

    def examine(strategy: Strategy) -> tuple[Candidate, Callable[[], Any]]:
        learner = build(**strategy._asdict())
        compiled = jax.jit(learner.grad).lower(meta_params, episodes, rng, **keywords).compile()
        memory = compiled.memory_analysis()
        if memory is None:
            raise ValueError(f"the backend '{jax.default_backend()}' does not say how much memory a program needs")
        needed = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        try:
            operations = matmul_flops(compiled.as_text() or "")
        except ValueError:
            operations = None
        verdict = "too large" if needed > budget else "slower"
        return Candidate(strategy, needed, operations, None, verdict), lambda: compiled(
            meta_params, episodes, rng, **keywords
        )

    candidates: list[Candidate] = []
    for strategy in strategies:
        chunks = _chunks(tasks) if strategy.task_chunk is None else [strategy.task_chunk]
        tried: set[int] = set()
        for chunk in chunks:
            candidate, run = examine(strategy._replace(task_chunk=chunk))
            tried.add(chunk)
            candidates.append(_timed(candidate, run, report) if order == "time" else candidate)
            if candidates[-1].verdict == "slower":
                break
        if jax.default_backend() == "cpu" and 1 in chunks and 1 not in tried:
            candidate, run = examine(strategy._replace(task_chunk=1))
            candidates.append(_timed(candidate, run, report) if order == "time" else candidate)

    cost = (lambda one: one.seconds) if order == "time" else (lambda one: one.operations or float("inf"))
    fits = [index for index, one in enumerate(candidates) if one.verdict == "slower"]
    if not fits:
        raise ValueError(
            f"no strategy fits into {budget / _MIB:,.0f} MiB:\n{Plan(strategies[0], tuple(candidates), budget)}\n"
            "Raise the budget, or take a smaller model, shorter texts, fewer items or inner_params= with fewer leaves."
        )
    best = min(fits, key=lambda index: cost(candidates[index]))
    candidates[best] = candidates[best]._replace(verdict="chosen")
    result = Plan(candidates[best].strategy, tuple(candidates), budget)
    report(str(result))
    return result


def _timed(candidate: Candidate, run: Callable[[], Any], report: Callable[[str], None]) -> Candidate:
    """Run a candidate a few times; one that the device has no memory for is out of the race."""
    if candidate.verdict == "too large":
        return candidate
    try:
        jax.block_until_ready(run())
        seconds = sorted(_seconds(run) for _ in range(3))[1]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        report(f"{candidate.strategy}: ran out of memory, although XLA counts {candidate.memory / _MIB:,.1f} MiB")
        return candidate._replace(verdict="out of memory")
    return candidate._replace(seconds=seconds)


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def planned(experiment: Experiment, *, quiet: bool = False) -> Config:
    """The config of a run with the strategy that `plan` chose for its model and first meta-batch.

    The budget is `learner.memory_budget`, or what is free, less the outer
    optimizer's state; each device plans for its own share of the tasks.

    Raises:
        UserError: nothing fits.
    """
    config = experiment.config
    tasks = config.outer.tasks // math.gcd(config.outer.tasks, jax.device_count())
    state = initial_state(config, vocab_size=experiment.vocab_size)
    budget = free_memory() if config.learner.memory_budget is None else int(config.learner.memory_budget * _MIB)

    def build(**strategy: Any) -> MetaLearner:
        learner = dataclasses.replace(config.learner, **strategy)
        changed = dataclasses.replace(config, learner=learner)
        return build_learner(changed, vocab_size=experiment.vocab_size, ways=config.episodes.ways, training=True)[1]

    try:
        choice = plan(
            build,
            state.meta_params,
            experiment.batch("train", experiment.training_sampler(), 0, tasks),
            strategies=STRATEGIES if config.learner.name == "maml" else STRATEGIES[:1],
            memory_budget=max(0, budget - sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))),
            report=(lambda message: None) if quiet else functools.partial(print, file=sys.stderr, flush=True),
        )
    except ValueError as error:
        raise UserError(f"learner.memory_budget: {error}") from None
    return dataclasses.replace(config, learner=dataclasses.replace(config.learner, **choice.strategy._asdict()))
