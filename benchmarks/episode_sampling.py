"""How fast episodes are drawn and gathered from tokenized texts in memory.

    python benchmarks/episode_sampling.py --output benchmarks/results/episode_sampling.json

The texts are synthetic, as many and as long as those of CLINC150 (150 classes of 150 texts, 24 tokens at most).
"drawn" is the sampler alone, "gathered" adds token ids, masks and padding, "n-grams" adds 4,096 dense columns a text,
and "augmented" changes the tokens as configs/clinc150.yaml does. One thread. An example is a support or query text.
"""

import argparse
from collections.abc import Callable

import numpy as np
from common import arguments, interleaved, table, write

from fewshot_jax.data.episodes import EpisodeSampler, EpisodeSize
from fewshot_jax.data.loader import EncodedTexts, augment, by_frequency, text_episodes
from fewshot_jax.types import Episode

CLASSES, PER_CLASS, LENGTH, VOCABULARY, SPECIAL = 150, 150, 24, 4096, 5
BUCKETS = (16, 24)
SHAPES = ((5, 1, 10), (5, 5, 10), (10, 3, 4))  # ways, shots, queries


def texts(ngram_width: int = 0) -> EncodedTexts:
    """Random texts; each has the n-grams of about 12 words."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    count = CLASSES * PER_CLASS
    lengths = rng.integers(4, LENGTH + 1, count).astype(np.int32)
    # words of Zipf's frequencies, as a vocabulary of real texts has
    ids = SPECIAL + (rng.zipf(1.3, (count, LENGTH)) - 1) % (VOCABULARY - SPECIAL)
    ids = np.where(np.arange(LENGTH) < lengths[:, None], ids, 0).astype(np.int32)
    if not ngram_width:
        return EncodedTexts(ids, lengths)
    columns = rng.integers(0, ngram_width, (count, 24))
    rows = np.repeat(np.arange(count), columns.shape[1])
    ngrams = sparse.csr_matrix((np.ones(rows.size, np.float32), (rows, columns.reshape(-1))), (count, ngram_width))
    return EncodedTexts(ids, lengths, ngrams)


def steps(batch: Callable[[int], object], number: int) -> Callable[[], None]:
    """A call that makes some meta-batches, new ones each time."""
    at = iter(range(10**9))

    def call() -> None:
        for _ in range(number):
            batch(next(at))

    return call


def measure(options: argparse.Namespace) -> list[dict]:
    """A row for each shape of the episodes and each thing done."""
    plain, ngrams = texts(), texts(4096)
    vocabulary = by_frequency(plain, special=SPECIAL)

    def change(episode: Episode, rng: np.random.Generator) -> None:
        augment(episode, rng=rng, vocabulary=vocabulary, token_dropout=0.1, token_remap=0.8, mask_id=4)

    label = np.repeat(np.arange(CLASSES, dtype=np.int32), PER_CLASS)
    results = []
    for ways, shots, queries in SHAPES[: 1 if options.quick else None]:
        sampler = EpisodeSampler(label, EpisodeSize(ways=ways, shots=shots, queries=queries))
        same = {"sampler": sampler, "tasks": options.tasks, "buckets": BUCKETS}
        batches = {
            "drawn": lambda step, sampler=sampler: sampler.batch(step, options.tasks),
            "gathered": lambda step, same=same: text_episodes(plain, step=step, **same),
            "n-grams": lambda step, same=same: text_episodes(ngrams, step=step, **same),
            "augmented": lambda step, same=same: text_episodes(plain, step=step, change=change, **same),
        }
        seconds = interleaved({name: steps(batch, options.steps) for name, batch in batches.items()}, options.repeats)
        for name, taken in seconds.items():
            rate = options.steps * options.tasks / taken
            sizes = {"ways": ways, "shots": shots, "queries": queries, "done": name}
            results.append(
                {**sizes, "episodes_per_second": rate, "examples_per_second": rate * ways * (shots + queries)}
            )
    return results


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "episode_sampling")
    parser.add_argument("--tasks", type=int, default=20, help="episodes in a meta-batch")
    parser.add_argument("--steps", type=int, default=50, help="meta-batches in a timed call")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.steps, options.repeats = 2, 2, 1
    results = measure(options)
    head = ("ways", "shots", "queries", "done", "episodes / s", "examples / s")
    print(table(head, [[round(value) if isinstance(value, float) else value for value in r.values()] for r in results]))
    write(options.output, options, results)


if __name__ == "__main__":
    main()
