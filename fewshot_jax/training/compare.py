"""Two runs on the same test episodes, compared episode by episode."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.applications.table import score_of
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.paired import Paired, paired
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.training.episode_scores import EPISODE_SCORES, read_episode_scores, scored_step
from fewshot_jax.training.experiment import evaluation_mesh, experiment_of_run
from fewshot_jax.training.rows import EvaluationSetup, rows_of_learner
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.versions import versions


class Comparison(NamedTuple):
    """A run against another.

    Attributes:
        runs: their paths.
        learners: their learners' names.
        score: what is compared.
        of_runs: at each number of shots the `Estimate` of either.
        differences: at each number of shots the first minus the second.
    """

    runs: tuple[str, str]
    learners: tuple[str, str]
    score: Score
    of_runs: dict[int, tuple[Estimate, Estimate]]
    differences: dict[int, Paired]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, shares as fractions."""
        return {
            "runs": list(self.runs),
            "learners": list(self.learners),
            "score": self.score.name,
            "larger_is_better": self.score.larger_is_better,
            "shots": {
                str(shots): {"scores": [one._asdict() for one in self.of_runs[shots]], **difference.to_json()}
                for shots, difference in self.differences.items()
            },
            **versions(),
        }


def compare(
    one: str | Path,
    other: str | Path,
    *,
    episodes: int | None = None,
    shots: tuple[int, ...] | None = None,
    quiet: bool = False,
) -> Comparison:
    """Compare the learners of two runs whose configs give the same test episodes.

    Scores that the last evaluation of a run kept are taken from there; otherwise the learner alone is evaluated.

    Args:
        one, other: directories of the runs.
        episodes, shots, quiet: as of `evaluate.evaluate`.

    Raises:
        UserError: there is no run or no checkpoint, the data of the two differs or has changed, they have no number of
            shots in common, or fewer than two episodes in which both have a finite score.
    """
    runs = RunDirectory(one), RunDirectory(other)
    configs = [run.config() for run in runs]
    first, second = (run.fingerprint().get("test") for run in runs)
    if first != second:
        raise UserError(f"{other}: its test data is not that of {one}, so that there are no pairs; train both on one")
    scores = [_scores(run, episodes, shots, quiet) for run in runs]
    common = [k for k in scores[0] if k in scores[1]]
    if not common:
        raise UserError(f"{one} and {other} have no number of shots in common; name some with --shots")
    of_runs, differences = {}, {}
    for k in common:
        least = min(len(values[k]) for values in scores)
        a, b = (values[k][:least] for values in scores)  # episode i is the same, however many there are
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() < 2:
            raise UserError(f"{one} and {other}: {both.sum()} of {least} episodes have scores of both; give --episodes")
        of_runs[k], differences[k] = (estimate(a[both]), estimate(b[both])), paired(a, b)
    return Comparison(
        (str(one), str(other)),
        (configs[0].learner.name, configs[1].learner.name),
        score_of(configs[0]),
        of_runs,
        differences,
    )


def _scores(
    run: RunDirectory, episodes: int | None, shots: tuple[int, ...] | None, quiet: bool
) -> dict[int, np.ndarray]:
    """The scores of a run's learner at each number of shots, kept ones where they are as asked for."""
    config, result = run.config(), run.result()
    wanted = config.evaluation.shots if shots is None else shots
    count = config.evaluation.episodes if episodes is None else episodes
    if (run.path / EPISODE_SCORES).exists() and result and result.get("best_step") == scored_step(run.path):
        kept = read_episode_scores(run.path).get(config.learner.name, {})
        if all(k in kept and len(kept[k]) >= count for k in wanted):
            return {k: kept[k][:count] for k in wanted}
    experiment = experiment_of_run(run)
    setup = EvaluationSetup(experiment, count, quiet=quiet)
    meta_params, _ = experiment.restore_best(run, evaluation_mesh(config))
    row = rows_of_learner(setup, meta_params)[config.learner.name]
    for k in wanted:  # before the work begins: a split may be too small for this many
        setup.streams(k)
    if not quiet:
        print(f"{run.path}: evaluating {config.learner.name} on {count} episodes", file=sys.stderr, flush=True)
    return {k: np.asarray(row(k)[experiment.score.name]) for k in wanted}
