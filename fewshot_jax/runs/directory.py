"""What the directory of every run holds, whatever it trains."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import write_text
from fewshot_jax.config_file import read_config, write_config
from fewshot_jax.errors import UserError
from fewshot_jax.parallel.processes import is_first

LOCK = ".lock"  # held by the process that trains here
STARTING = ".starting"  # exists while the files of a new run are written: a start that broke off can be repeated


def check_writable(path: Path, *, flag: str) -> None:
    """Raise a UserError unless a directory is writable or can be made."""
    parent = path
    while not parent.exists():
        parent = parent.parent
    try:
        # Try it: permissions do not reveal a read-only file system.
        os.rmdir(tempfile.mkdtemp(prefix=".fewshot_jax.", dir=parent))
    except OSError:
        raise UserError(f"{path}: cannot write here ({parent} is not a writable directory); see {flag}") from None


def describe_path(path: Path, otherwise: str = "is not a run directory (it has no config.yaml)") -> str:
    """Say what a path holds, where another thing was expected; ``otherwise`` of what is not known."""
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is a file, not a directory"
    if (path / "config.yaml").exists() and (path / "space.yaml").exists():
        return "is a study of 'fewshot-jax tune', whose runs are in its folder trials"
    if (path / "config.yaml").exists():
        command = "train" if (path / "labels.json").exists() else "pretrain"
        return f"is a run of 'fewshot-jax {command}'"
    if (path / "model.json").exists():
        return "is a model that 'fewshot-jax adapt' saved, for 'fewshot-jax predict'"
    if (path / "config.json").exists():
        return "is a model in Hugging Face's format"
    if runs := sorted(one.parent.name for one in path.glob("*/config.yaml")):
        return f"is no run itself but has runs in it ({', '.join(runs[:3])}{', ...' if runs[3:] else ''})"
    return otherwise


class RunFiles:
    """What the directory of every run holds: its config, metrics, checkpoints and result."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def learning_curve(self) -> Path:
        return self.path / "learning_curve.png"

    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.yaml").exists()

    def resumable(self) -> bool:
        """Whether a run here has a checkpoint; one without can be started afresh, with another config too."""
        return self.exists() and any(path.name.isdigit() for path in self.checkpoints.glob("*"))

    def result(self) -> dict[str, Any] | None:
        """What the finished run wrote, or None."""
        return self._read("result.json")

    def _check_free(self, changed: list[str]) -> None:
        """Check that a run can start, or go on, here, given how its config differs from that of the one here.

        Raises:
            UserError: another run is here, or files that are no run, or the
                directory cannot be written.
        """
        if changed:
            raise UserError(
                f"{self.path}: holds a run of another config ({'; '.join(changed)}); "
                "give another --run-dir, or the same settings to resume it"
            )
        found = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if not self.exists() and STARTING not in found and found - {LOCK}:
            raise UserError(f"{self.path}: is not empty and holds no run; give another --run-dir")
        check_writable(self.path, flag="--run-dir")

    def _config(self, kind: type[Any], command: str) -> Any:
        """The config of a run that a command made."""
        wanted = f"expected a run; 'fewshot-jax {command} CONFIG --run-dir RUN' makes one"
        if not self.exists():
            raise UserError(f"{self.path}: {describe_path(self.path)}; {wanted}")
        try:
            return read_config(self.path / "config.yaml", kind)
        except UserError as error:
            if (found := describe_path(self.path)) != f"is a run of 'fewshot-jax {command}'":
                raise UserError(f"{self.path}: {found}; {wanted}") from None
            raise UserError(f"{error} (expected the config of a run of 'fewshot-jax {command}')") from None

    def _write_config(self, config: Any) -> None:
        write_config(config, self.path / "config.yaml")

    def write(self, name: str, values: Any) -> None:
        """Write a JSON file whole or not at all; of several processes the first does."""
        if is_first():
            write_text(
                self.path / name, strict_json.dumps(values, self.path / name, strict_json.DIVERGED, indent=2) + "\n"
            )

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{path}: is damaged, not whole JSON; restore it, or start a new run in another --run-dir")
        return values
