"""Which model a user names: the default one, a run, a pretrained model, or one that adapt saved."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_jax.adaptation.saving import EXAMPLES
from fewshot_jax.applications.text_model import directory_of
from fewshot_jax.config import WRITES, Config
from fewshot_jax.config.applications import APPLICATION_RECORDS
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError, first_line
from fewshot_jax.training.run_directory import RunDirectory

DEFAULT = "default"
_KNOWN_BY = ("config.yaml", "model.json")  # a run, and what adapt made


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """What a user names as MODEL.

    Attributes:
        name: as the user writes it.
        origin: the model to adapt: the named one, or that from which a saved model was adapted.
        config: of the run; None where the origin is no run of meta-training.
        examples: those that a saved model was adapted to, to which new ones are added.
    """

    name: str | Path
    origin: Path
    config: Config | None
    examples: list[Record] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        """Whether it reads texts and writes others; otherwise it labels texts."""
        return self.config is not None and self.config.record.pairs

    @property
    def scores_names(self) -> bool:
        """Whether it labels texts by the likelihood of the names of the classes."""
        return self.config is not None and self.config.record.labelled and self.config.record.tokens

    @property
    def application(self) -> str:
        """The name of the application whose examples it adapts to."""
        return "text_classification" if self.config is None else self.config.application


def find_model(name: str | Path) -> NamedModel:
    """Find what a user names.

    Raises:
        UserError: there is no such model, it keeps no examples to add to, or it can adapt to no texts.
    """
    check_named(name)
    origin, examples = _origin_and_examples(Path(name))
    if str(origin) == DEFAULT or is_pretrained(origin):
        return NamedModel(name=name, origin=origin, config=None, examples=examples)
    config = RunDirectory(origin).config()
    if not config.record.texts:
        raise UserError(_unserved(origin, config))
    return NamedModel(name=name, origin=origin, config=config, examples=examples)


def is_pretrained(path: str | Path) -> bool:
    """Whether a directory holds a pretrained model, and no run of meta-training."""
    try:
        directory_of(str(path))
    except UserError:
        return False
    return not (Path(path) / "labels.json").exists()


def is_run(path: str | Path) -> bool:
    """Whether a directory is a run of meta-training."""
    return (Path(path) / "config.yaml").exists()


def check_named(model: str | Path) -> None:
    """Raise a UserError if what a user names is not there, or is none of what a model can be."""
    path = Path(model).expanduser()
    if str(model) == DEFAULT or any((path / name).is_file() for name in _KNOWN_BY) or is_pretrained(model):
        return
    if path.is_dir():
        names = sorted(one.name for one in path.iterdir())
        held = f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}" if names else "nothing"
        what = f"holds {held}, which is no model"
    elif path.exists():
        what = "is a file"
    else:
        what = "no such directory"
        if difflib.get_close_matches(str(model), [DEFAULT]):
            what += " (did you mean 'default'?)"
    raise UserError(
        f"{model}: {what}; give 'default', a run of 'fewshot-jax train' (config.yaml), a Hugging Face directory "
        "(config.json), or a model that adapt made (model.json)"
    )


def _origin_and_examples(model: Path) -> tuple[Path, list[Record]]:
    """Read from what, and to which examples, a saved model was adapted; of another model itself, and no examples.

    Raises:
        UserError: a saved model keeps no examples, or its files are damaged.
    """
    if not (model / "model.json").exists():
        return model, []
    try:
        record = json.loads((model / "model.json").read_text(encoding="utf-8"))
        _check_keeps_examples(model, record)
        with (model / EXAMPLES).open(encoding="utf-8") as rows:  # not splitlines(), which cuts texts at U+2028
            return Path(record["start"]), [Record(**json.loads(row)) for row in rows]
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        lost = isinstance(error, FileNotFoundError)  # a user may delete the examples: the model still predicts
        raise UserError(
            f"{model}: {'' if lost else 'the saved model is damaged: '}cannot read what it was adapted from and to "
            f"('start' in model.json, {EXAMPLES}: {first_line(error)}), so no examples can be added. Restore the "
            "files, or adapt the original model to all examples together"
        ) from None


def _check_keeps_examples(model: Path, record: Mapping[str, Any]) -> None:
    """Raise a UserError if a saved model is whole but of a kind that keeps no examples."""
    if record.get("kind") or "start" in record:
        return
    config = from_dict(record["config"], source=str(model / "model.json"))
    if config.record.pairs:
        what = f"a model for {config.application.replace('_', ' ')}"
    elif config.record.tokens:
        what = "a classifier that scores the names of its classes"
    else:
        what = "a classifier that was saved without its examples"
    raise UserError(
        f"{model}: holds {what}, to which no examples can be added: only classifiers with a head, saved by "
        "'fewshot-jax adapt', keep theirs. Adapt the run that it came from to all examples together: 'fewshot-jax "
        "adapt RUN --data ALL_EXAMPLES --output DIR'"
    )


def _unserved(model: Path, config: Config) -> str:
    """The message on a run of an application that does not adapt to texts."""
    texts = [name for name, record in APPLICATION_RECORDS.items() if record.texts and not record.variant_of]
    served = [name.replace("_", " ") for name in sorted(texts, key=lambda name: (name in WRITES, name))]
    return (
        f"{model}: is a run of {config.application.replace('_', ' ')}; adapt takes runs of {', '.join(served)}. "
        f"'fewshot-jax evaluate {model}' measures this run"
    )
