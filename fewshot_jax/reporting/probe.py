"""What a report measures itself on the best checkpoint of a run, on a bounded number of episodes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.applications.application import evaluation_steps
from fewshot_jax.applications.classification import ClassApplication, confusion_of_episode
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.confusion import Confusion
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes, over_episodes
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.reporting.calibration import Calibration, calibrate
from fewshot_jax.reporting.embedding import Embedding, embed
from fewshot_jax.reporting.record import RunRecord
from fewshot_jax.training.experiment import Experiment, evaluation_mesh, experiment_of_run
from fewshot_jax.types import Episode, Key, MetaParams, PyTree

MOST_POINTS = 13  # numbers of inner steps that are tried


class StepCurve(NamedTuple):
    """Scores on validation episodes after other numbers of inner steps.

    Attributes:
        steps: the ``P`` numbers.
        trained, evaluated: those of training and of evaluation.
        scores: at each number of shots, ``[P]``.
    """

    steps: tuple[int, ...]
    trained: int
    evaluated: int
    scores: dict[int, list[Estimate]]


class Probe(NamedTuple):
    """What was measured.

    Attributes:
        episodes: how many, at each number of shots.
        steps: None for a learner without an inner loop.
        scores: of the learner on test episodes, at each number of shots ``[episodes]``.
        calibration, confusion: of classes, on the same episodes.
        embedding: None where the application has no features.
        missing: why nothing was measured; None where it was.
    """

    episodes: int
    steps: StepCurve | None = None
    scores: Mapping[int, np.ndarray] = {}
    calibration: Mapping[int, Calibration] = {}
    confusion: Mapping[int, Confusion] = {}
    embedding: Embedding | None = None
    missing: str | None = None


def fewest_and_most(shots: tuple[int, ...]) -> list[int]:
    """The numbers of shots that a report looks at."""
    return sorted({min(shots), max(shots)})


def probe(record: RunRecord, *, episodes: int) -> Probe:
    """Measure a run; why that cannot be done goes into ``missing``.

    Args:
        record: of the run.
        episodes: of each measurement at each number of shots; 0 to measure nothing.
    """
    if episodes == 0:
        return Probe(0, missing="Not measured, since the report was made with --episodes 0.")
    if not record.run.resumable():
        return Probe(0, missing="Not measured: the run has no checkpoint yet.")
    try:
        experiment = experiment_of_run(record.run)
        application = experiment.application
        meta_params, _ = experiment.restore_best(record.run, evaluation_mesh(record.config))
    except UserError as error:
        return Probe(0, missing=f"Not measured: {error}.")
    looked_at = fewest_and_most(record.config.evaluation.shots)
    found = Probe(episodes, steps=_step_curve(experiment, meta_params, episodes))
    if not isinstance(application, ClassApplication):
        return found._replace(scores=_scores(experiment, meta_params, looked_at, episodes))
    judged = {k: _judged(experiment, meta_params, k, episodes) for k in looked_at}
    tested = application.labels()["test"]
    return found._replace(
        scores={k: np.asarray(of["score"]) for k, of in judged.items()},
        calibration={k: calibrate(of["confidence"][of["real"]], of["correct"][of["real"]]) for k, of in judged.items()},
        confusion={
            k: Confusion(tested, *application.confusion("test", k, of["confusion"])) for k, of in judged.items()
        },
        embedding=embed(experiment, meta_params, shots=looked_at[-1]),
    )


def _sizes(experiment: Experiment, episodes: int) -> dict[str, Any]:
    tasks = min(experiment.config.evaluation.tasks, episodes)
    return {"episodes": episodes, "tasks": tasks, "rng": experiment.keys.evaluation}


def _scores(experiment: Experiment, meta_params: MetaParams, shots: list[int], count: int) -> dict[int, np.ndarray]:
    """The learner's score in each of the first test episodes."""
    application = experiment.application
    compiled = episode_scores(
        experiment.judging.learner, experiment.score.of, task_chunk=experiment.config.learner.task_chunk
    )
    sizes = _sizes(experiment, count)
    return {k: evaluate_episodes(compiled, meta_params, application.stream("test", k), **sizes) for k in shots}


def _judged(experiment: Experiment, meta_params: MetaParams, shots: int, count: int) -> dict[str, np.ndarray]:
    """Of the first test episodes: ``score [E]``, ``confidence, correct, real [E, Q]``, ``confusion [E, N, N]``."""

    def judge(logits: jax.Array, episode: Episode) -> PyTree:
        support, query = episode
        present = jnp.zeros(logits.shape[-1], bool).at[support["label"]].max(support["mask"])
        known = jnp.where(present[None, :], logits.astype(jnp.float32), -jnp.inf)
        return {
            "score": experiment.score.of(logits, episode),
            "confidence": jax.nn.softmax(known, axis=-1).max(-1),
            "correct": known.argmax(-1) == query["label"],
            "real": query["mask"].astype(bool),
            "confusion": confusion_of_episode(logits, episode),
        }

    compiled = episode_scores(experiment.judging.learner, judge, task_chunk=experiment.config.learner.task_chunk)
    stream = experiment.application.stream("test", shots)
    values: dict[str, np.ndarray] = evaluate_episodes(compiled, meta_params, stream, **_sizes(experiment, count))
    return values


def _step_curve(experiment: Experiment, meta_params: MetaParams, count: int) -> StepCurve | None:
    """The score on validation episodes after 0 to twice the trained number of steps, in one compiled program."""
    config, evaluation = experiment.config, experiment.config.evaluation
    if not config.learner.record.has_loop:
        return None
    trained, evaluated = config.inner.steps, evaluation_steps(config)
    most = max(2 * trained, evaluated, 1)
    spread = np.linspace(0, most, min(most + 1, MOST_POINTS)).round().astype(int).tolist()
    numbers = tuple(sorted({*spread, trained, evaluated}))
    longest = dataclasses.replace(config, inner=dataclasses.replace(config.inner, test_steps=most))
    learner = experiment.with_config(longest).judging.learner

    def one(meta_params: MetaParams, episode: Episode, key: Key, steps: jax.Array) -> PyTree:
        adapted = learner.adapt(meta_params, episode.support, key, inner_steps=steps)
        return experiment.score.of(learner.predict(adapted, episode.query, query_key(key)), episode)

    compiled = over_episodes(one, task_chunk=config.learner.task_chunk)
    sizes, scores = _sizes(experiment, count), {}
    for k in fewest_and_most(evaluation.validation_shots or evaluation.shots):
        stream = experiment.application.stream("validation", k)
        values = [evaluate_episodes(compiled, meta_params, stream, np.int32(steps), **sizes) for steps in numbers]
        scores[k] = [estimate(of) for of in values]
    return StepCurve(numbers, trained, evaluated, scores)
