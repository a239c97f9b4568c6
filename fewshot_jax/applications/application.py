"""What training and evaluation need of an application: its functions, its episodes, its score."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import jax

from fewshot_jax.applications.optional import OptionalParts
from fewshot_jax.config import Config
from fewshot_jax.types import Batch, BatchFn, Episode, Key, LossFn, Params, PyTree

Stream = Callable[[int, int], Episode]  # (step, tasks) -> the meta-batch of that step, as arrays

# Version of the reading rules, stored with the fingerprints of a run. Change it when the same files would give other
# texts or names. Older runs, which lack it, kept duplicate texts, and names as the files have them.
READING = {"reading": "distinct texts, normal names"}


class Functions(NamedTuple):
    """What a learner is built from: one model, written for one task.

    Attributes:
        init_params: ``rng -> params``.
        loss_fn: as in `types.LossFn`, of the parameters that an inner loop adapts.
        output_fn: ``(params, batch, rng) -> outputs``, which the score reads.
        joint_loss_fn: the loss of many tasks at once, for `multi_task`.
        embed_fn: ``(params, batch, rng) -> [B, D]``; None where there are no classes to compare.
        task_init_fn: where a task's inner loop starts; None for the meta-parameters themselves.
        prototype_init_fn: the same with prototypes for a head; None where there are no classes.
        scratch_params: ``rng -> params`` that know nothing, where `init_params` gives pretrained ones.
        context: where the context parameters of a task start (cavia).
        write_fn: ``output_fn`` with generated ``ids`` beside; None where nothing is written.
        join_fn: ``(support, query) -> batch``, the support set before each query (metaicl); None where the model
            reads no examples.
        ways: classes of the head, None for none.
        frozen: paths of the parameters that no loop changes.
    """

    init_params: Callable[[Key], Params]
    loss_fn: LossFn
    output_fn: BatchFn
    joint_loss_fn: LossFn
    embed_fn: BatchFn | None = None
    task_init_fn: BatchFn | None = None
    prototype_init_fn: BatchFn | None = None
    scratch_params: Callable[[Key], Params] | None = None
    context: PyTree = None
    write_fn: BatchFn | None = None
    join_fn: Callable[[Batch, Batch], Batch] | None = None
    ways: int | None = None
    frozen: frozenset[str] = frozenset()


class Score(NamedTuple):
    """How a task's outputs are judged.

    Attributes:
        name: as it stands in tables.
        of: ``(outputs, episode) -> scalar``, for one task.
        larger_is_better: the direction in which a checkpoint is chosen.
        percent: a share, printed in percent.
        exponential: the name of e to the power of its mean, shown as well; None for no such row.
    """

    name: str
    of: Callable[[PyTree, Episode], jax.Array]
    larger_is_better: bool = True
    percent: bool = True
    exponential: str | None = None

    @property
    def metric(self) -> str:
        """Its name in metrics and checkpoints."""
        return f"validation_{self.name.replace(' ', '_')}"


class Application(OptionalParts, Protocol):
    """The data and the functions of one run, built from its config.

    Classes of `applications.table` inherit from `OptionalParts` and override the parts that they support.
    Episodes are a pure function of split, step and task index.
    """

    @property
    def config(self) -> Config:
        """Of the run, resolved."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the data, such as duplicates that are skipped; told when a run starts."""

    @property
    def score(self) -> Score:
        """Of its outputs: what checkpoints and loops are chosen by, the first of `scores`."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """All that its outputs are judged by."""

    def with_config(self, config: Config) -> Self:
        """The same data for another learner or inner loop."""

    def functions(self, *, training: bool) -> Functions:
        """With the head and the dropout of training, or of evaluation."""

    def training_stream(self) -> Stream:
        """The episodes of meta-training, augmented."""

    def stream(self, split: str, shots: int) -> Stream:
        """Episodes of fixed size, the same for every learner, from "validation" or "test"."""

    def labels(self) -> dict[str, list[str]]:
        """The class names of each split."""

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps beside arrays, config and labels, in JSON."""

    def save(self, directory: Path) -> None:
        """Write what `build` reads again on resume."""

    def fingerprint(self) -> dict[str, str]:
        """A hash of each split's data; with `READING` where files of texts are read."""


def episode_seed(config: Config, split: str) -> int:
    """The seed of a split's episodes: those of two splits, or of two runs, never coincide."""
    return 3 * config.seed + ("train", "validation", "test").index(split)


def evaluation_steps(config: Config) -> int:
    """Inner steps in evaluation and adaptation."""
    return config.inner.steps if config.inner.test_steps is None else config.inner.test_steps
