"""Questions about a text whose answers stand in it: SQuAD's JSON, and flat rows.

Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP 2016;
Rajpurkar, Jia and Liang, Know What You Don't Know (v2, unanswerable questions), ACL 2018.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from fewshot_jax import strict_json
from fewshot_jax.data.fields import check_field_names, kind, name, objects, required, string, task_of
from fewshot_jax.data.files import Problems, each, note, read_rows, read_text, suffix_of
from fewshot_jax.data.names import normal_name
from fewshot_jax.errors import UserError

# Where the name of a field can be given.


class Answer(NamedTuple):
    """An answer that stands in the context.

    Attributes:
        text: the answer, as it stands there.
        start: its place, in characters (code points) from the beginning of the context.
    """

    text: str
    start: int


class Question(NamedTuple):
    """A question about a text.

    Attributes:
        context: the text, as it stands in the file: answers count its characters.
        question: the question, stripped.
        answers: all accepted answers; empty where the text does not answer the question.
        article: the title of the article, or the name of the task.
        id: its name, which no other question of the file has.
    """

    context: str
    question: str
    answers: tuple[Answer, ...]
    article: str
    id: str


def read_questions(
    path: str | PurePath,
    *,
    question: str = "question",
    context: str = "context",
    answer: str | None = None,
    task: str = "task",
    problems: Problems | None = None,
) -> list[Question]:
    """Read questions from SQuAD's `.json`, or from flat rows of `.jsonl`, `.csv` or `.tsv` (or a `.gz` of one).

    Flat rows hold a question, its context and its answer. An answer is a string that
    occurs in the context (its first occurrence counts), an object ``{"text": "...",
    "answer_start": 0}``, or a list of either; ``{"text": [...], "answer_start": [...]}``,
    as Hugging Face datasets write SQuAD, is read too. An empty list stands for no answer.
    A row may have an `id`; the others are called by their line.

    Args:
        path: the file.
        question: the field (JSONL) or column (CSV, TSV) of the question; SQuAD's JSON has names of its own.
        context: that of the context.
        answer: that of the answer or answers; without it `answers`, or else `answer`.
        task: that of the task, which becomes the article; where a row has none, it is the file's name.
        problems: gets what is wrong with single questions; None to raise the first.

    Returns:
        The questions in the order of the file; at least one.

    Raises:
        UserError: the file, or a question of it, cannot be read, or an answer is not in its context.
    """
    path = Path(path).expanduser()
    if suffix_of(path) == ".json":
        return read_squad(path, problems=problems)

    def asked(line: int, row: dict[str, Any]) -> Question:
        place = f"{path}, line {line}"
        field = answer or ("answers" if "answers" in row else "answer")
        check_field_names(place, "field", row, {field: field})
        string(place, context, row[context])
        return Question(
            row[context],
            string(place, question, row[question]),
            _flat_answers(place, field, row[field], row[context]),
            task_of(place, row, task, path),
            name(place, "id", row["id"]) if "id" in row else f"line {line}",
        )

    questions = each(read_rows(path, {question: question, context: context}, problems=problems), asked, problems)
    _check_ids(path, questions, problems)
    return questions


def read_squad(path: str | PurePath, *, answered: bool = True, problems: Problems | None = None) -> list[Question]:
    """Read questions from SQuAD's JSON (v1.1 or v2), or a `.gz` of it.

    ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
    [{"text", "answer_start"}]}]}]}]}``; v2 marks questions without answers by
    ``is_impossible``, and its ``plausible_answers`` are left out. An article without a
    title is called by its number.

    Args:
        path: the file.
        answered: questions have answers; False to read none.
        problems: gets what is wrong with single questions; None to raise the first.

    Returns:
        The questions in the order of the file; at least one.

    Raises:
        UserError: the file, or a question of it, cannot be read, or an answer is not where it should be.
    """
    path = Path(path).expanduser()
    questions = []
    content = read_json(path)
    for number, article in enumerate(objects(str(path), "data", required(str(path), content, "data")), start=1):
        place = f"{path}, article {number}"
        given = article.get("title")
        title = normal_name(name(place, "title", given, "article")) if given else f"article {number}"
        place = f"{path}, article '{title}'"
        paragraphs = objects(place, "paragraphs", required(place, article, "paragraphs"))
        for position, paragraph in enumerate(paragraphs, start=1):
            questions += _questions(path, f"{place}, paragraph {position}", title, paragraph, answered, problems)
    if not questions and not problems:
        raise UserError(f"{path}: no questions ('qas') in its articles. Give it at least one.")
    _check_ids(path, questions, problems)
    return questions


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file."""
    try:
        content = strict_json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(
            f"{path}{place}: broken JSON{column} ({getattr(error, 'msg', error)}). Write one object "
            '{"data": [...]} in the file; one object per line belongs in a .jsonl file.'
        ) from None
    if not isinstance(content, dict):
        raise UserError(f'{path}: {kind(content)} where an object is needed. Write {{"data": [...]}}.')
    return content


