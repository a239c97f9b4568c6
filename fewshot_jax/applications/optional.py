"""What an application may say of itself: baselines, texts to compare, what is held out, how its files are read.

An application inherits `OptionalParts` and overrides what it has; holdout, the check of leakage, the baselines,
`data validate` and `data preview` ask for these parts and know no application by name.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.validate import FileFormat
from fewshot_jax.errors import UserError
from fewshot_jax.types import Episode, MetaLearner, MetaParams, PyTree

By = Literal["class", "domain", "file"]
PARTS = ("support", "query")


class SplitTexts(NamedTuple):
    """The texts and the names of each split, which no two splits should share.

    Attributes:
        texts: by split.
        names: of classes, or of tasks, by split.
    """

    texts: Mapping[str, Sequence[str]]
    names: Mapping[str, Sequence[str]]


class HeldOut(NamedTuple):
    """What a run is tested on.

    Attributes:
        tested: the names of its test split: classes, or tasks; none where tasks are generated.
        divided: the names of what was divided to hold them out: those, or domains, or data sets.
    """

    tested: tuple[str, ...] = ()
    divided: tuple[str, ...] = ()


class Shown(NamedTuple):
    """An item of an episode, as a reader sees it.

    Attributes:
        part: "support" or "query".
        read: the text, as the model gets it.
        wanted: the name of its class, or the text to write.
    """

    part: str
    read: str
    wanted: str


class OptionalParts(Protocol):
    """The parts that an application may have, with what one that lacks them gives.

    Attributes:
        file_format: how a file of its examples is read by itself; None where it reads no files of texts.
        text_scores: the scores of the texts that it writes, by their names in `evaluation.written`; where there are
            some, `sampler(split, shots).task(step, index)` gives the texts of an episode.
    """

    file_format: ClassVar[FileFormat | None] = None
    text_scores: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def is_endless(cls, config: Config) -> bool:
        """Whether every episode draws a new task, so that nothing can be divided."""
        del config
        return False

    @classmethod
    def division(cls, config: Config, by: By | None, flag: str) -> DataConfig:
        """Return the data divided by what is to be held out.

        Args:
            config: of the run, whose data no file divides.
            by: what is held out; None for what the config divides.
            flag: of the command line, for messages.

        Raises:
            UserError: the data has nothing of that kind.
        """
        del by
        raise UserError(f"{flag}: {config.application} has nothing to hold out; give --seeds alone")

    @classmethod
    def held_out(cls, config: Config) -> HeldOut:
        """Return what the test split has, where `is_endless` is false.

        Raises:
            UserError: the validation or the test split cannot fill an episode.
        """
        del config
        return HeldOut()

    def split_texts(self) -> SplitTexts | None:
        """Return what no two splits should share; None where there are no texts, or tasks are generated."""
        return None

    def first_episode(self) -> list[Shown]:
        """Return the first task of the first meta-batch, before its tokens are cut, dropped or remapped.

        Raises:
            UserError: there are no texts to show.
        """
        raise UserError("this application has no texts to show; preview a file of examples instead")

    def draw(self, learner: MetaLearner, meta_params: MetaParams, directory: Path) -> None:
        """Add the pictures of a trained learner to its run directory; none by default."""
        del learner, meta_params, directory

    def chance(self) -> float | None:
        """Return the expected value of the first score of guessing; None where there is no guess."""
        return None

    def centroid_vectors(self, split: str) -> tuple[str, Any] | None:
        """Return vectors ``[n, F]``, dense or sparse, whose nearest centroids label queries, and their baseline's name.

        Args:
            split: whose ``n`` items the episodes of ``sampler(split, shots)`` point into.
        """
        del split
        return None

    def plain_outputs(self) -> Mapping[str, Callable[[Episode], PyTree]]:
        """Return baselines that need no model: by name, the outputs for one episode, which the first score judges."""
        return {}
