"""Which model a user names: the default one, a run, a pretrained model, or one that adapt saved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_jax.adaptation.saving import EXAMPLES
from fewshot_jax.config import WRITES, Config
from fewshot_jax.config.applications import APPLICATION_RECORDS
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError, first_line
from fewshot_jax.models.huggingface.sentence_transformers import holds_model
from fewshot_jax.models.sources.names import (
    DEFAULT,
    KINDS_OF_NAMES,
    MODEL_OF_A_RUN,
    ModelFiles,
    find_files,
)
from fewshot_jax.training.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """What a user names as MODEL.

    Attributes:
        name: as the user writes it.
        origin: the name of the model to adapt: the named one, or that from which a saved model was adapted.
        files: of a pretrained model; None of a run, and of the default one.
        config: of the run; None where the origin is no run of meta-training.
        examples: those that a saved model was adapted to, to which new ones are added.
        source: of a pretrained model, what tells its files again; see `ModelFiles.record`.
        changed: whether the files are not those that the saved model was adapted from.
    """

    name: str | Path
    origin: str
    files: ModelFiles | None = None
    config: Config | None = None
    examples: list[Record] = field(default_factory=list)
    source: Mapping[str, str | None] | None = None
    changed: bool = False

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
    """Find what a user names; a model of the hub is fetched.

    Raises:
        UserError: there is no such model, it keeps no examples to add to, or it can adapt to no texts.
    """
    origin, examples, sha256 = _origin_and_examples(name)
    if origin == DEFAULT:
        return NamedModel(name=name, origin=origin, examples=examples)
    if not is_run(origin):
        files = _found(name, origin)
        source = files.record()
        changed = sha256 is not None and sha256 != source["sha256"]
        return NamedModel(name=name, origin=files.name, files=files, examples=examples, source=source, changed=changed)
    config = RunDirectory(origin).config()
    if not config.record.texts:
        raise UserError(_unserved(origin, config))
    return NamedModel(name=name, origin=origin, config=config, examples=examples)


def is_run(model: str | Path) -> bool:
    """Whether a name is that of a run of meta-training, or of a run that cannot be told yet."""
    path = Path(model).expanduser()
    pretrained = holds_model(path / MODEL_OF_A_RUN) and not (path / "labels.json").exists()
    return (path / "config.yaml").exists() and not pretrained


def _found(given: str | Path, name: str) -> ModelFiles:
    """Find a pretrained model, that of a saved one too; the message on a wrong name tells of runs and saved models."""
    try:
        return find_files(name)
    except UserError as error:
        if str(given) != name:
            raise UserError(
                f"{given}: was adapted from {name}, which cannot be read now, so no examples can be added ({error})"
            ) from None
        if KINDS_OF_NAMES not in str(error):
            raise
        more = "a run of 'fewshot-jax train', a model that adapt made"
        raise UserError(str(error).replace(KINDS_OF_NAMES, f"{more}, {KINDS_OF_NAMES}")) from None


def _origin_and_examples(name: str | Path) -> tuple[str, list[Record], str | None]:
    """Read from what, and to which examples, a saved model was adapted; of another model itself, and no examples.

    Returns:
        The name of the model to adapt, the examples, and the hash of its files as they were, where one was kept.

    Raises:
        UserError: a saved model keeps no examples, or its files are damaged.
    """
    model = Path(name).expanduser()
    if not (model / "model.json").exists() or str(name) == DEFAULT:
        return str(name), [], None
    try:
        record = json.loads((model / "model.json").read_text(encoding="utf-8"))
        _check_keeps_examples(model, record)
        with (model / EXAMPLES).open(encoding="utf-8") as rows:  # not splitlines(), which cuts texts at U+2028
            examples = [Record(**json.loads(row)) for row in rows]
            return str(record["start"]), examples, record.get("source", {}).get("sha256")
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
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


def _unserved(model: str, config: Config) -> str:
    """The message on a run of an application that does not adapt to texts."""
    texts = [name for name, record in APPLICATION_RECORDS.items() if record.texts and not record.variant_of]
    served = [name.replace("_", " ") for name in sorted(texts, key=lambda name: (name in WRITES, name))]
    return (
        f"{model}: is a run of {config.application.replace('_', ' ')}; adapt takes runs of {', '.join(served)}. "
        f"'fewshot-jax evaluate {model}' measures this run"
    )
