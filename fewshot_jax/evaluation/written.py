"""Written texts against those that were wanted, and the baselines that write without a model."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.data.dialogues import MARKERS
from fewshot_jax.data.examples import Example
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.evaluation.text_metrics import bleu, chrf, distinct_n, exact_match, f1, slot_recall

DISTINCT = "distinct-2"  # has no better or worse: a model that rambles has most
COPY, MAJORITY, NEAREST = "copy of the source", "most frequent target", "target of the nearest source"
# What the texts of one episode score: ``(texts, examples) -> value``, NaN where there is nothing to score.
TextScore = Callable[[Sequence[str], Sequence[Example]], float]


def _mean_of(measure: Callable[[str, Sequence[str]], float]) -> TextScore:
    """Average a measure of a text and its accepted answers."""

    def score(texts: Sequence[str], examples: Sequence[Example]) -> float:
        return float(np.mean([measure(text, one.answers or (one.target,)) for text, one in _pairs(texts, examples)]))

    return score


def _pairs(texts: Sequence[str], examples: Sequence[Example]) -> list[tuple[str, Example]]:
    return list(zip(texts, examples, strict=True))


def _share_of(measure: Callable[[Sequence[str], Sequence[str]], float]) -> TextScore:
    """Make a share of a measure in percent of texts and targets together."""
    return lambda texts, examples: measure(texts, [example.target for example in examples]) / 100


def _slots(texts: Sequence[str], examples: Sequence[Example]) -> float:
    recalls = [slot_recall(text, example.values) for text, example in _pairs(texts, examples)]
    known = [recall for recall in recalls if recall is not None]
    return float(np.mean(known)) if known else np.nan


# By the name in tables; an application names those of its texts. All are shares.
TEXT_SCORES: dict[str, TextScore] = {
    "SQuAD exact match": _mean_of(exact_match),
    "SQuAD F1": _mean_of(f1),
    "BLEU": _share_of(bleu),
    "chrF": _share_of(chrf),
    DISTINCT: lambda texts, examples: distinct_n(texts, 2),
    "slot recall": _slots,
}


def scores_of_texts(names: Sequence[str]) -> tuple[Score, ...]:
    """Return the scores of written texts, by their names; they are computed on the host."""
    return tuple(Score(name, lambda outputs, episode: outputs) for name in names)


def judge_written(
    names: Sequence[str], texts: Sequence[Sequence[str]], tasks: Sequence[Drawn]
) -> dict[str, np.ndarray]:
    """Score the texts written for each episode's queries: values ``[episodes]`` by name.

    BLEU and chrF are of an episode's queries together. NaN where an episode has nothing to score.

    Args:
        names: of the scores, in `TEXT_SCORES`.
        texts: of each episode.
        tasks: the episodes.
    """
    pairs = list(zip(texts, (task.query for task in tasks), strict=True))
    return {name: np.array([TEXT_SCORES[name](*pair) for pair in pairs], np.float64) for name in names}


def written_baselines(tasks: Sequence[Drawn]) -> dict[str, list[list[str]]]:
    """Write for each episode's queries without a model.

    The source itself; the support set's commonest target; the target of the support source that shares most words
    with the query's (the largest share of both, Jaccard).
    """
    common = [Counter(example.target for example in task.support).most_common(1)[0][0] for task in tasks]
    return {
        COPY: [[copied(example.source) for example in task.query] for task in tasks],
        MAJORITY: [[target] * len(task.query) for target, task in zip(common, tasks, strict=True)],
        NEAREST: [[_nearest(example.source, task.support) for example in task.query] for task in tasks],
    }


def copied(source: str) -> str:
    """A source as the text to write; of a dialogue its last turn."""
    for marker in MARKERS.values():
        source = source.rpartition(f"{marker} ")[2]
    return source


def _nearest(source: str, support: Sequence[Example]) -> str:
    words = set(source.split())

    def shared(example: Example) -> float:
        others = set(example.source.split())
        return len(words & others) / len(words | others)

    return max(support, key=shared).target
