"""What an evaluation found."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.evaluation.confusion import Confusion
from fewshot_jax.evaluation.statistics import Estimate, plain
from fewshot_jax.evaluation.text_metrics import signatures
from fewshot_jax.evaluation.tuning import Choice
from fewshot_jax.versions import versions

Per = dict[str, dict[int, Estimate]]  # for each row, the estimate at each number of shots


class Measured(NamedTuple):
    """One score of all rows.

    Attributes:
        score: what was measured.
        scores: for each row of the table (the learner first, then the baselines) the `Estimate` at each number of
            shots.
        gains: the learner's score minus that of each baseline, paired by episode.
    """

    score: Score
    scores: Per
    gains: Per


class Evaluation(NamedTuple):
    """Scores on test episodes.

    Attributes:
        run: name of the run's directory.
        learner: its name, the first of ``scores``.
        score, scores, gains: of the score that checkpoints are chosen by, see `Measured`.
        more: the other scores.
        choices: rate and steps of the rows whose loop is chosen on validation episodes, at each number of shots.
        ways: classes of an episode; None where there are none.
        episodes: of the evaluation.
        step: the checkpoint's.
        finished: whether the run had ended.
        confusion: of classes, how the learner took one for another, at each number of shots.
        episode_scores: the values behind ``scores``, ``[episodes]`` of each row at each number of shots; of all rows
            but chance.
    """

    run: str
    learner: str
    score: Score
    scores: Per
    gains: Per
    more: tuple[Measured, ...]
    choices: dict[str, dict[int, Choice]]
    ways: int | None
    episodes: int
    step: int
    finished: bool
    confusion: Mapping[int, Confusion] = MappingProxyType({})
    episode_scores: Mapping[str, Mapping[int, np.ndarray]] = MappingProxyType({})

    def signatures(self) -> dict[str, str]:
        """sacrebleu's, of those scores that are its own."""
        shown = {one.score.name for one in self.more}
        return {name: text for name, text in signatures().items() if name in shown} if {"BLEU", "chrF"} & shown else {}

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, shares as fractions; null for what is not finite."""

        def plain_rows(rows: dict[str, dict[int, Any]]) -> dict[str, dict[str, Any]]:
            return {name: {str(shots): plain(value) for shots, value in row.items()} for name, row in rows.items()}

        signed = self.signatures()
        confusion = {str(shots): one.to_json() for shots, one in self.confusion.items()}
        return {
            "run": self.run,
            "learner": self.learner,
            "score": self.score.name,
            "larger_is_better": self.score.larger_is_better,
            self.score.name.replace(" ", "_"): plain_rows(self.scores),
            "gain": plain_rows(self.gains),
            "more": {
                one.score.name.replace(" ", "_"): {"scores": plain_rows(one.scores), "gain": plain_rows(one.gains)}
                for one in self.more
            },
            "choices": plain_rows(self.choices),
            "ways": self.ways,
            "episodes": self.episodes,
            "checkpoint_step": self.step,
            "finished": self.finished,
            **({"confusion": confusion} if confusion else {}),
            **({"signatures": signed} if signed else {}),
            **versions(),
        }
