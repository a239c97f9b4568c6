"""Evaluation of a run on tasks it never saw, beside the floors on the same episodes."""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from fewshot_jax.applications.application import Application, Functions, Score, Stream, evaluation_steps
from fewshot_jax.applications.classification import JOINT, ClassApplication, confusion_of_episode
from fewshot_jax.applications.table import build_application, score_of
from fewshot_jax.applications.text_to_text import NATS
from fewshot_jax.config import Config
from fewshot_jax.data.tasks import Drawn
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.baselines import CHANCE, floors
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes, judge_by
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.evaluation.text_metrics import signatures
from fewshot_jax.evaluation.tuning import Choice, Tuning, adapted, fine_tuned
from fewshot_jax.evaluation.written import DISTINCT, JUDGES, judge_written
from fewshot_jax.training.checkpoints import Checkpoints
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.training.state import TrainState, initial_state, run_keys
from fewshot_jax.types import Episode, MetaLearner, MetaParams, PyTree
from fewshot_jax.versions import versions

UNTRAINED, PRETRAINED, MULTI_TASK = "untrained", "pretrained", "multi-task"  # where the rows beside start from
PROTOTYPES, FINE_TUNED, IN_CONTEXT, TUNED = "prototypes", "fine-tuned", "in context", "tuned"
# exp of the mean over episodes of their nats per token.
PERPLEXITY = Score("perplexity", lambda outputs, episode: outputs, larger_is_better=False, percent=False)
Per = dict[str, dict[int, Estimate]]  # for each row, the estimate at each number of shots


class Measured(NamedTuple):
    """One score of all rows.

    Attributes:
        score: what was measured.
        scores: for each row of the table (the learner first, then the floors) the `Estimate` at each number of shots.
        gains: the learner's score minus that of each floor, paired by episode.
    """

    score: Score
    scores: Per
    gains: Per


