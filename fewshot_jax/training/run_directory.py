"""The directory of a run.

config.yaml          the resolved config
tokenizer/           tokenizer.json, as transformers reads it (texts)
labels.json          the label names of each split
data.json            a fingerprint of each split's data
metrics.jsonl        a line every few steps, and one for each validation
tensorboard/         the same numbers, in event files for TensorBoard
wandb.json           with --wandb: under which name the run goes on there
checkpoints/         Orbax, one folder a step
learning_curve.png
adapted_curves.png   what the learner makes of a few tasks (regression)
result.json          written when the run ends; a run without it is unfinished
evaluation.json      the table of the last evaluation on the config's own episodes and shots
episode_scores.json  its score in each episode, of each row
checksums/           of the checkpoints; damaged/ holds those that failed them
multi_task/          the run of the multi-task baseline, a directory of the same kind
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_jax.applications.application import READING, Application
from fewshot_jax.atomic_write import cannot_write
from fewshot_jax.config import Config
from fewshot_jax.config.names import is_function
from fewshot_jax.config_file import differences
from fewshot_jax.errors import UserError
from fewshot_jax.models.sources.names import lasting_name
from fewshot_jax.parallel.processes import first_alone
from fewshot_jax.runs.directory import STARTING, RunFiles

# What may change while a run goes on.
_FREE_OF_EVALUATION = ("episodes", "inner_steps", "tune_rates", "tune_steps", "null_threshold", "at_end")
FREE = (*(f"evaluation.{name}" for name in _FREE_OF_EVALUATION), "baselines.", "parallel.", "recovery.")
PLANNED = ("gradient", "keep", "keep_blocks", "task_chunk")  # fields of `learner` that a plan fills in


def resolve(config: Config) -> Config:
    """Make the config independent of the working directory, and of what the hub may have tomorrow.

    Raises:
        UserError: ``model.pretrained`` names a model of the hub that cannot be found.
    """
    data = config.data
    path = None if data.path is None else Path(data.path).expanduser().resolve()
    split = data.class_split
    if split is not None and not (path or Path()).joinpath(split).exists() and Path(split).exists():
        split = str(Path(split).resolve())
    given = config.model.pretrained
    pretrained = None if given is None else lasting_name(given)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, path=None if path is None else str(path), class_split=split),
        model=dataclasses.replace(config.model, pretrained=pretrained),
    )


class RunDirectory(RunFiles):
    """The files of a meta-training run; see the module's description."""

    def evaluation(self) -> dict[str, Any] | None:
        """The last evaluation, or None."""
        return self._read("evaluation.json")

    def config(self) -> Config:
        """The resolved config.

        Raises:
            UserError: there is no run here.
        """
        return self._config(Config, "train")

    def labels(self) -> dict[str, list[str]]:
        """The class names of each split."""
        return self._read("labels.json") or {}

    def fingerprint(self) -> dict[str, str]:
        """That of the data, of each split."""
        return self._read("data.json") or {}

    def multi_task(self) -> "RunDirectory":
        """The run of the multi-task baseline, which may not exist."""
        return RunDirectory(self.path / "multi_task")

    def check_startable(self, config: Config) -> None:
        """Check that a run of this config can start, or go on, here.

        Raises:
            UserError: another run is here, or files that are no run, or the
                directory cannot be written.
        """
        changed = []
        if self.resumable():
            ignore = [*FREE]
            if config.learner.name == "multi_task":  # its inner loop serves validation alone
                ignore.append("inner.")
            if config.learner.plan:  # what the plan chose stands in the run's config alone
                ignore += [f"learner.{name}" for name in PLANNED]
            changed = differences(self.config(), config, ignore=tuple(ignore))
        self._check_free(changed)

    def start(self, application: Application, fingerprint: Mapping[str, str]) -> None:
        """Write what a run needs to be resumed; the config last, which marks a run.

        Args:
            application: of the run.
            fingerprint: of its data.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / STARTING).touch()
            application.save(self.path)
            self.write("labels.json", application.labels())
            self.write("data.json", dict(fingerprint))
            self._write_config(application.config)
            (self.path / STARTING).unlink()
        except OSError as error:
            raise cannot_write(self.path, error, "--run-dir") from None

    def update(self, config: Config) -> Config:
        """Store what may change while a run goes on (`FREE`): of its evaluation, its baselines, its devices.

        Returns:
            The config as it is now stored.
        """
        stored, wanted = self.config(), config.evaluation
        free = {name: getattr(wanted, name) for name in _FREE_OF_EVALUATION}
        evaluation = dataclasses.replace(stored.evaluation, **free)
        changed = dataclasses.replace(
            stored,
            evaluation=evaluation,
            baselines=config.baselines,
            parallel=config.parallel,
            recovery=config.recovery,
        )
        with first_alone() as here:
            if here and changed != stored:
                self._write_config(changed)
        return changed

    def check_data(self, found: Mapping[str, str]) -> None:
        """Check that the data is what the run was started with.

        A class more or less would divide the classes anew, and test on some
        that were trained on.

        Args:
            found: the fingerprint of the data.

        Raises:
            UserError: a split has changed, or this version reads the same files differently.
        """
        known = self.fingerprint()
        if changed := [split for split in found if split not in READING and known.get(split) != found[split]]:
            if any(known.get(name) != found.get(name) for name in READING):
                raise UserError(
                    f"{self.path}: this version of fewshot_jax reads the data in another way than the one that started "
                    f"this run (duplicates of texts, names of labels), and finds other data "
                    f"({', '.join(changed)}). Expected the same; restore the files if they have changed, or go on with "
                    "the version that started it, or start a new run."
                )
            source = self.config().data.source if self.exists() else ""
            remedy = f"restore what {source} reads" if is_function(source) else "restore the files that data.path names"
            raise UserError(
                f"{self.path}: the data has changed since this run started (splits: {', '.join(changed)}); "
                f"{remedy}, or start a new run"
            )
