"""Few-shot translation: a task is a pair of languages, or a domain."""

from pathlib import Path
from typing import Any, ClassVar

from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.applications.writing import Writing
from fewshot_jax.config import Config
from fewshot_jax.data.examples import Example
from fewshot_jax.data.files import Problems, read_texts
from fewshot_jax.data.parallel import read_pairs
from fewshot_jax.data.tasks import World
from fewshot_jax.data.validate import FileFormat, Item
from fewshot_jax.data.worlds import WORLDS


def _items(path: Path, text: str, label: str, problems: Problems | None) -> list[Item]:
    del text, label
    return [Item({"source": e.source, "target": e.target}, e.task) for e in read_pairs(path, problems=problems)]


class Translation(Writing):
    """The application of one run; its files hold pairs of sentences."""

    world: ClassVar[World] = staticmethod(WORLDS["translation"])
    file_format: ClassVar[FileFormat | None] = FileFormat(_items)
    text_scores: ClassVar[tuple[str, ...]] = ("BLEU", "chrF")

    @classmethod
    def read(cls, config: Config, path: Path, model: TextModel | None) -> list[Example]:
        del model
        data = config.data
        return read_pairs(path, source=data.source_field, target=data.target_field, task_field=data.task_field)

    @classmethod
    def sources(cls, config: Config, path: Path, model: TextModel) -> tuple[list[dict[str, Any]], list[str]]:
        del model
        field = config.data.source_field
        return read_texts(path, text=field, option=field)
