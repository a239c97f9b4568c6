"""The rows of an evaluation's table: the learner, and what stands beside it on the same episodes."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np

from fewshot_jax.applications.application import Application, Stream, evaluation_steps
from fewshot_jax.applications.classification import JOINT, ClassApplication, confusion_of_episode
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.confusion import Confusion
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes, judge_by
from fewshot_jax.evaluation.tuning import Choice, Tuning, adapted, fine_tuned
from fewshot_jax.evaluation.written import judge_written, scores_of_texts
from fewshot_jax.parallel.mesh import dividing_mesh
from fewshot_jax.parallel.rules import made_on_mesh
from fewshot_jax.runs.state import run_keys
from fewshot_jax.training.experiment import Experiment
from fewshot_jax.types import Episode, MetaLearner, MetaParams, PyTree

UNTRAINED, PRETRAINED, MULTI_TASK = "untrained", "pretrained", "multi-task"  # where the rows beside start from
PROTOTYPES, FINE_TUNED, IN_CONTEXT, TUNED = "prototypes", "fine-tuned", "in context", "tuned"
Row = Callable[[int], dict[str, np.ndarray]]  # shots -> scores [episodes] by name


class EvaluationSetup:
    """What all rows of a table share: the experiment, the episodes, the key.

    Args:
        experiment: of the run.
        episodes: at each number of shots.
        quiet: print no notes.

    Attributes:
        episodes: at each number of shots.
        choices: the last choice of each row whose loop is chosen.
        of_texts: the scores of written texts, where some are written.
        confusion: of the run's own row, where there are classes, at each number of shots.
        at_edge: the rows and numbers of shots whose choice stands at the edge of what was tried.
    """

    def __init__(self, experiment: Experiment, episodes: int, *, quiet: bool = False):
        self._quiet = quiet
        self.experiment, self.config = experiment, experiment.config
        self.application: Application = experiment.application
        self.functions = experiment.judging.functions
        self.judge = judge_by(self.application.scores)
        self._writes = experiment.writing is not experiment.judging
        self.of_texts = scores_of_texts(self.application.text_scores) if self._writes else ()
        self.choices: dict[str, Choice] = {}
        self.streams = functools.cache(self._streams)  # the same for all rows
        self._tasks = functools.cache(self._drawn)
        self.at_edge: list[str] = []
        self.confusion: dict[int, Confusion] = {}
        self.episodes = episodes
        self._common: dict[str, Any] = {
            "tasks": self.config.evaluation.tasks,
            "rng": run_keys(self.config.seed).evaluation,
        }

    def with_texts(self, shots: int, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The scores of a row, those of its texts in the place of its ids."""
        ids = values.pop("ids", None)
        if ids is None:
            return values
        tasks, application = self._tasks(shots), cast(Any, self.application)
        texts = [
            application.texts_of(rows, [example.source for example in task.query], application.codec)
            for rows, task in zip(ids, tasks, strict=True)
        ]
        return {**values, **judge_written(application.text_scores, texts, tasks)}

    def _drawn(self, shots: int) -> list[Drawn]:
        """The test episodes as texts, of applications that write."""
        sampler, tasks = self.application.sampler("test", shots), self.config.evaluation.tasks  # type: ignore[attr-defined]
        return [sampler.task(*divmod(index, tasks)) for index in range(self.episodes)]

    def row(
        self, learner: MetaLearner, meta_params: MetaParams, inner_steps: int | None = None, *, own: bool = False
    ) -> Row:
        """A row of a learner; of the run's ``own``, where there are classes, with its confusion."""
        application, chunk = self.application, self.config.learner.task_chunk
        counted = own and isinstance(application, ClassApplication)

        def judge(outputs: PyTree, episode: Episode) -> PyTree:
            values = self.judge(outputs, episode)
            return {**values, "confusion": confusion_of_episode(outputs, episode)} if counted else values

        compiled = episode_scores(learner, judge, task_chunk=chunk, inner_steps=inner_steps)

        def scores(shots: int) -> dict[str, np.ndarray]:
            test = self.streams(shots)[1]
            values = evaluate_episodes(compiled, meta_params, test, episodes=self.episodes, **self._common)
            if isinstance(application, ClassApplication) and counted:
                totals = application.confusion("test", shots, values.pop("confusion"))
                self.confusion[shots] = Confusion(application.labels()["test"], *totals)
            return self.with_texts(shots, values)

        return scores

    def _streams(self, shots: int) -> tuple[Stream, Stream]:
        """The validation episodes, on which loops are chosen, and those of the table."""
        test = self.application.stream("test", shots)  # first: what is wrong with it is what the user asked about
        return self._validation(shots), test

    def _validation(self, shots: int) -> Stream:
        """Validation episodes of so many shots, or of the most that the split is known to fill."""
        try:
            return self.application.stream("validation", shots)
        except UserError:
            filled = [number for number in self.config.evaluation.validation_shots if number < shots]
            if not filled:
                raise
            if not self._quiet:
                chosen = f"their loops are chosen at {max(filled)}"
                print(f"note: validation cannot fill {shots} shots; {chosen}", file=sys.stderr)
            return self.application.stream("validation", max(filled))

    def tuned(self, name: str, meta_params: MetaParams, tuning: Tuning, episodes: int) -> Row:
        """A row whose loop is chosen on so many validation episodes."""

        def scores(shots: int) -> dict[str, np.ndarray]:
            validation, test = self.streams(shots)
            choice = tuning.choose(meta_params, validation, episodes=episodes, **self._common)
            self.choices[name] = choice
            if edge := tuning.at_edge(choice):
                self.at_edge.append(f"{name}, {shots}-shot: {edge}")
            values = tuning.scores(choice, meta_params, test, episodes=self.episodes, **self._common)
            return self.with_texts(shots, values)

        return scores