class Confusion(NamedTuple):
    """A confusion matrix over the episodes of an evaluation, whose classes are a few of all at a time.

    Attributes:
        classes: the ``C`` test classes.
        counts: ``[C, C]``; row ``i``, column ``j`` are queries of class ``i`` labelled as ``j``, over all episodes.
        asked: ``[C, C]``; queries of class ``i`` in episodes that had class ``j`` too.
    """

    classes: list[str]
    counts: np.ndarray
    asked: np.ndarray

    def to_json(self) -> dict[str, dict[str, int]]:
        """The counts that are not zero: for each class, how often it was labelled as what."""
        rows = zip(self.classes, self.counts, strict=True)
        return {name: {self.classes[j]: int(row[j]) for j in np.flatnonzero(row)} for name, row in rows if row.any()}

    def worst(self, most: int = 3, least: int = 10) -> list[tuple[str, str, float]]:
        """The pairs most often taken one for the other: class, what it was labelled as, and in which share of its
        queries where both stood to choice.

        Args:
            most: so many pairs.
            least: of pairs with so many such queries.
        """
        other = ~np.eye(len(self.classes), dtype=bool) & (self.asked >= least)
        shares = np.where(other, self.counts / np.maximum(self.asked, 1), 0)
        order = np.argsort(-shares, axis=None, kind="stable")[:most]
        pairs = [np.unravel_index(place, shares.shape) for place in order]
        return [(self.classes[i], self.classes[j], float(shares[i, j])) for i, j in pairs if shares[i, j] > 0]


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

    def signatures(self) -> dict[str, str]:
        """sacrebleu's, of those scores that are its own."""
        shown = {one.score.name for one in self.more}
        return {name: text for name, text in signatures().items() if name in shown} if {"BLEU", "chrF"} & shown else {}

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, shares as fractions; null for what is not finite."""

        def finite(value: Any) -> dict[str, Any]:
            return {name: number if math.isfinite(number) else None for name, number in value._asdict().items()}

        def plain(rows: dict[str, dict[int, Any]]) -> dict[str, dict[str, Any]]:
            return {name: {str(shots): finite(value) for shots, value in row.items()} for name, row in rows.items()}

        signed = self.signatures()
        confusion = {str(shots): one.to_json() for shots, one in self.confusion.items()}
        return {
            "run": self.run,
            "learner": self.learner,
            "score": self.score.name,
            "larger_is_better": self.score.larger_is_better,
            self.score.name.replace(" ", "_"): plain(self.scores),
            "gain": plain(self.gains),
            "more": {
                one.score.name.replace(" ", "_"): {"scores": plain(one.scores), "gain": plain(one.gains)}
                for one in self.more
            },
            "choices": plain(self.choices),
            "ways": self.ways,
            "episodes": self.episodes,
            "checkpoint_step": self.step,
            "finished": self.finished,
            **({"confusion": confusion} if confusion else {}),
            **({"signatures": signed} if signed else {}),
            **versions(),
        }


def restore_best(run: RunDirectory, like: TrainState) -> tuple[MetaParams, int]:
    """The meta-parameters of a run's best checkpoint, and its step.

    Raises:
        UserError: the run has no checkpoint.
    """
    checkpoints = Checkpoints(run.checkpoints, score_of(run.config()), read_only=True)
    try:
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{run.path}: has no checkpoint yet; let 'fewshot-jax train' run to its first validation")
        return checkpoints.restore_meta_params(step, like.meta_params), step
    finally:
        checkpoints.close()


def restore_best_of(run: RunDirectory, functions: Functions) -> MetaParams:
    """The meta-parameters of a run's best checkpoint, on one device, from shapes alone.

    Args:
        run: with a checkpoint.
        functions: of its training.
    """
    shapes = jax.eval_shape(lambda: initial_state(run.config(), functions))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    return restore_best(run, like)[0]


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
    application = build_application(config, run.path)
    run.check_data(application)
    untrained = initial_state(config, application.functions(training=True))
    meta_params, step = restore_best(run, untrained)
    count = config.evaluation.episodes if episodes is None else episodes
    wanted = config.evaluation.shots if shots is None else shots
    bench = _Bench(application, count)
    own = _of_learner(bench, meta_params)
    trained = {MULTI_TASK: meta_params} if config.learner.name == "multi_task" else _multi_task(application, run, quiet)
    starts = {**_beginnings(bench, untrained.meta_params), **trained}
    beside = {**_prototypes(bench, starts), **_in_context(bench, starts, wanted, quiet), **_fine_tuned(bench, starts)}
    for k in wanted:  # before the work begins: a split may be too small for this many
        bench.streams(k)
    known = floors(application, "test")
    rows: dict[str, Per] = {}  # by the name of the score
    gains: dict[str, Per] = {}
    chosen: dict[str, dict[int, Choice]] = {}
    for k in wanted:
        if not quiet:
            print(f"evaluating with {k} shot{'' if k == 1 else 's'} on {count} episodes", file=sys.stderr, flush=True)
        values = {name: _told(name, of, k, quiet) for name, of in own.items()}
        plain = known(k, count, config.evaluation.tasks)
        guess = {CHANCE: plain.pop(CHANCE)} if CHANCE in plain else {}
        baselines = {**plain, **{name: _told(name, of, k, quiet) for name, of in beside.items()}}
        learned = values[config.learner.name]
        for name, judged in {**values, **baselines, **guess}.items():
            for score, value in judged.items():
                rows.setdefault(score, {}).setdefault(name, {})[k] = (
                    Estimate(float(value[0]), 0.0) if name == CHANCE else _estimate(bench, score, value)
                )
                if name in baselines and score in learned and score != DISTINCT:
                    gain = _estimate(bench, score, learned[score] - value)
                    gains.setdefault(score, {}).setdefault(name, {})[k] = gain
        for name, choice in bench.choices.items():
            chosen.setdefault(name, {})[k] = choice
    if bench.at_edge and not quiet:
        print(
            f"note: rows that did best at the edge of what was tried ({'; '.join(bench.at_edge)}) may gain from other "
            "rates and steps (baselines.rates and baselines.steps, evaluation.tune_rates and evaluation.tune_steps)",
            file=sys.stderr,
        )
    if config.application == "dialogue":
        rows[PERPLEXITY.name] = {
            name: {k: _exponential(value) for k, value in row.items()} for name, row in rows[NATS.name].items()
        }
    result = Evaluation(
        run=run.path.resolve().name,
        learner=config.learner.name,
        score=application.score,
        scores=rows[application.score.name],
        gains=gains.get(application.score.name, {}),
        more=tuple(
            Measured(score, rows[score.name], gains.get(score.name, {}))
            for score in (*application.scores[1:], *bench.of_texts, PERPLEXITY)
            if score.name in rows
        ),
        choices=chosen,
        ways=bench.functions.ways,
        episodes=count,
        step=step,
        finished=run.result() is not None,
        confusion=bench.confusion,
    )
    if episodes is None and shots is None:
        run.write("evaluation.json", result.to_json())
    application.draw(bench.learner(), meta_params, run.path)
    return result


def _estimate(bench: "_Bench", score: str, values: np.ndarray) -> Estimate:
    """Over all episodes; of a score of texts, over those that had something to score."""
    if any(score == one.name for one in bench.of_texts):
        values = values[np.isfinite(values)]
    return estimate(values) if values.size else Estimate(math.nan, math.nan)


def _exponential(value: Estimate) -> Estimate:
    """Of a mean and, to first order, of its interval."""
    mean = math.exp(value.mean) if value.mean < 700 else math.inf  # more than a float holds
    return Estimate(mean, mean * value.half_width)


Row = Callable[[int], dict[str, np.ndarray]]  # shots -> scores [episodes] by name


def _told(name: str, row: Row, shots: int, quiet: bool) -> dict[str, np.ndarray]:
    """The scores of a row, announced, with a note where some are not finite."""
    if not quiet:
        print(f"  {name}", file=sys.stderr, flush=True)
    scores = row(shots)
    first = next(iter(scores.values()))
    if (bad := int(np.sum(~np.isfinite(first)))) and not quiet:
        print(
            f"note: {name}: the loop diverged in {bad} of {first.size} episodes; lower inner.rate, or the number of "
            "steps (inner.test_steps, evaluation.inner_steps)",
            file=sys.stderr,
        )
    return scores


class _Bench:
    """What all rows of a table share: the application, the episodes, the key.

    Attributes:
        choices: the last choice of each row whose loop is chosen.
        of_texts: the scores of written texts, where some are written.
        confusion: of the run's own row, where there are classes, at each number of shots.
        at_edge: the rows and numbers of shots whose choice stands at the edge of what was tried.
    """

    def __init__(self, application: Application, episodes: int):
        self.application, self.config = application, application.config
        self.functions = application.functions(training=False)
        self.judge = judge_by(application.scores)
        self._writes = self.config.evaluation.write and self.functions.write_fn is not None
        self.of_texts = JUDGES[self.config.application][0] if self._writes else ()
        self.choices: dict[str, Choice] = {}
        self.streams = functools.cache(self._streams)  # the same for all rows
        self._tasks = functools.cache(self._drawn)
        self.at_edge: list[str] = []
        self.confusion: dict[int, Confusion] = {}
        self._episodes = episodes
        self._common: dict[str, Any] = {
            "tasks": self.config.evaluation.tasks,
            "rng": run_keys(self.config.seed).evaluation,
        }

    def judged_functions(self) -> Functions:
        """Those of the table: with what is written, if something is."""
        return self.functions._replace(output_fn=self.functions.write_fn) if self._writes else self.functions  # type: ignore[arg-type]

    def learner(self, name: str | None = None) -> MetaLearner:
        return build_learner(self.judged_functions(), self.config, training=False, name=name)

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
        return {**values, **judge_written(self.config.application, texts, tasks)}

    def _drawn(self, shots: int) -> list[Drawn]:
        """The test episodes as texts, of applications that write."""
        sampler, tasks = self.application.sampler("test", shots), self.config.evaluation.tasks  # type: ignore[attr-defined]
        return [sampler.task(*divmod(index, tasks)) for index in range(self._episodes)]

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
            values = evaluate_episodes(compiled, meta_params, test, episodes=self._episodes, **self._common)
            if isinstance(application, ClassApplication) and counted:
                totals = application.confusion("test", shots, values.pop("confusion"))
                self.confusion[shots] = Confusion(application.labels()["test"], *totals)
            return self.with_texts(shots, values)

        return scores

    def _streams(self, shots: int) -> tuple[Stream, Stream]:
        """The validation episodes, on which loops are chosen, and those of the table."""
        test = self.application.stream("test", shots)  # first: what is wrong with it is what the user asked about
        return self.application.stream("validation", shots), test

    def tuned(self, name: str, meta_params: MetaParams, tuning: Tuning, episodes: int) -> Row:
        """A row whose loop is chosen on so many validation episodes."""

        def scores(shots: int) -> dict[str, np.ndarray]:
            validation, test = self.streams(shots)
            choice = tuning.choose(meta_params, validation, episodes=episodes, **self._common)
            self.choices[name] = choice
            if edge := tuning.at_edge(choice):
                self.at_edge.append(f"{name}, {shots}-shot: {edge}")
            values = tuning.scores(choice, meta_params, test, episodes=self._episodes, **self._common)
            return self.with_texts(shots, values)

        return scores


def _of_learner(bench: _Bench, meta_params: MetaParams) -> dict[str, Row]:
    """The run's own rows: with its inner loop as trained, and with those that the config asks for beside it."""
    name, learner, evaluation = bench.config.learner.name, bench.learner(), bench.config.evaluation
    rows: dict[str, Row] = {name: bench.row(learner, meta_params, own=True)}
    for steps in evaluation.inner_steps:
        rows[f"{name}, {steps} step{'' if steps == 1 else 's'}"] = bench.row(learner, meta_params, steps)
    if evaluation.tune_rates:
        tuning = Tuning(
            functools.partial(adapted, learner, rate=bench.config.inner.rate),
            bench.application.score,
            bench.judge,
            rates=tuple(dict.fromkeys((1.0, *evaluation.tune_rates))),  # ties go to the loop of training
            steps=sorted({*evaluation.tune_steps, max(1, evaluation_steps(bench.config))}),
            task_chunk=bench.config.learner.task_chunk,
        )
        row = f"{name}, {TUNED}"
        rows[row] = bench.tuned(row, meta_params, tuning, evaluation.validation_episodes)
    return rows


