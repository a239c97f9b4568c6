"""What the directory of a run holds, read for a report; what is missing or cannot be read is None."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.table import application_of, score_of
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError, first_line, require
from fewshot_jax.evaluation.baselines import CHANCE
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.evaluation.written import scores_of_texts
from fewshot_jax.runs.metrics import read_metrics
from fewshot_jax.training.episode_scores import EPISODE_SCORES, read_episode_scores
from fewshot_jax.training.run_directory import RunDirectory

Rows = dict[str, dict[int, Estimate]]  # row -> shots -> mean and half-width


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The files of one run.

    Attributes:
        run: its directory.
        name: as the report calls it.
        config: resolved.
        score: of its application.
        metrics: the rows of ``metrics.jsonl``; empty where there are none.
        evaluation: ``evaluation.json``, or None.
        result: ``result.json``, or None while the run is unfinished.
        fingerprint: of the data, of each split.
        episode_scores: row -> shots -> ``[episodes]``, or None.
        notes: sentences about files that cannot be read.
    """

    run: RunDirectory
    name: str
    config: Config
    score: Score
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    fingerprint: Mapping[str, Any]
    episode_scores: Mapping[str, Mapping[int, np.ndarray]] | None
    notes: Sequence[str]

    @property
    def learner(self) -> str:
        return self.config.learner.name

    @property
    def of_classes(self) -> bool:
        """Whether it classifies."""
        return self.config.record.labelled

    @property
    def scale(self) -> float:
        """What a score is multiplied by to be shown."""
        return 100.0 if self.score.percent else 1.0

    @property
    def unit(self) -> str:
        """The name of the score with its unit."""
        return f"{self.score.name}{' (%)' if self.score.percent else ''}"

    def at(self, shots: int) -> str:
        """A number of shots, in words."""
        return f"{shots}-shot" if self.of_classes else f"{shots} example{'' if shots == 1 else 's'}"

    def rows(self) -> Rows:
        """The table of the evaluation: the learner's rows first, then the baselines; empty where there is none."""
        found = rows_of((self.evaluation or {}).get(self.score.name.replace(" ", "_")))
        own = {name: row for name, row in found.items() if self.is_own(name)}
        return {**own, **{name: row for name, row in found.items() if name not in own}}

    def is_own(self, row: str) -> bool:
        """Whether a row is the learner's, not a baseline's."""
        return row.split(",")[0] == self.learner

    def unit_of(self, score: str) -> tuple[str, bool]:
        """The name of another score of the evaluation, and whether it is a share, shown in percent."""
        application = application_of(self.config)
        known = {one.name: one for one in (*application.scores, *scores_of_texts(application.text_scores))}
        name = score if score in known else score.replace("_", " ")
        percent = name in known and known[name].percent
        return f"{name}{' (%)' if percent else ''}", percent

    def chance(self) -> float | None:
        """The score of guessing, where there are classes."""
        return 1 / self.config.evaluation.ways if self.of_classes else None

    def references(self, shots: Sequence[int]) -> dict[str, float]:
        """The baselines that a curve is drawn beside: chance and the best other one, means over some numbers of shots.

        The other baseline is that of the test episodes, and only there if the evaluation has all of these shots.
        """
        guess = self.chance()
        lines = {} if guess is None else {CHANCE: guess}
        means = {
            name: float(np.mean([row[k].mean for k in shots]))
            for name, row in self.rows().items()
            if not self.is_own(name) and name != CHANCE and all(k in row for k in shots)
        }
        finite = {name: mean for name, mean in means.items() if math.isfinite(mean)}
        if finite:
            best = (max if self.score.larger_is_better else min)(finite, key=lambda name: finite[name])
            lines[f"best baseline in test: {best}"] = finite[best]
        return lines


def is_chance(row: str) -> bool:
    """Whether a row is that of guessing, of one run or of "chance (run)" among several."""
    return row == CHANCE or row.startswith(f"{CHANCE} (")


def rows_of(table: Any) -> Rows:
    """The rows of a table in ``evaluation.json``; NaN for null."""

    def number(value: float | None) -> float:
        return math.nan if value is None else float(value)

    return {
        name: {int(shots): Estimate(number(of["mean"]), number(of["half_width"])) for shots, of in row.items()}
        for name, row in (table or {}).items()
    }


def _check_tables(evaluation: Mapping[str, Any], score: Score) -> None:
    """Raise a UserError unless the tables of an evaluation can be read."""
    try:
        for table in (evaluation.get(score.name.replace(" ", "_")), evaluation.get("gain")):
            rows_of(table)
        for more in (evaluation.get("more") or {}).values():
            rows_of(more["scores"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"a table of scores is torn: {first_line(error)}; 'fewshot-jax evaluate' writes it anew"
        ) from None


def read_run(path: str | Path, name: str | None = None) -> RunRecord:
    """Read the files of a run, finished or not.

    Args:
        path: its directory.
        name: as the report calls it; None for the directory's name.

    Raises:
        UserError: there is no run.
    """
    run, notes = RunDirectory(path), []
    config = run.config()
    score = score_of(config)

    def read(file: str, check: Callable[[Any], None] = lambda content: None) -> Any:
        try:
            content = json.loads((run.path / file).read_text(encoding="utf-8"))
            require(isinstance(content, dict), "expected an object")
            check(content)
            return content
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # a UserError is a ValueError
            notes.append(f"{file} cannot be read ({error}).")
            return None

    try:
        metrics = read_metrics(run.metrics)
    except OSError as error:
        metrics = []
        notes.append(f"{run.metrics.name} cannot be read ({error}).")
    try:
        known = (run.path / EPISODE_SCORES).exists()
        episode_scores = read_episode_scores(run.path) if known else None
    except UserError as error:
        episode_scores = None
        notes.append(f"{error}.")
    return RunRecord(
        run=run,
        name=run.path.resolve().name if name is None else name,
        config=config,
        score=score,
        metrics=metrics,
        evaluation=read("evaluation.json", check=lambda content: _check_tables(content, score)),
        result=read("result.json"),
        fingerprint=read("data.json") or {},
        episode_scores=episode_scores,
        notes=notes,
    )