def rows_of_learner(setup: EvaluationSetup, meta_params: MetaParams) -> dict[str, Row]:
    """The run's own rows: with its inner loop as trained, and with those that the config asks for beside it."""
    name, learner, evaluation = setup.config.learner.name, setup.experiment.writing.learner, setup.config.evaluation
    rows: dict[str, Row] = {name: setup.row(learner, meta_params, own=True)}
    for steps in evaluation.inner_steps:
        rows[f"{name}, {steps} step{'' if steps == 1 else 's'}"] = setup.row(learner, meta_params, steps)
    if evaluation.tune_rates:
        tuning = Tuning(
            functools.partial(adapted, learner, rate=setup.config.inner.rate),
            setup.application.score,
            setup.judge,
            rates=tuple(dict.fromkeys((1.0, *evaluation.tune_rates))),  # ties go to the loop of training
            steps=sorted({*evaluation.tune_steps, max(1, evaluation_steps(setup.config))}),
            task_chunk=setup.config.learner.task_chunk,
        )
        row = f"{name}, {TUNED}"
        rows[row] = setup.tuned(row, meta_params, tuning, evaluation.validation_episodes)
    return rows


def starts_of(setup: EvaluationSetup, initial: MetaParams) -> dict[str, MetaParams]:
    """What the run started from, and where that was pretrained, parameters that know nothing."""
    scratch = setup.functions.scratch_params
    if scratch is None:
        return {UNTRAINED: initial}
    key = run_keys(setup.config.seed).params
    if (mesh := dividing_mesh(initial)) is None:
        return {PRETRAINED: initial, UNTRAINED: {"params": scratch(key)}}
    params = made_on_mesh(lambda: {"params": scratch(key)}, mesh, setup.config.parallel.rules)
    return {PRETRAINED: initial, UNTRAINED: params}


def rows_in_context(
    setup: EvaluationSetup, starts: dict[str, MetaParams], wanted: Sequence[int], quiet: bool
) -> dict[str, Row]:
    """A start that reads the support set before each query, where the model reads examples; nothing adapts."""
    if setup.functions.join_fn is None or not setup.config.baselines.in_context:
        return {}
    learner = setup.experiment.other_learner("metaicl")
    rows = {f"{name}, {IN_CONTEXT}": start for name, start in starts.items() if name != UNTRAINED}
    try:
        for start in list(rows.values())[:1]:
            episode = setup.streams(max(wanted))[1](0, 1)
            jax.eval_shape(episode_scores(learner, setup.judge), start, episode, jax.random.key(0), 0)
    except ValueError as error:  # more tokens than the model has positions for
        if not quiet:
            print(f"note: left out the rows '{IN_CONTEXT}' ({error})", file=sys.stderr)
        return {}
    return {name: setup.row(learner, start) for name, start in rows.items()}


def rows_of_prototypes(setup: EvaluationSetup, starts: dict[str, MetaParams]) -> dict[str, Row]:
    """Prototypes of a frozen encoder, where there are classes."""
    if setup.functions.embed_fn is None:
        return {}
    learner = setup.experiment.other_learner("protonet")
    return {f"{name}, {PROTOTYPES}": setup.row(learner, start) for name, start in starts.items()}


def fine_tuned_rows(setup: EvaluationSetup, starts: dict[str, MetaParams]) -> dict[str, Row]:
    """Fine-tuning of a start, on the parameters that all of them have: a head of joint training is left behind."""
    baselines = setup.config.baselines
    if not baselines.fine_tuning:
        return {}
    tuning = Tuning(
        functools.partial(fine_tuned, setup.experiment.writing.functions),
        setup.application.score,
        setup.judge,
        rates=baselines.rates,
        steps=range(1, baselines.steps + 1),
        task_chunk=setup.config.learner.task_chunk,
    )
    shared = starts[UNTRAINED]["params"].keys() - {JOINT}
    rows = {}
    for start, meta_params in starts.items():
        name = f"{start}, {FINE_TUNED}"
        params = {part: meta_params["params"][part] for part in shared}
        rows[name] = setup.tuned(name, {"params": params}, tuning, baselines.episodes)
    return rows
