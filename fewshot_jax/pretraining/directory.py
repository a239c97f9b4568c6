"""The directory of a pretraining run.

config.yaml          the resolved config
tokenizer/           the tokenizer, as transformers reads it
data/                the packed windows of training and held-out documents; not needed once the run has ended
data.json            how many documents, tokens and windows there are; written when data/ is whole
metrics.jsonl        a line every few steps, and one for each validation
tensorboard/         the same numbers, in event files for TensorBoard
wandb.json           with --wandb: under which name the run goes on there
checkpoints/         Orbax, one folder a step
learning_curve.png
model/               the best checkpoint as a Hugging Face directory, with the tokenizer
result.json          written when the run ends; a run without it is unfinished
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewshot_jax.atomic_write import cannot_write
from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.config_file import differences
from fewshot_jax.models.sources.names import lasting_name
from fewshot_jax.runs.directory import RunFiles

FREE = ("batch.workers", "parallel.", "recovery.")  # may change while a run goes on: the batches are the same


class PretrainingDirectory(RunFiles):
    """The files of a pretraining run; see the module's description."""

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def windows(self, split: str) -> Path:
        """Where the windows of a split are."""
        return self.path / "data" / split

    def data(self) -> dict[str, Any] | None:
        """What ``data.json`` says, or None."""
        return self._read("data.json")

    def config(self) -> PretrainConfig:
        """The resolved config.

        Raises:
            UserError: there is no run here, or one of another kind.
        """
        return self._config(PretrainConfig, "pretrain")

    def resumable(self) -> bool:
        """Whether a run here has a checkpoint, and its corpus."""
        return super().resumable() and self.data() is not None

    def check_startable(self, config: PretrainConfig) -> None:
        """Check that a run of this config can start, or go on, here.

        Raises:
            UserError: another run is here, or files that are no run, or the
                directory cannot be written.
        """
        self._check_free(differences(self.config(), config, ignore=FREE) if self.resumable() else [])

    def start(self, config: PretrainConfig) -> None:
        """Write the config, which marks a run.

        Raises:
            UserError: the directory cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "data.json").unlink(missing_ok=True)
            self._write_config(config)
        except OSError as error:
            raise cannot_write(self.path, error, "--run-dir") from None


def resolve_paths(config: PretrainConfig) -> PretrainConfig:
    """Make the config independent of the working directory, and of what the hub may have tomorrow.

    Raises:
        UserError: a model of the hub cannot be found.
    """

    def lasting(section: Any, name: str, resolved: Callable[[str], str]) -> Any:
        value = getattr(section, name)
        return section if value is None else dataclasses.replace(section, **{name: resolved(value)})

    return dataclasses.replace(
        config,
        corpus=lasting(config.corpus, "path", lambda path: str(Path(path).expanduser().resolve())),
        tokenizer=lasting(config.tokenizer, "path", lasting_name),
        model=lasting(config.model, "pretrained", lasting_name),
    )
