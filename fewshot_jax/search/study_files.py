"""The directory of a study.

journal.log          Optuna's record of all trials
config.yaml          the config whose fields are tried
space.yaml           the search space
trials/N             the run of trial N, as of 'fewshot-jax train'
trials.csv           a row for each trial
best.yaml            the config of the best trial
history.png          the score by trial
importance.png       how much each field matters
locks/               what processes hold while they live
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import BaseFileLock

from fewshot_jax.atomic_write import write_text
from fewshot_jax.config import Config
from fewshot_jax.config_file import differences, read_config, read_yaml, write_config
from fewshot_jax.errors import UserError, require
from fewshot_jax.file_lock import acquire, try_acquire
from fewshot_jax.runs.directory import check_writable
from fewshot_jax.search.space import Space
from fewshot_jax.training.run_directory import FREE

if TYPE_CHECKING:
    import optuna

NAME = "fewshot_jax"  # of the one study in a journal


class JournalLock:
    """A lock of the journal as Optuna takes it; nobody who is killed keeps it.

    Args:
        journal: the file.
        lock: beside it.
    """

    def __init__(self, journal: Path, lock: Path):
        self._journal, self._lock = journal, lock
        self._held: BaseFileLock | None = None

    def acquire(self) -> bool:
        """Wait for the lock, and cut off a line that a killed process left half written."""
        self._held = acquire(self._lock, flag="--study")
        with self._journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let it go."""
        if self._held is not None:
            self._held.release()


class StudyFiles:
    """The files of a study; see the module's description."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def locks(self) -> Path:
        return self.path / "locks"

    def run(self, name: str) -> Path:
        """The run directory of a trial."""
        return self.path / "trials" / name

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No two processes of a study are in such a block at once."""
        held = acquire(self.locks / "study", flag="--study")
        try:
            yield
        finally:
            held.release()

    def hold(self, number: int) -> BaseFileLock | None:
        """Hold a trial, until ``release()`` or the end of the process; None where another process does."""
        return try_acquire(self.locks / str(number), flag="--study")

    def start(self, config: Config, space: Space) -> None:
        """Make the directory, or check that the study in it is of the same config and space.

        Raises:
            UserError: it is of another, or the directory cannot be written, or holds something else.
        """
        check_writable(self.path, flag="--study")
        if self.path.is_dir() and any(self.path.iterdir()) and not self.locks.is_dir():
            raise UserError(f"{self.path}: is not empty and holds no study; give another --study")
        self.locks.mkdir(parents=True, exist_ok=True)
        with self.alone():
            if (self.path / "config.yaml").exists() and (self.path / "space.yaml").exists():
                self._check(config, space)
                return
            write_config(config, self.path / "config.yaml")
            write_text(self.path / "space.yaml", yaml.safe_dump(space.to_dict(), sort_keys=False))

    def _check(self, config: Config, space: Space) -> None:
        changed = differences(read_config(self.path / "config.yaml"), config, ignore=FREE)
        known, given = read_yaml(self.path / "space.yaml", "search space"), space.to_dict()
        changed += [
            f"space of {name}: {known.get(name)} -> {given.get(name)}"
            for name in {**known, **given}
            if known.get(name) != given.get(name)
        ]
        require(
            not changed,
            f"{self.path}: holds a study of another config or space ({'; '.join(changed)}); give another --study, or "
            "the same settings to go on with it",
        )

    def study(self, *, larger_is_better: bool) -> "optuna.Study":
        """The study, which is made where there is none."""
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal = self.path / "journal.log"
        journal.touch()
        lock: Any = JournalLock(journal, self.locks / "journal")
        try:
            lock.acquire()  # which mends it, before it is read
            lock.release()
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal), lock)),
                study_name=NAME,
                direction="maximize" if larger_is_better else "minimize",
                load_if_exists=True,
            )
        except (ValueError, KeyError, AssertionError) as error:
            raise UserError(
                f"{journal}: cannot read the study ({error}); restore the file, or give another --study"
            ) from error
