"""Evaluation of a run on classes it never saw, beside the floors on the same episodes."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.config import Config
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.baselines import TfidfCentroid, chance
from fewshot_jax.evaluation.episodic import episode_accuracy, evaluate_episodes
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.training.checkpoints import Checkpoints
from fewshot_jax.training.experiment import Experiment, build_experiment
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.training.state import TrainState, initial_state, run_keys
from fewshot_jax.types import MetaParams
from fewshot_jax.versions import versions

TFIDF, UNTRAINED, CHANCE = "TF-IDF centroid", "untrained encoder", "chance"


class Evaluation(NamedTuple):
    """Accuracies on test episodes.

    Attributes:
        run: name of the run's directory.
        accuracy: for each row of the table (the learner first, then the floors)
            the `Estimate` at each number of shots.
        gain: the learner's accuracy minus TF-IDF's, paired by episode.
        ways, episodes: of the evaluation.
        step: the checkpoint's.
        finished: whether the run had ended.
    """

    run: str
    accuracy: dict[str, dict[int, Estimate]]
    gain: dict[int, Estimate]
    ways: int
    episodes: int
    step: int
    finished: bool

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, accuracies as fractions."""

        def plain(row: dict[int, Estimate]) -> dict[str, dict[str, float]]:
            return {str(shots): value._asdict() for shots, value in row.items()}

        return {
            "run": self.run,
            "accuracy": {name: plain(row) for name, row in self.accuracy.items()},
            "gain_over_tfidf": plain(self.gain),
            "ways": self.ways,
            "episodes": self.episodes,
            "checkpoint_step": self.step,
            "finished": self.finished,
            **versions(),
        }


def restore_best(run: RunDirectory, like: TrainState) -> tuple[MetaParams, int]:
    """The meta-parameters of a run's best checkpoint, and its step.

    Raises:
        UserError: the run has no checkpoint.
    """
    checkpoints = Checkpoints(run.checkpoints, read_only=True)
    try:
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{run.path}: has no checkpoint yet; let 'fewshot-jax train' run to its first validation")
        return checkpoints.restore(step, like).meta_params, step
    finally:
        checkpoints.close()


def evaluate(
    run_dir: str | Path, *, episodes: int | None = None, shots: tuple[int, ...] | None = None, quiet: bool = False
) -> Evaluation:
    """Evaluate a run's best checkpoint on episodes of its test classes.

    Args:
        run_dir: of the run.
        episodes: how many test episodes; None for the config's.
        shots: an evaluation for each number of shots; None for the config's.
        quiet: no progress.

    Returns:
        The `Evaluation`. That of the config's episodes and shots is written to
        ``evaluation.json`` as well.

    Raises:
        UserError: there is no run, no checkpoint, its data is gone or has
            changed, or there are fewer than two episodes.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    if episodes is not None and episodes < 2:
        raise UserError(f"episodes={episodes}: expected at least 2, for an interval")
    experiment = build_experiment(config, run.tokenizer())
    run.check_data(experiment)
    untrained = initial_state(config, vocab_size=experiment.vocab_size)
    meta_params, step = restore_best(run, untrained)
    rows: dict[str, dict[int, Estimate]] = {}
    gain: dict[int, Estimate] = {}
    count = config.evaluation.episodes if episodes is None else episodes
    tfidf = TfidfCentroid(experiment.splits["train"].texts, experiment.splits["test"].texts)
    for k in config.evaluation.shots if shots is None else shots:
        if not quiet:
            print(f"evaluating {config.evaluation.ways}-way {k}-shot on {count} episodes", file=sys.stderr, flush=True)
        values = _accuracies(experiment, meta_params, untrained.meta_params, tfidf, shots=k, episodes=count)
        for name, value in values.items():
            rows.setdefault(name, {})[k] = Estimate(float(value[0]), 0.0) if name == CHANCE else estimate(value)
        gain[k] = estimate(values[config.learner.name] - values[TFIDF])
    result = Evaluation(
        run.path.resolve().name, rows, gain, config.evaluation.ways, count, step, run.result() is not None
    )
    if episodes is None and shots is None:
        run.write("evaluation.json", result.to_json())
    return result


def _accuracies(
    experiment: Experiment,
    meta_params: MetaParams,
    untrained: MetaParams,
    tfidf: TfidfCentroid,
    *,
    shots: int,
    episodes: int,
) -> dict[str, np.ndarray]:
    """Accuracy per episode of the learner and of every floor, on the same episodes."""
    config: Config = experiment.config
    evaluation = config.evaluation
    sampler = experiment.sampler("test", ways=evaluation.ways, shots=shots, queries=evaluation.queries)

    def of_learner(name: str, params: MetaParams) -> np.ndarray:
        _, learner = build_learner(
            config, vocab_size=experiment.vocab_size, ways=evaluation.ways, training=False, name=name
        )
        return evaluate_episodes(
            episode_accuracy(learner, task_chunk=config.learner.task_chunk),
            params,
            lambda step: experiment.batch("test", sampler, step, evaluation.tasks),
            episodes=episodes,
            tasks=evaluation.tasks,
            rng=run_keys(config.seed).evaluation,
        )

    return {
        config.learner.name: of_learner(config.learner.name, meta_params),
        TFIDF: tfidf.accuracies(
            lambda step: sampler.batch(step, evaluation.tasks), episodes=episodes, tasks=evaluation.tasks
        ),
        UNTRAINED: of_learner("protonet", untrained),
        CHANCE: np.array([chance(evaluation.ways)]),
    }