def _beginnings(bench: _Bench, initial: MetaParams) -> dict[str, MetaParams]:
    """What the run started from, and where that was pretrained, parameters that know nothing."""
    scratch = bench.functions.scratch_params
    if scratch is None:
        return {UNTRAINED: initial}
    return {PRETRAINED: initial, UNTRAINED: {"params": scratch(run_keys(bench.config.seed).params)}}


def _in_context(bench: _Bench, starts: dict[str, MetaParams], wanted: Sequence[int], quiet: bool) -> dict[str, Row]:
    """A start that reads the support set before each query, where the model reads examples; nothing adapts."""
    if bench.functions.join_fn is None or not bench.config.baselines.in_context:
        return {}
    learner = bench.learner("metaicl")
    rows = {f"{name}, {IN_CONTEXT}": start for name, start in starts.items() if name != UNTRAINED}
    try:
        for start in list(rows.values())[:1]:
            episode = bench.streams(max(wanted))[1](0, 1)
            jax.eval_shape(episode_scores(learner, bench.judge), start, episode, jax.random.key(0), 0)
    except ValueError as error:  # more tokens than the model has positions for
        if not quiet:
            print(f"note: left out the rows '{IN_CONTEXT}' ({error})", file=sys.stderr)
        return {}
    return {name: bench.row(learner, start) for name, start in rows.items()}


