"""Checksums of checkpoints: what was written is what is read, or it is not read at all."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import sync_directory, sync_tree, write_text
from fewshot_jax.errors import UserError


class Checksums:
    """A file of SHA-256 sums for each checkpoint, ``RUN/checksums/STEP.json``.

    Orbax makes a checkpoint appear whole or not at all, but does not notice a file that changed later. A checkpoint
    gets its sums when it is on disk; one that lacks them, because the process was killed in between, is trusted.

    Args:
        checkpoints: ``RUN/checkpoints``, a folder for each step.
    """

    def __init__(self, checkpoints: Path):
        self._checkpoints = checkpoints
        self._sums = checkpoints.parent / "checksums"

    def write(self, step: int) -> None:
        """Write the sums of a checkpoint that is on disk, and forget those of checkpoints that are gone."""
        folder = self._checkpoints / str(step)
        try:
            sums = {str(file.relative_to(folder)): _sum(file) for file in _files(folder)}
            self._sums.mkdir(exist_ok=True)
            sync_tree(folder)  # what the sums say of it stays true after a loss of power
            sync_directory(self._checkpoints)
            write_text(self._sums / f"{step}.json", strict_json.dumps(sums, indent=0) + "\n")
            self._forget()
        except FileNotFoundError:  # the checkpoint made way for later ones meanwhile
            pass
        except OSError as error:
            print(f"the checkpoint of step {step} has no checksums ({error}); it is trusted", file=sys.stderr)

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint; None for nothing."""
        folder, known = self._checkpoints / str(step), self._sums / f"{step}.json"
        if not known.exists():
            return None
        try:
            sums = json.loads(known.read_text(encoding="utf-8"))
            wanted = {str(name): str(value) for name, value in sums.items()}
        except (ValueError, AttributeError):
            return f"its checksums, {known}, cannot be read"
        if lost := sorted(name for name in wanted if not (folder / name).is_file()):
            return f"the file {lost[0]} is gone"
        changed = sorted(name for name, value in wanted.items() if _sum(folder / name) != value)
        return f"the file {changed[0]} is not what was written" if changed else None

    def check(self, step: int) -> None:
        """Raise a UserError if a checkpoint is damaged."""
        if reason := self.damage(step):
            raise UserError(
                f"{self._checkpoints / str(step)}: this checkpoint is damaged ({reason}); 'fewshot-jax train' or "
                "'pretrain' with the run's own command sets it aside and goes on from the one before it"
            )

    def set_aside(self) -> None:
        """Move damaged checkpoints to ``RUN/damaged``, and say so; forget the sums of those that are gone."""
        self._forget()
        for folder in list(self._checkpoints.glob("*")):
            if folder.name.isdigit() and (reason := self.damage(int(folder.name))):
                self._move(int(folder.name), reason)

    def _forget(self) -> None:
        """Remove the sums of checkpoints that are gone."""
        for known in self._sums.glob("*.json"):
            if not (self._checkpoints / known.stem).exists():
                known.unlink()

    def _move(self, step: int, reason: str) -> None:
        """Move a checkpoint to ``RUN/damaged``, and say why."""
        aside = self._checkpoints.parent / "damaged" / str(step)
        if aside.exists():
            shutil.rmtree(aside)
        aside.parent.mkdir(exist_ok=True)
        (self._checkpoints / str(step)).rename(aside)
        (self._sums / f"{step}.json").unlink(missing_ok=True)
        print(f"the checkpoint of step {step} is damaged ({reason}); moved to {aside}", file=sys.stderr)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