def _questions(
    path: Path, place: str, title: str, paragraph: Mapping[str, Any], answered: bool, problems: Problems | None
) -> list[Question]:
    """Return the questions of one paragraph; ``place`` names it."""
    context = required(place, paragraph, "context")
    string(place, "context", context, "paragraph")

    def asked(position: int, entry: Mapping[str, Any]) -> Question:
        numbered = f"{place}, question {position}"
        identity = name(numbered, "id", required(numbered, entry, "id"), "question")
        where = f"{path}, article '{title}', question '{identity}'"
        text = string(where, "question", required(where, entry, "question"), "question")
        if not answered:
            return Question(context, text, (), title, identity)
        answers = objects(where, "answers", required(where, entry, "answers"))
        if (impossible := entry.get("is_impossible")) is not None and bool(impossible) == bool(answers):
            raise UserError(
                f"{where}: 'is_impossible' is {str(bool(impossible)).lower()} but there are {len(answers)} 'answers'. "
                "Correct one of the two; answers that only seem right belong in 'plausible_answers'."
            )
        return Question(context, text, tuple(_answer(where, context, found) for found in answers), title, identity)

    return each(enumerate(objects(place, "qas", required(place, paragraph, "qas")), start=1), asked, problems)


def _flat_answers(place: str, field: str, value: object, context: str) -> tuple[Answer, ...]:
    """Return the answers of a flat row; see `read_questions` for what is accepted."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        texts, starts = value["text"], required(place, value, "answer_start")
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise UserError(
                f"{place}: '{field}' needs as many 'answer_start' as 'text' ({len(texts)}). Correct the lists."
            )
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    entries: list[Any] = value if isinstance(value, list) else [value]
    if all(isinstance(entry, dict) for entry in entries):
        return tuple(_answer(place, context, entry) for entry in entries)
    texts = [string(place, field, text) for text in entries]
    return tuple(_checked(place, context, Answer(text, context.find(text))) for text in texts)


def _answer(place: str, context: str, entry: Mapping[str, Any]) -> Answer:
    """Return a checked answer with a start of its own."""
    text, start = required(place, entry, "text"), required(place, entry, "answer_start")
    string(place, "text", text, "answer")
    if type(start) is not int:
        raise UserError(
            f"{place}: 'answer_start' is {kind(start)} where a whole number is needed. Count characters from 0."
        )
    return _checked(place, context, Answer(text, start))


def _checked(place: str, context: str, answer: Answer) -> Answer:
    """Return the answer; raises unless it stands in the context at its start."""
    text, start = answer
    if start >= 0 and context.startswith(text, start):
        return answer
    if (first := context.find(text)) < 0:
        raise UserError(
            f"{place}: the answer '{_short(text)}' does not occur in the context. Copy it as it stands there, "
            "letter by letter."
        )
    found, others = _short(context[max(start, 0) :][: len(text)]), [first]
    while (first := context.find(text, first + 1)) >= 0:
        others.append(first)
    raise UserError(
        f"{place}: the answer '{_short(text)}' does not stand at its 'answer_start' {start}, where the context has "
        f"'{found}'. It occurs at {', '.join(map(str, others[:5]))}: correct 'answer_start', which counts characters "
        "(not bytes) from 0."
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_ids(path: Path, questions: list[Question], problems: Problems | None) -> None:
    """Raise if two questions have one id."""
    seen: dict[str, Question] = {}
    for question in questions:
        if (first := seen.setdefault(question.id, question)) is not question:
            taken = UserError(
                f"{path}, question '{question.id}': the 'id' is taken twice, in article '{first.article}' and in "
                f"article '{question.article}'. Give every question an 'id' of its own."
            )
            note(problems, taken)