def _prototypes(bench: _Bench, starts: dict[str, MetaParams]) -> dict[str, Row]:
    """Prototypes of a frozen encoder, where there are classes."""
    if bench.functions.embed_fn is None:
        return {}
    learner = bench.learner("protonet")
    return {f"{name}, {PROTOTYPES}": bench.row(learner, start) for name, start in starts.items()}


def _fine_tuned(bench: _Bench, starts: dict[str, MetaParams]) -> dict[str, Row]:
    """Fine-tuning of a start, on the parameters that all of them have: a head of joint training is left behind."""
    baselines = bench.config.baselines
    if not baselines.fine_tuning:
        return {}
    tuning = Tuning(
        functools.partial(fine_tuned, bench.judged_functions()),
        bench.application.score,
        bench.judge,
        rates=baselines.rates,
        steps=range(1, baselines.steps + 1),
        task_chunk=bench.config.learner.task_chunk,
    )
    shared = starts[UNTRAINED]["params"].keys() - {JOINT}
    rows = {}
    for start, meta_params in starts.items():
        name = f"{start}, {FINE_TUNED}"
        params = {part: meta_params["params"][part] for part in shared}
        rows[name] = bench.tuned(name, {"params": params}, tuning, baselines.episodes)
    return rows


def _multi_task(application: Application, run: RunDirectory, quiet: bool) -> dict[str, MetaParams]:
    """The multi-task baseline that was trained beside a run, if it was; half of its training would flatter the run."""
    beside = run.multi_task()
    if not application.config.baselines.multi_task:
        return {}
    if beside.result() is None:
        if beside.exists() and not quiet:
            print(f"{beside.path}: unfinished, left out; 'fewshot-jax train' goes on with it", file=sys.stderr)
        return {}
    config: Config = beside.config()
    like = initial_state(config, application.with_config(config).functions(training=True))
    return {MULTI_TASK: restore_best(beside, like)[0]}
