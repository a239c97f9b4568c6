"""Batches of windows by grain: shuffled anew in every epoch, a pure function of seed and step."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_jax.data.pretraining.masking import TokenBatch
from fewshot_jax.data.pretraining.packing import Windows

if TYPE_CHECKING:
    import grain

# ``(windows [B, L] as rows, rng) -> batch``; picklable where workers are processes.
Ask = Callable[[TokenBatch, np.random.Generator], TokenBatch]
_AHEAD = 16  # batches prepared before they are wanted


def training_batches(windows: Windows, ask: Ask, *, sequences: int, seed: int) -> "grain.MapDataset":
    """An endless random-access data set: element ``i`` is the batch of step ``i``, whatever was read before.

    Args:
        windows: of the training documents.
        ask: what is asked about a batch; its generator is another one at every step.
        sequences: windows in a batch, ``B``; a batch may take from two epochs.
        seed: of order and `ask`, 0 to ``2**32 - 1``.
    """
    import grain

    order = grain.MapDataset.range(len(windows.tokens)).seed(seed).shuffle().repeat()
    index = order.batch(sequences, batch_fn=np.asarray)
    return index.map(windows.rows).random_map(ask)


def read_ahead(batches: "grain.MapDataset", steps: range, *, workers: int = 0) -> Generator[TokenBatch, None, None]:
    """Yield the batches of some steps, prepared ahead by threads or processes.

    Args:
        batches: from `training_batches`.
        steps: a range of step 1.
        workers: processes; 0 for threads of this one.
    """
    import grain

    if not len(steps):
        return
    wanted = batches.slice(slice(steps.start, steps.stop))
    if workers == 0:
        yield from wanted.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=_AHEAD))
        return
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain's workers ask for its flags
        flags.FLAGS.mark_as_parsed()
    rows = wanted.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    ahead = max(2, _AHEAD // workers)
    yield from rows.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead))


def held_out_batches(windows: Windows, ask: Ask, *, sequences: int, batches: int, seed: int) -> list[TokenBatch]:
    """The batches of a validation, the same at every call; the last one is filled up with windows of weight zero.

    Args:
        windows: of the held-out documents.
        ask: as in `training_batches`.
        sequences: windows in a batch.
        batches: at most so many, of windows drawn without replacement.
        seed: of the draw and of `ask`.
    """
    rng = np.random.default_rng((seed, 1))
    drawn = np.sort(rng.permutation(len(windows.tokens))[: batches * sequences])
    made = []
    for number, start in enumerate(range(0, len(drawn), sequences)):
        index = drawn[start : start + sequences]
        rows = windows.rows(np.resize(index, sequences))
        batch: dict[str, Any] = ask(rows, np.random.default_rng((seed, 2, number)))
        batch["weight"] = batch["weight"] & (np.arange(sequences) < len(index))[:, None]
        made.append(batch)
    return made
