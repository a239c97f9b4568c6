"""The metrics of a run on Weights & Biases, where the package wandb is installed and a project is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import write_text
from fewshot_jax.errors import UserError, first_line
from fewshot_jax.runs.tensorboard import scalars

RECORD = "wandb.json"  # in a run directory: the id under which the run goes on


def check_installed(project: str) -> Any:
    """Return the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"--wandb {project}: needs the package wandb, which is not installed. Install it with `pip install wandb`, "
            "or leave the flag out: RUN/tensorboard has the same numbers."
        ) from None
    return wandb


def _known(record: Path) -> str:
    """The id under which a run was sent before.

    Raises:
        UserError: its file is torn.
    """
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["id"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{record}: expected the id of the run on Weights & Biases as JSON; restore the file, or delete it to go "
            "on as a new run there"
        ) from None


class Tracker:
    """Sends rows of metrics to a project; a resumed run goes on as the same run there.

    Weights & Biases takes steps in their order only: those that a killed run had sent and a resumed one takes again
    are ignored, and they are the same numbers.

    Args:
        project: its name.
        directory: of the run.
        after: the step that the run goes on from; 0 for a run that begins.
        config: of the run, in plain values.

    Raises:
        UserError: the package is not installed, or nobody is logged in.
    """

    def __init__(self, project: str, directory: Path, *, after: int, config: Mapping[str, Any]):
        wandb, path = check_installed(project), directory / RECORD
        known = _known(path) if after and path.exists() else None
        try:
            self._run = wandb.init(
                project=project,
                name=directory.resolve().name,
                dir=str(directory),
                config=dict(config),
                id=known,
                resume="allow",
            )
        except Exception as error:  # its own kinds, among them that of a missing login
            raise UserError(
                f"--wandb {project}: cannot start ({first_line(error)}). Run `wandb login`, set WANDB_MODE=offline, or "
                "leave the flag out."
            ) from error
        write_text(path, strict_json.dumps({"project": project, "id": self._run.id}) + "\n")

    def write(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row with a ``step``."""
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()
