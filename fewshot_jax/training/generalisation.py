"""Train and test the parts of a holdout, and put their scores together."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.table import build_application, score_of
from fewshot_jax.config_file import differences
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.bootstrap import LEAST_GROUPS, Interval, interval_over
from fewshot_jax.evaluation.statistics import Estimate, estimate, plain
from fewshot_jax.runs.directory import check_writable
from fewshot_jax.training.episode_scores import EpisodeScores, read_episode_scores, scored_step
from fewshot_jax.training.holdout import Part
from fewshot_jax.training.loop import train
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.versions import versions

PerShots = dict[str, dict[int, Interval]]  # for each row, the interval at each number of shots


class ScoredPart(NamedTuple):
    """A ``part`` of a holdout and the scores of its test episodes, ``scores``."""

    part: Part
    scores: EpisodeScores


class Generalisation(NamedTuple):
    """What the parts of a holdout scored.

    Attributes:
        learner: its name.
        score: what was measured.
        ways: classes of an episode; None where there are none.
        episodes: of each part.
        parts: what was trained and tested.
        groups: the number of folds, or else of trainings, which intervals are over: under other seeds a fold holds out
            the same classes, and is no further draw of them.
        scores: for each row of the table the mean of the groups' means, with its interval.
        gains: the learner's score minus that of each baseline, paired by episode, likewise.
    """

    learner: str
    score: Score
    ways: int | None
    episodes: int
    parts: tuple[ScoredPart, ...]
    groups: int
    scores: PerShots
    gains: PerShots

    @property
    def bootstrapped(self) -> bool:
        """Whether intervals are over groups and episodes, and not over episodes alone."""
        return self.groups >= LEAST_GROUPS

    @property
    def over(self) -> str:
        """What the groups are."""
        return "folds" if self.parts[0].part.config.data.folds else "seeds"

    def of_part(self, tested: ScoredPart) -> dict[int, Estimate]:
        """The learner's score in one part, with its interval over episodes."""
        return {shots: estimate(values) for shots, values in tested.scores[self.learner].items()}

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, shares as fractions; null for what is not finite."""

        def of_shots(row: dict[int, Any]) -> dict[str, Any]:
            return {str(shots): plain(value) for shots, value in row.items()}

        return {
            "learner": self.learner,
            "score": self.score.name,
            "larger_is_better": self.score.larger_is_better,
            "ways": self.ways,
            "episodes": self.episodes,
            "interval": "hierarchical bootstrap" if self.bootstrapped else "Student's t over episodes",
            "over": self.over,
            "groups": self.groups,
            "scores": {name: of_shots(row) for name, row in self.scores.items()},
            "gain": {name: of_shots(row) for name, row in self.gains.items()},
            "parts": [
                {
                    "name": tested.part.name,
                    "seed": tested.part.config.seed,
                    "fold": tested.part.config.data.fold if tested.part.config.data.folds else None,
                    "held_out": list(tested.part.held_out),
                    "tested": list(tested.part.tested),
                    "scores": of_shots(self.of_part(tested)),
                }
                for tested in self.parts
            ],
            **versions(),
        }


def generalisation(parts: Sequence[Part], run_dir: str | Path, *, quiet: bool = False) -> Generalisation:
    """Train each part in a directory of its own below ``run_dir``, or go on with it, and put the scores together.

    Args:
        parts: from `holdout.parts_of`.
        run_dir: where their runs go.
        quiet: no progress.

    Raises:
        UserError: as of `train`, or ``run_dir`` is a run itself, or the data of a finished part has changed.
        Terminated: the process was told to end, and a checkpoint is saved.
    """
    folder = Path(run_dir)
    if RunDirectory(folder).exists():
        raise UserError(f"{folder}: holds a run of its own; give another --run-dir, below which each training gets one")
    check_writable(folder, flag="--run-dir")
    tested = []
    for number, part in enumerate(parts, start=1):
        if not quiet:
            print(f"{part.name} ({number} of {len(parts)})", file=sys.stderr, flush=True)
        scores = _kept(RunDirectory(folder / part.name), part)
        if scores is None:
            evaluation = train(part.config, folder / part.name, quiet=quiet)
            assert evaluation is not None  # evaluation.at_end
            scores = evaluation.episode_scores
        tested.append(ScoredPart(part, scores))
    return summary(tested)


def _kept(run: RunDirectory, part: Part) -> EpisodeScores | None:
    """The scores of a run that is finished and evaluated as its part wants it, so that it need not be done again.

    Raises:
        UserError: its data has changed since.
    """
    result = run.result() if run.exists() else None
    if result is None or differences(run.config(), part.config, ignore=("parallel.", "recovery.")):
        return None
    try:
        scores = read_episode_scores(run.path) if scored_step(run.path) == result.get("best_step") else None
    except UserError:  # killed before the evaluation, or while it was written
        return None
    if scores is None or part.config.learner.name not in scores:
        return None
    run.check_data(build_application(run.config(), run.path).fingerprint())
    return scores


def summary(tested: Sequence[ScoredPart]) -> Generalisation:
    """Put the scores of parts together.

    Args:
        tested: parts of one holdout, with the scores of their episodes.
    """
    config = tested[0].part.config
    learner, first = config.learner.name, tested[0].scores
    rows = [row for row in first if all(row in one.scores for one in tested)]
    shots = list(first[learner])
    groups: dict[tuple[str, ...], list[EpisodeScores]] = {}
    for one in tested:
        groups.setdefault(one.part.group, []).append(one.scores)

    def over_groups(values: Callable[[EpisodeScores, int], np.ndarray]) -> dict[int, Interval]:
        def of_group(group: list[EpisodeScores], k: int) -> np.ndarray:
            return np.concatenate([np.asarray(values(scores, k), np.float64) for scores in group])

        return {k: interval_over([of_group(group, k) for group in groups.values()]) for k in shots}

    def of_row(row: str) -> dict[int, Interval]:
        return over_groups(lambda scores, k: scores[row][k])

    def gain_over(row: str) -> dict[int, Interval]:
        return over_groups(lambda scores, k: scores[learner][k] - scores[row][k])

    return Generalisation(
        learner=learner,
        score=score_of(config),
        ways=config.evaluation.ways if "classification" in config.application else None,
        episodes=config.evaluation.episodes,
        parts=tuple(tested),
        groups=len(groups),
        scores={row: of_row(row) for row in rows},
        gains={row: gain_over(row) for row in rows if row.split(",")[0] != learner},
    )
