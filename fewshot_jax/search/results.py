"""What a study found: its trials as rows, and the best of them."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_jax.applications.application import Score
from fewshot_jax.atomic_write import atomic_file
from fewshot_jax.config import Config
from fewshot_jax.data.spreadsheet import safe_cell
from fewshot_jax.search.space import Scalar
from fewshot_jax.search.trials import RUN, SECONDS, STEPS, WHY
from fewshot_jax.training.results import Evaluation

if TYPE_CHECKING:
    import optuna

COMPLETE = "complete"
_STATES = {"COMPLETE": COMPLETE, "PRUNED": "pruned", "FAIL": "interrupted", "RUNNING": "running", "WAITING": "waiting"}


class TrialRow(NamedTuple):
    """One trial.

    Attributes:
        number: of the trial.
        state: "complete"; "pruned", ended early as hopeless; "failed", see `why`; "interrupted", and its values tried
            again; "running" or "waiting".
        values: by dotted field.
        score: of its best validation; None where there was none.
        steps: that it trained.
        seconds: of training and validation.
        run: the name of its directory under ``trials``.
        why: a failed one failed; "" otherwise.
    """

    number: int
    state: str
    values: Mapping[str, Scalar]
    score: float | None
    steps: int
    seconds: float
    run: str
    why: str


class StudyResult(NamedTuple):
    """A study.

    Attributes:
        directory: of its files.
        score: the validation score that is searched for.
        trials: in the order of their numbers.
        best: of the complete trials; None where there is none.
        config: of the best trial.
        importance: of each field, shares of the variance of the score (fANOVA) of sum 1; empty where they cannot be
            told, of fewer than two scores that differ.
        evaluation: of the best trial on the test tasks, if it was asked for.
    """

    directory: Path
    score: Score
    trials: tuple[TrialRow, ...]
    best: TrialRow | None
    config: Config | None
    importance: Mapping[str, float]
    evaluation: Evaluation | None = None

    def ranked(self) -> list[TrialRow]:
        """The complete trials, the best first."""
        sign = -1 if self.score.larger_is_better else 1
        return sorted((row for row in self.trials if row.state == COMPLETE), key=lambda row: sign * (row.score or 0.0))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "study": str(self.directory),
            "score": self.score.name,
            "larger_is_better": self.score.larger_is_better,
            "best": None if self.best is None else self.best._asdict(),
            "trials": [row._asdict() for row in self.trials],
            "importance": dict(self.importance),
            **({"evaluation": self.evaluation.to_json()} if self.evaluation else {}),
        }


def trial_rows(study: "optuna.Study", score: Score) -> tuple[TrialRow, ...]:
    """The trials of a study."""
    best = max if score.larger_is_better else min

    def row(trial: "optuna.trial.FrozenTrial") -> TrialRow:
        attrs, why = trial.user_attrs, trial.user_attrs.get(WHY, "")
        finite = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
        value = trial.value if trial.state.name == "COMPLETE" else best(finite, default=None)
        return TrialRow(
            number=trial.number,
            state="failed" if why else _STATES[trial.state.name],
            values=trial.params,
            score=value,
            steps=attrs.get(STEPS, max(trial.intermediate_values, default=0)),
            seconds=attrs.get(SECONDS, 0.0),
            run=attrs.get(RUN, str(trial.number)),
            why=why,
        )

    return tuple(row(trial) for trial in study.get_trials(deepcopy=False))


def importance_of(study: "optuna.Study", seed: int) -> dict[str, float]:
    """The share of each field in the variance of the score, by fANOVA.

    References:
        Hutter, Hoos, Leyton-Brown. An Efficient Approach for Assessing Hyperparameter Importance. ICML 2014.
    """
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    varied = {name for trial in complete for name in trial.params if len({t.params[name] for t in complete}) > 1}
    if not varied or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=sorted(varied)))


def write_trials(rows: Sequence[TrialRow], fields: Sequence[str], score: Score, path: Path) -> None:
    """Write a CSV file with a row for each trial, its score in full; no cell is a formula to a spreadsheet."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)

        def write(*cells: Any) -> None:
            writer.writerow([safe_cell(cell) for cell in cells])

        write("number", "state", *fields, score.metric, "steps", "seconds", "run", "why")
        for row in rows:
            values = [row.values.get(name) for name in fields]
            write(row.number, row.state, *values, row.score, row.steps, f"{row.seconds:.1f}", row.run, row.why)
