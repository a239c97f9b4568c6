"""Questions to windows of token ids, and spans of tokens back to the characters of the text that they stand in."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewshot_jax.data.loader import bucket
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.squad import Question
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding

NOWHERE, UNJUDGED = 0, -1  # labels of a window without the answer, and of one that says nothing about it


class QuestionWindows(NamedTuple):
    """A question before each part of its context, ``begin question middle part end``.

    Attributes:
        ids: of each window; all have the question's length in common.
        first: position of the first token of the part.
        parts: which tokens of the context stand in each window, ``(from, up to)``.
        offsets: ``[n, 2]``, of each token of the context its characters there, from and up to.
        labels: of each window, the positions of the answer's first and last token; ``NOWHERE`` twice where none of it
            is in the window, ``UNJUDGED`` where some of it is cut off.
        answerable: the question has an answer.
    """

    ids: list[np.ndarray]
    first: int
    parts: list[tuple[int, int]]
    offsets: np.ndarray
    labels: list[tuple[int, int]]
    answerable: bool


def encode_windows(codec: Codec, questions: Sequence[Question]) -> list[QuestionWindows]:
    """The windows of each question, up to ``codec.windows``, ``codec.stride`` tokens of the context apart.

    A question has at most half of the room, the context the rest. The first of several answers is the one to find.

    Raises:
        UserError: a question or a context is too long, and ``codec.refuse``; or the windows have no room.
    """
    return codec.once(questions, lambda new: _encode(codec, new))


def _encode(codec: Codec, questions: Sequence[Question]) -> list[QuestionWindows]:
    asked = codec.tokenizer.encode_batch([one.question for one in questions], add_special_tokens=False)
    texts = codec.tokenizer.encode_batch([one.context for one in questions], add_special_tokens=False)
    return [_windows(codec, *each) for each in zip(questions, asked, texts, strict=True)]


def _windows(codec: Codec, question: Question, asked: "Encoding", text: "Encoding") -> QuestionWindows:
    free = codec.max_length - len(codec.begin) - len(codec.middle) - 1
    if free < 2:
        raise UserError(f"tokenizer.max_length={codec.max_length}: leaves no room for a question and its context")
    ids, most = codec.within(asked.ids), free // 2
    if len(ids) > most:
        _too_long(codec, "question", len(ids), most, question, "tokenizer.max_length")
        ids = ids[:most]
    room = free - len(ids)
    step = min(codec.stride or max(room // 2, 1), room)  # a longer stride would leave out what lies between
    reached = room + step * (codec.windows - 1)
    if len(text.ids) > reached:
        _too_long(codec, "context", len(text.ids), reached, question, "tokenizer.windows or tokenizer.max_length")
    last = -(-max(min(len(text.ids), reached) - room, 0) // step)
    parts = [(begin, min(begin + room, len(text.ids))) for begin in range(0, last * step + 1, step)]
    before, read = [*codec.begin, *ids, *codec.middle], codec.within(text.ids)
    return QuestionWindows(
        ids=[np.array([*before, *read[begin:stop], codec.end], np.int32) for begin, stop in parts],
        first=len(before),
        parts=parts,
        offsets=np.array(text.offsets, np.int32).reshape(-1, 2),
        labels=_labels(codec, question, text.offsets, parts, len(before)),
        answerable=bool(question.answers),
    )


def _labels(
    codec: Codec, question: Question, offsets: list[tuple[int, int]], parts: list[tuple[int, int]], first: int
) -> list[tuple[int, int]]:
    if not question.answers:
        return [(NOWHERE, NOWHERE)] * len(parts)
    text, start = question.answers[0]
    tokens = [i for i, (begin, stop) in enumerate(offsets) if begin < start + len(text) and stop > start]
    if not tokens:  # characters that the tokenizer drops
        return [(UNJUDGED, UNJUDGED)] * len(parts)
    head, tail = tokens[0], tokens[-1]
    if tail - head >= codec.target_max_length:
        _too_long(codec, "answer", tail - head + 1, codec.target_max_length, question, "tokenizer.target_max_length")
        return [(UNJUDGED, UNJUDGED)] * len(parts)  # it is never predicted: nothing would be learned but other spans
    labels = []
    for begin, stop in parts:
        if begin <= head and tail < stop:
            labels.append((first + head - begin, first + tail - begin))
        elif tail < begin or head >= stop:
            labels.append((NOWHERE, NOWHERE))
        else:
            labels.append((UNJUDGED, UNJUDGED))
    return labels


def _too_long(codec: Codec, what: str, length: int, room: int, question: Question, option: str) -> None:
    if codec.refuse:
        raise UserError(
            f"task '{question.article}': {what} of {length} tokens, room for {room}: '{question.question[:60]}'; "
            f"{codec.remedy(option)}, or set tokenizer.too_long to cut"
        )
    codec.cut[what == "answer"] += 1


def window_batch(
    codec: Codec, rows: Sequence[Sequence[QuestionWindows]], items: int, length: int
) -> dict[str, np.ndarray]:
    """The windows of ``T`` tasks as arrays, with ``items`` slots a task and ``W = codec.windows`` a question.

    Returns:
        ``input_ids, attention_mask, context_mask [T, items, W, length]``, the last True at tokens of the context;
        ``start, end [T, items, W]``, see `QuestionWindows`, ``UNJUDGED`` where there is no window; ``answerable`` and
        ``mask [T, items]``, the latter False where a task has no such item.
    """
    shape = (len(rows), items, codec.windows)
    batch = {
        "input_ids": np.full((*shape, length), codec.pad, np.int32),
        "attention_mask": np.zeros((*shape, length), bool),
        "context_mask": np.zeros((*shape, length), bool),
        "start": np.full(shape, UNJUDGED, np.int32),
        "end": np.full(shape, UNJUDGED, np.int32),
        "answerable": np.zeros(shape[:2], bool),
        "mask": np.zeros(shape[:2], bool),
    }
    for t, task in enumerate(rows):
        for i, question in enumerate(task):
            for w, (ids, (begin, stop)) in enumerate(zip(question.ids, question.parts, strict=True)):
                batch["input_ids"][t, i, w, : len(ids)] = ids
                batch["attention_mask"][t, i, w, : len(ids)] = True
                batch["context_mask"][t, i, w, question.first : question.first + stop - begin] = True
                batch["start"][t, i, w], batch["end"][t, i, w] = question.labels[w]
            batch["answerable"][t, i] = question.answerable
            batch["mask"][t, i] = True
    return batch


def window_length(codec: Codec, rows: Sequence[Sequence[QuestionWindows]]) -> int:
    """The bucket of the longest window."""
    longest = max((len(ids) for task in rows for question in task for ids in question.ids), default=1)
    return bucket(longest, codec.buckets)


def span_text(context: str, windows: QuestionWindows, window: int, start: int, end: int) -> str:
    """The part of the context under a span of a window's positions, without white space at its sides; "" at 0."""
    if start == NOWHERE:
        return ""
    token = windows.parts[window][0] - windows.first
    begin, stop = int(windows.offsets[start + token, 0]), int(windows.offsets[end + token, 1])
    while stop < len(context) and unicodedata.combining(context[stop]):  # an accent that the tokenizer strips
        stop += 1
    return context[begin:stop].strip()
