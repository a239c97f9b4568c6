"""Few-shot question answering: a task is a domain, an article or a language; answers are written.

Where ``model.architecture`` is an encoder they are spans of the text: see `span_question_answering`.

The question stands before its text, so that a text that is too long loses its end and never the question.
"""

from pathlib import Path
from typing import Any, ClassVar

from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.applications.writing import Writing
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.fields import string
from fewshot_jax.data.files import Problems, read_rows, suffix_of
from fewshot_jax.data.squad import Question, read_questions, read_squad
from fewshot_jax.data.tasks import World
from fewshot_jax.data.validate import FileFormat, Item
from fewshot_jax.data.worlds import WORLDS

NO_ANSWER = "no answer"  # what is written where the text has none


def _items(path: Path, text: str, label: str, problems: Problems | None) -> list[Item]:
    del text, label
    items = []
    for asked in read_questions(path, problems=problems):
        answer = asked.answers[0].text if asked.answers else ""
        items.append(Item({"question": asked.question, "context": asked.context, "answer": answer}, asked.article))
    return items


class QuestionAnswering(Writing):
    """The application of one run; its files hold questions about texts."""

    world: ClassVar[World] = staticmethod(WORLDS["question_answering"])
    file_format: ClassVar[FileFormat | None] = FileFormat(_items)
    text_scores: ClassVar[tuple[str, ...]] = ("SQuAD exact match", "SQuAD F1")

    @classmethod
    def read(cls, config: Config, path: Path, model: TextModel | None) -> list[Example]:
        del model
        return [cls.asked(question) for question in read_questions(path, task=config.data.task_field)]

    @classmethod
    def sources(cls, config: Config, path: Path, model: TextModel) -> tuple[list[dict[str, Any]], list[str]]:
        del config, model
        if suffix_of(path) == ".json":
            questions = read_squad(path, answered=False)
            rows = [{"id": one.id, "question": one.question, "context": one.context} for one in questions]
            return rows, [cls.source_of(one.question, one.context) for one in questions]
        numbered = list(read_rows(path, {"question": "question", "context": "context"}))
        texts = [
            cls.source_of(*(string(f"{path}, line {line}", field, row[field]) for field in ("question", "context")))
            for line, row in numbered
        ]
        return [row for _, row in numbered], texts

    @classmethod
    def asked(cls, question: Question) -> Example:
        """A question as a text to read, and its first answer as the text to write."""
        answers = tuple(dict.fromkeys(answer.text for answer in question.answers))
        return Example(
            source=cls.source_of(question.question, question.context),
            target=answers[0] if answers else NO_ANSWER,
            task=question.article,
            answers=answers or (NO_ANSWER,),
            key=question.context,
        )

    @classmethod
    def source_of(cls, question: str, context: str) -> str:
        """What is read of a question and its text."""
        return f"{question} {context}"
