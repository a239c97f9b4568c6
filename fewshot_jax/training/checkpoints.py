"""Checkpoints: Orbax, asynchronous and atomic; the last ones and the best one are kept.

A checkpoint stands alone. Beside the arrays of the `TrainState` it holds a JSON
record: the resolved config, the label names of each split, the tokenizer, the
validation score and the versions that wrote it.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from fewshot_jax.algorithms.partition import leaf_path
from fewshot_jax.errors import UserError
from fewshot_jax.training.state import TrainState
from fewshot_jax.types import MetaParams


class Judge(Protocol):
    """By which number of a validation a checkpoint is the best; an application's `Score` is one."""

    @property
    def metric(self) -> str:
        """Name of the number."""
        ...

    @property
    def larger_is_better(self) -> bool: ...


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: ``RUN/checkpoints``; made where it is missing, unless `read_only`.
        score: whose validation decides which is best.
        keep: how many of the last checkpoints to keep, beside the best one.
        read_only: never write.
    """

    def __init__(self, directory: Path, score: Judge, *, keep: int = 2, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._ocp = ocp
        self.directory = directory.absolute()
        self._metric = score.metric
        sign = 1 if score.larger_is_better else -1

        def best(metrics: Mapping[str, float]) -> float:
            value = sign * metrics[score.metric]
            return value if math.isfinite(value) else -math.inf  # a NaN has no place in an order

        options = ocp.CheckpointManagerOptions(
            best_fn=best,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep), BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False)]
            ),
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, state: TrainState, record: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Start writing a checkpoint of ``state.step``; returns before it is on disk."""
        args = self._ocp.args
        self._manager.save(
            int(state.step),
            args=args.Composite(state=args.StandardSave(state), record=args.JsonSave(dict(record))),
            metrics=dict(metrics),
        )

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
        target = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, like)
        return self._restore(step, self._ocp.args.StandardRestore(target))

    def restore_meta_params(self, step: int, like: MetaParams) -> MetaParams:
        """Read the meta-parameters alone: the optimizer's state is twice their size, and perhaps of another version.

        Raises:
            UserError: as in `restore`.
        """
        target = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, {"meta_params": like})
        restore_args = self._ocp.checkpoint_utils.construct_restore_args(target)
        partial = self._ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        return self._restore(step, partial)["meta_params"]

    def _restore(self, step: int, how: Any) -> Any:
        try:
            state = self._manager.restore(step, args=self._ocp.args.Composite(state=how)).state
            for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                if not isinstance(leaf, jax.Array):  # a partial restore leaves the shape where nothing is stored
                    raise ValueError(f"it has no {leaf_path(path)}")
            return state
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{self.directory}/{step}: cannot restore this checkpoint ({reason}); "
                "delete its folder to go on from the one before it, or start a new run if another version wrote it"
            ) from error

    def record(self, step: int) -> dict[str, Any]:
        """Read the JSON record of a step."""
        args = self._ocp.args
        return self._manager.restore(step, args=args.Composite(record=args.JsonRestore())).record

    def wait(self) -> None:
        """Block until every checkpoint that was started is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the threads."""
        self._manager.wait_until_finished()
        self._manager.close()
