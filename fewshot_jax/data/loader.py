"""Encoded texts to meta-batches of fixed shapes, prepared ahead on a thread."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import numpy as np

from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.ngrams import hashed_ngrams
from fewshot_jax.data.tokenization import encode
from fewshot_jax.types import Episode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Prepared = TypeVar("Prepared")


class EncodedTexts(NamedTuple):
    """Token ids ``[n, L]`` int32, padded with 0, their lengths ``[n]`` in tokens, hashed n-grams ``[n, G]`` or None."""

    input_ids: np.ndarray
    lengths: np.ndarray
    ngrams: Any = None  # a scipy sparse matrix


def encode_texts(
    tokenizer: "Tokenizer", texts: Sequence[str], *, max_length: int, ngram_width: int = 0
) -> EncodedTexts:
    """Encode texts, cut to ``max_length`` tokens, and hash their n-grams to ``ngram_width`` columns (0: do not)."""
    ngrams = hashed_ngrams(texts, ngram_width) if ngram_width else None
    return EncodedTexts(*encode(tokenizer, texts, max_length=max_length), ngrams)


def bucket(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``length`` tokens; the largest if none does."""
    return next((size for size in sorted(buckets) if size >= length), max(buckets))


def text_batch(encoded: EncodedTexts, index: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """``input_ids, attention_mask [..., length]`` of some items, and ``ngrams [..., G]`` if the texts have them."""
    ids = encoded.input_ids[index][..., :length]
    ids = np.pad(ids, [(0, 0)] * (ids.ndim - 1) + [(0, length - ids.shape[-1])])
    batch = {"input_ids": ids, "attention_mask": np.arange(length) < encoded.lengths[index][..., None]}
    if encoded.ngrams is not None:
        batch["ngrams"] = encoded.ngrams[index.reshape(-1)].toarray().reshape(*index.shape, -1)
    return batch


def by_frequency(encoded: EncodedTexts, *, special: int) -> np.ndarray:
    """The token ids that occur in some texts, most frequent first, without those below ``special``."""
    counts = np.bincount(encoded.input_ids.reshape(-1))
    order = np.argsort(-counts, kind="stable")
    return order[(order >= special) & (counts[order] > 0)].astype(np.int32)


def augment(
    episode: Episode,
    *,
    rng: np.random.Generator,
    vocabulary: np.ndarray,
    token_dropout: float,
    token_remap: float,
    mask_id: int,
    ngram_dropout: float = 0.0,
) -> None:
    """Change the features of one task in place, the same way for support and query.

    Remapping makes words trade places with words of similar frequency, once for
    the whole episode. They lose the meaning they have elsewhere but not their
    identity, like the unseen words of a new task, and a rare word stays rare.

    Args:
        episode: one task's batches with ``input_ids, attention_mask [B, L]``.
        rng: consumed.
        vocabulary: the ids that may change, most frequent first.
        token_dropout: share of the tokens to replace by ``mask_id``.
        token_remap: share of the vocabulary that trades places.
        mask_id: the id to replace with.
        ngram_dropout: share of the n-gram columns to set to zero for the whole episode.
    """
    neighbours = 64  # words that trade places stand within so many ranks, among those that move
    ids = np.arange(1 + max(int(array.max(initial=0)) for array in (vocabulary, *(b["input_ids"] for b in episode))))
    moved = vocabulary[rng.random(len(vocabulary)) < token_remap]
    for start in range(0, len(moved), neighbours):
        block = moved[start : start + neighbours]
        ids[block] = rng.permutation(block)
    for batch in episode:
        real = np.isin(batch["input_ids"], vocabulary)
        batch["input_ids"][...] = ids[batch["input_ids"]]
        batch["input_ids"][real & (rng.random(real.shape) < token_dropout)] = mask_id
    if ngram_dropout and "ngrams" in episode.support:
        dropped = rng.random(episode.support["ngrams"].shape[-1]) < ngram_dropout
        for batch in episode:
            batch["ngrams"][..., dropped] = 0


def text_episodes(
    encoded: EncodedTexts,
    sampler: EpisodeSampler,
    *,
    step: int,
    tasks: int,
    buckets: Sequence[int],
    offset: int = 0,
    class_id: np.ndarray | None = None,
    change: Callable[[Episode, np.random.Generator], None] | None = None,
) -> Episode:
    """The meta-batch of a step, padded to the bucket of its longest text.

    Args:
        encoded: the texts the sampler's positions refer to.
        sampler: draws the tasks.
        step: which meta-batch.
        tasks: number of tasks ``T``.
        buckets: allowed lengths in tokens; each costs one compilation.
        offset: global index of the first task.
        class_id: ``[n]`` classes of the texts, to be added as a field; None not to.
        change: ``(one task's episode, rng) -> None``, an augmentation in place.

    Returns:
        `Episode` of batches ``input_ids, attention_mask [T, B, L]``, ``label, mask [T, B]``,
        ``ngrams [T, B, G]`` if the texts have them, and ``class_id [T, B]`` if it is given.
    """
    drawn = sampler.batch(step, tasks, offset=offset)
    longest = max(int(encoded.lengths[items.position].max()) for items in drawn)
    length = bucket(longest, buckets)
    episodes = Episode(
        *({**text_batch(encoded, items.position, length), "label": items.label, "mask": items.mask} for items in drawn)
    )
    if class_id is not None:
        for batch, items in zip(episodes, drawn, strict=True):
            batch["class_id"] = class_id[items.position]
    if change is not None:
        for task in range(tasks):
            rng = np.random.default_rng((sampler.seed, step, offset + task, 1))
            change(jax.tree.map(lambda leaf, task=task: leaf[task], episodes), rng)
    return episodes


def prefetch(make: Callable[[int], Prepared], steps: range, *, depth: int = 2) -> Generator[Prepared, None, None]:
    """Yield ``make(step)`` for each step in order, made ahead on one thread by grain.

    The thread ends after the last step, when `make` raises, or after `close`, which does not wait for a call of `make`
    that is under way.

    Args:
        make: of a step; never returns None, which grain drops. What it raises is raised here, at its step.
        steps: a range of step 1.
        depth: results made ahead of the one in use.
    """
    import grain

    if not len(steps):
        return
    made = grain.MapDataset.range(steps.start, steps.stop).map(make)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=depth)
    with contextlib.closing(iter(made.to_iter_dataset(options))) as ahead:
        yield from ahead
