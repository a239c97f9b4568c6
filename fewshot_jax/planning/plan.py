"""Choose how to compute a meta-gradient: the fastest way that fits into memory.

Every candidate gives the same numbers. Each is compiled for the very model and
meta-batch, XLA's own account of its memory is read, and those that fit are
ordered by a timed step, or by the operations of their matrix products.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from fewshot_jax.algorithms.custom_rules import CustomRuleError
from fewshot_jax.algorithms.differentiation import Gradient, Keep
from fewshot_jax.algorithms.meta_batch import check_task_axis
from fewshot_jax.block_policy import BlockPolicy
from fewshot_jax.planning.matmul_cost import matmul_flops
from fewshot_jax.types import Episode, Key, MetaLearner, MetaParams, PyTree

MIB = 2**20
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
        memory: bytes that the compiled step needs on a device beside its arguments: temporaries and results.
        operations: of its matrix products, as compiled; None if they cannot be counted (a loop of
            unknown length, a convolution).
        seconds: of a step, the median of a few; None if it was not timed.
        fits: into the budget, and into the device where it was run.
        verdict: "chosen", "slower", "too large" or "out of memory".
    """

    strategy: Strategy
    memory: int
    operations: float | None
    seconds: float | None
    fits: bool
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
                f"{one.memory / MIB:,.1f}",
                "?" if one.operations is None else f"{one.operations / 1e9:,.2f}",
                "-" if one.seconds is None else f"{1e3 * one.seconds:,.1f}",
                one.verdict,
            )
            for one in self.candidates
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([*(line.rstrip() for line in lines), f"memory budget: {self.budget / MIB:,.0f} MiB"])


class NothingFits(ValueError):
    """No strategy fits into the budget; the message has the table."""


def free_memory() -> int:
    """Bytes that a program may use: four fifths of what is free on the first device, or of the host's on CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(_SHARE * min(_host_memory()))


def _host_memory() -> Iterator[int]:
    """What the kernel calls available, and what the container may still take, where they say so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            yield max(0, int(limit) - int(used))
    except OSError:
        pass


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
    For a loss with a custom derivative rule, "reverse" replaces "mixed", which is not exact there.
    Has more than 8 parameters because a call describes both a step and a search for the best way to compute it.

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
        NothingFits: the message has the table.
        ValueError: an argument is out of range, or the call stands inside ``jit``.
    """
    if order not in ("time", "operations"):
        raise ValueError(f"order={order!r} is not one of 'time', 'operations'")
    if not strategies:
        raise ValueError("strategies is empty: give at least one")
    if memory_budget is not None and memory_budget <= 0:
        raise ValueError(f"memory_budget={memory_budget} is not a positive number of bytes")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((meta_params, episodes, frozen))):
        raise ValueError("plan compiles and runs programs: call it outside jit, on arrays")
    tasks = check_task_axis(episodes)
    rng = jax.random.key(0) if rng is None else rng
    budget = free_memory() if memory_budget is None else memory_budget
    keywords = {} if frozen is None else {"frozen": frozen}

    def examine(strategy: Strategy) -> Candidate:
        learner = build(**strategy._asdict())
        try:
            compiled = jax.jit(learner.grad).lower(meta_params, episodes, rng, **keywords).compile()
        except CustomRuleError:
            if strategy.gradient != "mixed":
                raise
            return examine(strategy._replace(gradient="reverse"))
        except jax.errors.JaxRuntimeError as error:
            return _out_of_memory(Candidate(strategy, 0, None, None, False, ""), error, report)
        candidate = _counted(strategy, compiled, budget)
        if not candidate.fits or order == "operations":
            return candidate
        return _timed(candidate, lambda: compiled(meta_params, episodes, rng, **keywords), report)

    candidates: list[Candidate] = []
    for strategy in strategies:
        chunks = _chunks(tasks) if strategy.task_chunk is None else [strategy.task_chunk]
        # As many tasks at once as fit; on a CPU one at a time as well.
        for chunk in chunks:
            candidates.append(examine(strategy._replace(task_chunk=chunk)))
            if candidates[-1].fits:
                break
        if jax.default_backend() == "cpu" and 1 in chunks[chunks.index(chunk) + 1 :]:
            candidates.append(examine(strategy._replace(task_chunk=1)))

    fits = [index for index, one in enumerate(candidates) if one.fits]
    if not fits:
        raise NothingFits(
            f"no strategy fits into {budget / MIB:,.0f} MiB:\n{Plan(strategies[0], tuple(candidates), budget)}\n"
            "Raise the budget, or take a smaller model, shorter texts, fewer items or inner_params= with fewer leaves."
        )
    cost = "seconds" if order == "time" else "operations"
    costs = {index: getattr(candidates[index], cost) for index in fits}
    if None in costs.values():
        raise ValueError("the operations of this model's programs cannot be counted: use order='time'")
    best = min(fits, key=costs.__getitem__)
    candidates[best] = candidates[best]._replace(verdict="chosen")
    result = Plan(candidates[best].strategy, tuple(candidates), budget)
    report(str(result))
    return result


def _counted(strategy: Strategy, compiled: Any, budget: int) -> Candidate:
    """What XLA says of a compiled program."""
    memory = compiled.memory_analysis()
    if memory is None:
        raise ValueError(f"the backend '{jax.default_backend()}' does not say how much memory a program needs")
    needed = memory.output_size_in_bytes + memory.temp_size_in_bytes
    try:
        operations = matmul_flops(compiled.as_text() or "")
    except ValueError:
        operations = None
    fits = needed <= budget
    return Candidate(strategy, needed, operations, None, fits, "slower" if fits else "too large")


def _out_of_memory(candidate: Candidate, error: Exception, report: Callable[[str], None]) -> Candidate:
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    report(f"{candidate.strategy}: ran out of memory, although XLA counts {candidate.memory / MIB:,.1f} MiB")
    return candidate._replace(fits=False, verdict="out of memory")


def _timed(candidate: Candidate, run: Callable[[], Any], report: Callable[[str], None]) -> Candidate:
    """Run a candidate a few times; one that the device has no memory for is out of the race."""
    try:
        jax.block_until_ready(run())
        return candidate._replace(seconds=sorted(_seconds(run) for _ in range(3))[1])
    except jax.errors.JaxRuntimeError as error:
        return _out_of_memory(candidate, error, report)


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
