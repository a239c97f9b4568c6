"""Few-shot question answering by an encoder: the answer is a span of the context, whose two ends the model points to.

A context that is longer than the model reads is cut into windows that overlap; see `applications.spans`.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.question_answering import NO_ANSWER, QuestionAnswering
from fewshot_jax.applications.spans import NATS
from fewshot_jax.applications.text_to_text import EXACT
from fewshot_jax.data.examples import Example
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.spans import encode_windows, span_text, window_batch, window_length
from fewshot_jax.data.squad import Answer, Question
from fewshot_jax.data.tasks import Drawn, World
from fewshot_jax.data.worlds.readings import reading_task
from fewshot_jax.errors import UserError
from fewshot_jax.types import Episode

BETWEEN = "\n"  # a source is its question, this, and its context as it stands


def source_of(question: str, context: str) -> str:
    """A question and its context as one source, which `question_of` takes apart."""
    return f"{' '.join(question.split())}{BETWEEN}{context}"


def question_of(example: Example) -> Question:
    """The question of an example, with the place of its answer.

    Raises:
        UserError: the source has no context, or the answer does not stand in it.
    """
    question, between, context = example.source.partition(BETWEEN)
    if not between:
        raise UserError(
            f"task '{example.task}': '{example.source[:60]}' has no context; write the question, a line break and the "
            "text that answers it"
        )
    start = example.start
    if start is None and example.target not in ("", NO_ANSWER) and (start := context.find(example.target)) < 0:
        raise UserError(
            f"task '{example.task}': the answer '{example.target[:60]}' to '{question[:60]}' does not occur in its "
            f"context; copy it as it stands there, or write '{NO_ANSWER}'"
        )
    answers = () if start is None else (Answer(example.target, start),)
    return Question(context, question, answers, example.task, "")


def reading_spans(
    rng: np.random.Generator, shots: int, queries: int, unseen: bool = False
) -> tuple[list[Example], list[Example]]:
    """`reading_task`, whose texts stand apart from their questions."""
    support, query = (
        [example._replace(source=source_of(*_apart(example.source))) for example in part]
        for part in reading_task(rng, shots, queries, unseen)
    )
    return support, query


def _apart(source: str) -> tuple[str, str]:
    question, mark, text = source.partition(" ? ")
    return question + mark, text


class SpanQuestionAnswering(QuestionAnswering):
    """Question answering with ``model.architecture: encoder``."""

    score: ClassVar[Score] = NATS
    scores: ClassVar[tuple[Score, ...]] = (NATS, EXACT)
    world: ClassVar[World] = staticmethod(reading_spans)

    too_long: ClassVar[tuple[tuple[str, str], ...]] = (
        ("questions or contexts are too long and were cut", "tokenizer.max_length or tokenizer.windows"),
        ("answers are too long and are not learned from", "tokenizer.target_max_length"),
    )

    @classmethod
    def asked(cls, question: Question) -> Example:
        start = question.answers[0].start if question.answers else None
        return super().asked(question)._replace(start=start)

    @classmethod
    def source_of(cls, question: str, context: str) -> str:
        return source_of(question, context)

    @classmethod
    def episodes_of(cls, tasks: Sequence[Drawn], codec: Codec, shots: int, queries: int) -> Episode:
        encoded = [[encode_windows(codec, list(map(question_of, part))) for part in task] for task in tasks]
        length = window_length(codec, [part for task in encoded for part in task])
        support, query = (
            window_batch(codec, [task[side] for task in encoded], items, length)
            for side, items in ((0, shots), (1, queries))
        )
        return Episode(support, query)

    @classmethod
    def encode(cls, examples: Sequence[Example], codec: Codec) -> None:
        encode_windows(codec, list(map(question_of, examples)))

    @classmethod
    def batch_to_write(cls, sources: Sequence[str], codec: Codec, items: int) -> dict[str, np.ndarray]:
        rows = [encode_windows(codec, [question_of(Example(source, "")) for source in sources])]
        return {name: leaf[0] for name, leaf in window_batch(codec, rows, items, window_length(codec, rows)).items()}

    @classmethod
    def texts_of(cls, ids: np.ndarray, sources: Sequence[str], codec: Codec) -> list[str]:
        questions = [question_of(Example(source, "")) for source in sources]
        encoded = encode_windows(dataclasses.replace(codec, known=None), questions)  # without answers: others
        return [
            span_text(question.context, windows, *row) or NO_ANSWER
            for question, windows, row in zip(questions, encoded, np.asarray(ids).tolist(), strict=True)
        ]
