"""Few-shot dialogue: a task is a service or a persona; the reply to what was said is written."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.applications.text_to_text import EXACT, NATS
from fewshot_jax.applications.writing import Writing
from fewshot_jax.config import Config
from fewshot_jax.data.dialogues import ASSISTANT, Turn, marked, read_dialogues, replies
from fewshot_jax.data.examples import Example
from fewshot_jax.data.files import Problems, read_rows
from fewshot_jax.data.tasks import World
from fewshot_jax.data.validate import FileFormat, Item
from fewshot_jax.data.worlds import WORLDS
from fewshot_jax.errors import UserError


def _items(path: Path, text: str, label: str, problems: Problems | None) -> list[Item]:
    del text, label
    examples = replies(read_dialogues(path, problems=problems))
    return [Item({"before": e.source, "reply": e.target}, e.task) for e in examples]


class Dialogue(Writing):
    """The application of one run; its files hold dialogues, of which each reply is an example.

    What was said before is read with speaker tokens, or by the chat template of a pretrained model that has one;
    of what is too long, the end is kept.
    """

    world: ClassVar[World] = staticmethod(WORLDS["dialogue"])
    score: ClassVar[Score] = NATS._replace(exponential="perplexity")
    scores: ClassVar[tuple[Score, ...]] = (score, EXACT)
    file_format: ClassVar[FileFormat | None] = FileFormat(
        _items, empty="no turn of the assistant answers another. Give dialogues of two turns at least."
    )
    text_scores: ClassVar[tuple[str, ...]] = ("BLEU", "distinct-2", "slot recall")
    apart: ClassVar[bool] = True  # of one dialogue, a later turn tells the reply to an earlier one

    @classmethod
    def read(cls, config: Config, path: Path, model: TextModel | None) -> list[Example]:
        dialogues = read_dialogues(path, task=config.data.task_field)
        examples = replies(dialogues, history=config.data.history, render=functools.partial(_read, model))
        if not examples:
            raise UserError(f"{path}: no turn of the assistant answers another; give dialogues of two turns at least")
        return examples

    @classmethod
    def sources(cls, config: Config, path: Path, model: TextModel) -> tuple[list[dict[str, Any]], list[str]]:
        rows = [row for _, row in read_rows(path, {"turns": "turns"})]
        turns = [dialogue.turns for dialogue in read_dialogues(path)]
        if own := [number for number, said in enumerate(turns, start=1) if said[-1].speaker == ASSISTANT]:
            raise UserError(f"{path}: dialogue {own[0]} ends with the assistant: there is nothing to reply to")
        return rows, [_read(model, said[-(config.data.history or len(said)) :]) for said in turns]


def _read(model: TextModel | None, turns: Sequence[Turn]) -> str:
    """What was said, as the model reads it."""
    if model is None or model.render is None:
        return marked(turns)
    return model.render([(turn.speaker, turn.text) for turn in turns])
