"""Written texts against those that were wanted, and the floors that write without a model."""

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
# What one episode's texts score: ``(texts, examples) -> values``, in the order of the scores beside it.
Judge = Callable[[Sequence[str], Sequence[Example]], Sequence[float]]


def _score(name: str) -> Score:
    return Score(name, lambda outputs, episode: outputs)  # computed on the host


def _wanted(example: Example) -> tuple[str, ...]:
    return example.answers or (example.target,)


def _answers(texts: Sequence[str], examples: Sequence[Example]) -> Sequence[float]:
    pairs = list(zip(texts, map(_wanted, examples), strict=True))
    return [float(np.mean([measure(text, wanted) for text, wanted in pairs])) for measure in (exact_match, f1)]


def _translations(texts: Sequence[str], examples: Sequence[Example]) -> Sequence[float]:
    wanted = [example.target for example in examples]
    return [bleu(texts, wanted) / 100, chrf(texts, wanted) / 100]


def _replies(texts: Sequence[str], examples: Sequence[Example]) -> Sequence[float]:
    recalls = [slot_recall(text, example.values) for text, example in zip(texts, examples, strict=True)]
    known = [recall for recall in recalls if recall is not None]
    return [
        bleu(texts, [example.target for example in examples]) / 100,
        distinct_n(texts, 2),
        float(np.mean(known)) if known else np.nan,
    ]


# For each application that writes: the names of its scores, all of them shares, and what computes them.
JUDGES: dict[str, tuple[tuple[Score, ...], Judge]] = {
    "question_answering": ((_score("SQuAD exact match"), _score("SQuAD F1")), _answers),
    "translation": ((_score("BLEU"), _score("chrF")), _translations),
    "dialogue": ((_score("BLEU"), _score(DISTINCT), _score("slot recall")), _replies),
}


def judge_written(application: str, texts: Sequence[Sequence[str]], tasks: Sequence[Drawn]) -> dict[str, np.ndarray]:
    """Scores ``[episodes]`` of the texts written for each episode's queries, by name.

    BLEU and chrF are of an episode's queries together. NaN where an episode has nothing to score.
    """
    scores, judge = JUDGES[application]
    values = np.array([judge(written, task.query) for written, task in zip(texts, tasks, strict=True)], np.float64)
    return {score.name: values[:, column] for column, score in enumerate(scores)}


def written_floors(tasks: Sequence[Drawn]) -> dict[str, list[list[str]]]:
    """What is written for each episode's queries without a model.

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
