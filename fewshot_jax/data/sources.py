"""From the name of a source in a config to what reads it: one table.

What a config knows of a source stands in `config.sources`. Labelled texts come from any of them. Of pairs of texts and
of images each application reads the files itself, in its own columns, and other sources are asked for `Example`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fewshot_jax.config import DataConfig
from fewshot_jax.config.names import is_function
from fewshot_jax.data.examples import Example
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError
from fewshot_jax.named_function import call_function

AnyItem = TypeVar("AnyItem", Record, Example)


class Request(NamedTuple):
    """What a source is asked for.

    Attributes:
        data: of the config.
        seed: of generated data.
        notes: gets what to tell of the data; None to leave it out.
    """

    data: DataConfig
    seed: int
    notes: list[str] | None


def _generated(request: Request) -> list[Record]:
    from fewshot_jax.data.generated import generated_intents

    data = request.data
    return generated_intents(seed=request.seed, groups=data.groups, texts_per_class=data.texts_per_class)


def _files(request: Request) -> list[Record]:
    from fewshot_jax.data.files import read_records
    from fewshot_jax.data.sets import read_sets

    data = request.data
    fields: Any = {"text": data.text_field, "label": data.label_field, "group": data.group_field}
    if not data.sets:
        return [record for path in data_files(data) for record in read_records(path, **fields)]
    if data.path is None:
        raise UserError("data.path: data.sets are files or folders under a path; give --data.path PATH")
    return read_sets(data.path, data.sets, files=data.files, notes=request.notes, **fields)


def _tfds(request: Request) -> list[Record]:
    from fewshot_jax.data.tfds import read_tfds

    data = request.data
    if data.name is None:
        raise UserError("data.name: the source 'tfds' needs the name of a data set")
    return read_tfds(
        data.name,
        split=data.tfds_split,
        text=data.text_field,
        label=data.label_field,
        group=data.group_field,
        data_dir=data.path,
    )


def _smlmt(request: Request) -> list[Record]:
    from fewshot_jax.data.smlmt import smlmt_records

    data = request.data
    texts = [text for path in data_files(data) for text in raw_texts(path, data.text_field)]
    words, length = data.smlmt_words, data.smlmt_length
    return smlmt_records(texts, max_words=words, max_length=length, shared=False, seed=request.seed)


SOURCES: dict[str, Callable[[Request], list[Record] | list[Example]]] = {
    "generated": _generated,
    "files": _files,
    "tfds": _tfds,
    "smlmt": _smlmt,
}


def read_source(request: Request, kind: type[AnyItem]) -> list[AnyItem]:
    """Read what a config names as its source.

    Args:
        request: of the run.
        kind: what the application reads, `Record` or `Example`.

    Raises:
        UserError: the source cannot be read, or has items of another kind.
    """
    source = request.data.source
    read = _own if is_function(source) else SOURCES[source]
    items: Any = read(request)
    if not isinstance(items, list):
        raise UserError(f"data.source={source}: returned {type(items).__name__}; expected a list of {kind.__name__}")
    for number, item in enumerate(items):
        if not isinstance(item, kind):
            raise UserError(
                f"data.source={source}: item {number} is of type {type(item).__name__}; the application reads "
                f"fewshot_jax.{kind.__name__}, so give those, or another source"
            )
    if not items and is_function(source):
        raise UserError(f"data.source={source}: returned no items; expected at least one {kind.__name__}")
    return items


def examples_of_source(data: DataConfig, seed: int) -> list[Example]:
    """Read the pairs of texts of a source, whose texts must not be empty.

    Raises:
        UserError: as of `read_source`, or an example has no source, no target or a task that is no string.
    """
    examples = read_source(Request(data, seed, None), Example)
    for number, example in enumerate(examples):
        for field in ("source", "target", "task"):
            value = getattr(example, field)
            if not isinstance(value, str) or (field != "task" and not value.strip()):
                raise UserError(
                    f"data.source={data.source}: item {number}: {field} is {value!r}; expected a text, so fill it in, "
                    "or leave the example out"
                )
    return examples


def _own(request: Request) -> Any:
    """Read by the function of the user's own that a config names."""
    return call_function("data.source", request.data.source, options=request.data.options)


def data_files(config: DataConfig) -> list[Path]:
    """The files of the source "files".

    Raises:
        UserError: there is no path, or nothing there.
    """
    if config.path is None:
        raise UserError(f"data.path: the source '{config.source}' needs a file or a folder; give --data.path PATH")
    path = Path(config.path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; see data.path")
    return [path / name for name in config.files] or [path]


def raw_texts(path: Path, field: str) -> list[str]:
    """The documents of a file, or of all files of a folder."""
    from fewshot_jax.config.pretraining import CorpusConfig
    from fewshot_jax.data.pretraining.documents import read_documents

    return read_documents(CorpusConfig(path=str(path), text_field=field))
