"""Checkpoints: Orbax, asynchronous and atomic, with checksums; the last ones and the best one are kept.

A checkpoint stands alone. Beside the arrays of the `TrainState` it holds a JSON
record: the resolved config, the label names of each split, the tokenizer, the
validation score and the versions that wrote it.
"""

import contextlib
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding, PartitionSpec

from fewshot_jax.atomic_write import of_the_system
from fewshot_jax.errors import UserError, WriteError, first_line
from fewshot_jax.parallel.mesh import local_copy, make_mesh, shapes_on
from fewshot_jax.parallel.processes import first_alone, is_first
from fewshot_jax.runs.checksums import Checksums
from fewshot_jax.runs.state import TrainState
from fewshot_jax.types import MetaParams


class Criterion(Protocol):
    """By which number of a validation a checkpoint is the best; an application's `Score` is one."""

    @property
    def metric(self) -> str:
        """Name of the number."""
        ...

    @property
    def larger_is_better(self) -> bool: ...


class Checkpoints:
    """The checkpoints of a run; damaged ones are set aside, unless it is `read_only`.

    Args:
        directory: ``RUN/checkpoints``; made where it is missing, unless `read_only`.
        criterion: by which number of a validation a checkpoint is the best.
        keep: how many of the last checkpoints to keep, beside the best one.
        read_only: never write.

    Raises:
        UserError: `read_only`, and a damaged checkpoint stands in the way.
    """

    def __init__(self, directory: Path, criterion: Criterion, *, keep: int = 2, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._ocp = ocp
        self.directory = directory.absolute()
        self._metric = criterion.metric
        self._sums = Checksums(self.directory)
        self._without_checksums: int | None = None
        self._summing: threading.Thread | None = None
        if not read_only:
            with first_alone() as here:
                if here:
                    self._sums.set_aside()
        sign = 1 if criterion.larger_is_better else -1

        def best(metrics: Mapping[str, float]) -> float:
            value = sign * metrics[criterion.metric]
            return value if math.isfinite(value) else -math.inf  # a NaN has no place in an order

        options = ocp.CheckpointManagerOptions(
            best_fn=best,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep), BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False)]
            ),
            create=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except ValueError as error:
            for step in sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdigit()):
                self._sums.check(step)
            raise UserError(f"{self.directory}: the checkpoints cannot be read ({first_line(error)})") from error

    def save(self, state: TrainState, record: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Start writing a checkpoint of ``state.step``; returns before it is on disk.

        Args:
            state: which may be changed, or donated, afterwards.
            record: what to keep beside.
            metrics: of the validation; None where there was none, for a checkpoint that cannot be the best.

        Raises:
            WriteError: this one, or the one before it, cannot be written because of the disk or the directory.
            UserError: it cannot, for another reason.
        """
        args, step = self._ocp.args, int(state.step)
        with self._writing():
            self._manager.wait_until_finished()
            self._sum()
            # A copy: the next step donates these buffers while they are still being written.
            copied = jax.tree.map(lambda leaf: leaf.copy(), state)
            self._manager.save(
                step,
                args=args.Composite(state=args.StandardSave(copied), record=args.JsonSave(dict(record))),
                metrics=None if metrics is None else dict(metrics),
            )
            self._without_checksums = step

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            of_disk = of_the_system(error)
            remedy = "free the disk or mend the directory" if of_disk else "mend what this says"
            raise (WriteError if of_disk else UserError)(
                f"{self.directory}: cannot write a checkpoint ({first_line(error)}); those before it are whole: "
                f"{remedy}, and go on with the same command"
            ) from error

    def refresh(self) -> None:
        """Start the checksums of a checkpoint that has reached the disk meanwhile, on a thread."""
        if self._without_checksums is not None and not self._manager.is_saving_in_progress():
            with self._writing():
                self._manager.wait_until_finished()
                self._sum()

    def _sum(self) -> None:
        """Start the checksums of what is on disk, once those of the one before are written."""
        if self._summing is not None:
            self._summing.join()
            self._summing = None
        step, self._without_checksums = self._without_checksums, None
        if step is not None and is_first():
            self._summing = threading.Thread(target=self._sums.write, args=(step,), name="checksums")
            self._summing.start()

    def steps(self) -> list[int]:
        """The steps at which there are checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step of the best validation score; the latest one of equals."""
        return self._manager.best_step()

    def best_metric(self) -> float | None:
        """The validation score of `best_step`; None where it is not finite, as in ``metrics.jsonl``."""
        step = self.best_step()
        value = math.nan if step is None else float(self._manager.metrics(step)[self._metric])
        return value if math.isfinite(value) else None

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Read the state of a step into the structure, dtypes and shardings of ``like``.

        Raises:
            UserError: the checkpoint cannot be read, or has another structure.
        """
        self._sums.check(step)
        target = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        return self._restore(step, self._ocp.args.StandardRestore(target))

    def restore_meta_params(self, step: int, like: MetaParams) -> MetaParams:
        """Read the meta-parameters alone: the optimizer's state is twice their size, and perhaps of another version.

        Raises:
            UserError: as in `restore`.
        """
        self._sums.check(step)
        target = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, {"meta_params": like})
        restore_args = self._ocp.checkpoint_utils.construct_restore_args(target)
        partial = self._ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        return self._restore(step, partial)["meta_params"]

    def restore_local(self, step: int, like: MetaParams) -> MetaParams:
        """`restore_meta_params` onto this process's first device where there are several processes, which all read.

        Raises:
            UserError: as in `restore`.
        """
        if jax.process_count() == 1:
            return self.restore_meta_params(step, like)
        whole = NamedSharding(make_mesh(), PartitionSpec())  # a checkpoint is read by all processes together
        return local_copy(self.restore_meta_params(step, shapes_on(like, whole)))

    def _restore(self, step: int, how: Any) -> Any:
        try:
            state = self._manager.restore(step, args=self._ocp.args.Composite(state=how)).state
            for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                if not isinstance(leaf, jax.Array):  # a partial restore leaves the shape where nothing is stored
                    raise ValueError(f"it has no {jax.tree_util.keystr(path, simple=True, separator='/')}")
            return state
        except Exception as error:
            raise UserError(
                f"{self.directory}/{step}: cannot restore this checkpoint ({first_line(error)}); "
                "delete its folder to go on from the one before it, or start a new run if another version wrote it"
            ) from error

    def record(self, step: int) -> dict[str, Any]:
        """Read the JSON record of a step."""
        args = self._ocp.args
        return self._manager.restore(step, args=args.Composite(record=args.JsonRestore())).record

    def wait(self) -> None:
        """Block until every checkpoint that was started is on disk, with its checksums."""
        with self._writing():
            self._manager.wait_until_finished()
        self._sum()
        if self._summing is not None:
            self._summing.join()

    def close(self) -> None:
        """Wait, then release the threads."""
        self.wait()
        self._manager.close()
