"""A run's model as a value: its functions, learners and initial state, each built once.

Training, validation, evaluation, the plan, the estimate, reports and adaptation take an `Experiment` instead of
building these themselves.
"""

import functools
from typing import Any, NamedTuple, Protocol, Self

import jax
import numpy as np
from jax.sharding import Mesh

from fewshot_jax.applications.application import Application, Functions, Score, Stream
from fewshot_jax.applications.table import build_application, score_of
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.config import Config
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes
from fewshot_jax.parallel.mesh import dividing_mesh, make_mesh, shapes_on
from fewshot_jax.parallel.rules import made_on_mesh, shardings
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.state import RunKeys, TrainState, first_state, run_keys
from fewshot_jax.runs.step import StepGradient, guarded_step
from fewshot_jax.training.learners import build_learner
from fewshot_jax.training.optimizer import outer_optimizer
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import Episode, MetaLearner, MetaParams


class Model(Protocol):
    """What an `Experiment` is built from: an application with its data, or a `TextModel` without."""

    @property
    def config(self) -> Config:
        """Of the run."""

    def functions(self, *, training: bool) -> Functions:
        """Return the functions of training, with dropout, or those of evaluation."""


class LearnerPair(NamedTuple):
    """Functions, and the learner that is built from them."""

    functions: Functions
    learner: MetaLearner


def judging_pair(functions: Functions, config: Config, *, name: str | None = None) -> LearnerPair:
    """Build the learner of a config for evaluation and adaptation, with ``inner.test_steps``.

    Args:
        functions: without dropout.
        config: of the run.
        name: of another learner over the same functions; None for the config's.
    """
    return LearnerPair(functions, build_learner(functions, config, training=False, name=name))


def writing_pair(functions: Functions, config: Config) -> LearnerPair:
    """Build `judging_pair`, whose outputs hold generated texts too where the functions write."""
    return judging_pair(functions._replace(output_fn=functions.write_fn or functions.output_fn), config)


def meta_gradient(learner: MetaLearner, task_shards: int = 1) -> StepGradient:
    """Return the gradient of a meta-learner, whose schedule, if it has one, goes by the share of the steps taken.

    Args:
        learner: of one task.
        task_shards: devices over which a meta-batch is divided, each of which sums the gradients of its own tasks.
    """

    def grad(meta_params: MetaParams, episodes: Episode, key: jax.Array, progress: jax.Array) -> Any:
        return learner.grad(meta_params, episodes, key, progress=progress, task_shards=task_shards)

    return grad


class Experiment:
    """The functions, learners and states of one run; whatever is asked for twice is built once.

    Args:
        application: an `Application` with the data of the run, or a `Model` where no data is needed.
    """

    def __init__(self, application: Application | Model):
        self.application: Any = application
        self.config: Config = application.config

    @property
    def score(self) -> Score:
        """By which checkpoints and loops are chosen."""
        return score_of(self.config)

    @property
    def keys(self) -> RunKeys:
        """The keys of the run."""
        return run_keys(self.config.seed)

    def with_config(self, config: Config) -> Self:
        """Return the experiment of the same data with another learner or inner loop."""
        return type(self)(self.application.with_config(config))

    @functools.cached_property
    def training(self) -> LearnerPair:
        """Functions and learner of meta-training."""
        functions = self.application.functions(training=True)
        return LearnerPair(functions, build_learner(functions, self.config, training=True))

    @functools.cached_property
    def judging(self) -> LearnerPair:
        """Functions and learner of validation."""
        return judging_pair(self.application.functions(training=False), self.config)

    @functools.cached_property
    def writing(self) -> LearnerPair:
        """`judging`, whose outputs hold generated texts too where the config asks for them."""
        functions = self.judging.functions
        if functions.write_fn is None or not self.config.evaluation.write:
            return self.judging
        return writing_pair(functions, self.config)

    def other_learner(self, name: str) -> MetaLearner:
        """Return another learner over the functions of `writing`."""
        return judging_pair(self.writing.functions, self.config, name=name).learner

    def initial_state(self) -> TrainState:
        """Return the state before the first step, a function of the config's seed.

        It is one compiled program instead of a hundred small ones, but for the weights of a checkpoint, which would
        become constants of the program.
        """
        if self.config.model.pretrained is not None:
            return self._initial_state()
        state: TrainState = jax.jit(self._initial_state)()
        return state

    def _initial_state(self) -> TrainState:
        functions, learner = self.training
        meta_params = learner.init(functions.init_params(self.keys.params), self.keys.learner)
        return first_state(meta_params, outer_optimizer(self.config.outer), self.keys.train)

    @functools.cached_property
    def shapes(self) -> TrainState:
        """The shapes and dtypes of the state, a tree of `jax.ShapeDtypeStruct`."""
        state: Any = jax.eval_shape(self.initial_state)
        return state

    def initial(self, mesh: Mesh | None = None) -> MetaParams:
        """Return the meta-parameters before the first step, divided over a mesh where one is given."""
        if mesh is None:
            return self.initial_state().meta_params
        return made_on_mesh(lambda: self.initial_state().meta_params, mesh, self.config.parallel.rules)

    def restore_best(self, run: RunDirectory, mesh: Mesh | None = None) -> tuple[MetaParams, int]:
        """Read the meta-parameters of a run's best checkpoint, and its step.

        Args:
            run: of this experiment's config.
            mesh: divides the parameters by the rules of the config; None for all of them on one device.

        Raises:
            UserError: the run has no checkpoint, or it cannot be read.
        """
        shapes = self.shapes.meta_params
        if mesh is None:
            like = shapes_on(shapes, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
        else:
            like = shapes_on(shapes, shardings(shapes, mesh, self.config.parallel.rules))
        checkpoints = Checkpoints(run.checkpoints, self.score, read_only=True)
        try:
            step = checkpoints.best_step()
            if step is None:
                raise UserError(
                    f"{run.path}: has no checkpoint yet; let 'fewshot-jax train' run to its first validation"
                )
            restore = checkpoints.restore_local if dividing_mesh(like) is None else checkpoints.restore_meta_params
            return restore(step, like), step
        finally:
            checkpoints.close()

    @functools.cached_property
    def _validation_streams(self) -> dict[int, Stream]:
        evaluation = self.config.evaluation
        return {k: self.application.stream("validation", k) for k in evaluation.validation_shots or evaluation.shots}

    def open_validation(self) -> None:
        """Raise a UserError if the validation split cannot fill its episodes; otherwise that is found out later."""
        _ = self._validation_streams

    @functools.cached_property
    def _validation_scores(self) -> Any:
        chunk = self.config.learner.task_chunk
        return episode_scores(self.judging.learner, self.score.of, task_chunk=chunk)

    def validate(self, meta_params: MetaParams) -> float:
        """Return the mean score over the validation episodes of each number of shots."""
        evaluation = self.config.evaluation
        values = [
            evaluate_episodes(
                self._validation_scores,
                meta_params,
                stream,
                episodes=evaluation.validation_episodes,
                tasks=evaluation.tasks,
                rng=self.keys.evaluation,
            ).mean()
            for stream in self._validation_streams.values()
        ]
        return float(np.mean(values))

    def check(self) -> None:
        """Trace a step and a validation, so that what only the learner can judge is refused before a run starts.

        Raises:
            UserError: the config does not fit the model.
        """
        config = self.config
        try:
            outer = config.outer
            streams = self._validation_streams
            step = guarded_step(meta_gradient(self.training.learner), outer_optimizer(outer), steps=outer.steps)
            jax.eval_shape(step, self.shapes, self.application.training_stream()(0, outer.tasks))
            episodes = streams[config.evaluation.most_shots("validation")](0, 1)
            arguments = (self.shapes.meta_params, episodes, jax.random.key(0), 0)
            jax.eval_shape(self._validation_scores, *arguments)
            if self.writing is not self.judging:
                jax.eval_shape(episode_scores(self.writing.learner, lambda outputs, _: outputs.ids), *arguments)
        except UserError:
            raise
        except ValueError as error:
            message = str(error).replace("inner_params=", "inner.params=")
            raise UserError(f"the config does not fit the model: {message}") from error


def experiment_of_run(run: RunDirectory) -> Experiment:
    """Read the data of a run, and check that it is what the run was started with.

    Raises:
        UserError: there is no run, or its data is gone or has changed.
    """
    application = build_application(run.config(), run.path)
    run.check_data(application.fingerprint())
    return Experiment(application)


def model_of_run(run: RunDirectory) -> TextModel:
    """Open the model of a run of texts, without its weights, which a checkpoint has, and without its data.

    Raises:
        UserError: there is no run, or its tokenizer is gone.
    """
    classes = len(run.labels().get("train", []))
    return TextModel.open(run.config(), run.path, weights=False, joint_classes=classes)


def evaluation_mesh(config: Config) -> Mesh | None:
    """Return the mesh of all devices that divides weights as the config says; None where each device has all of them.

    A run can be evaluated on fewer devices than it was trained on: there it is not divided.
    """
    fsdp, tensor = config.parallel.fsdp, config.parallel.tensor
    if fsdp * tensor == 1 or jax.device_count() % (fsdp * tensor):
        return None
    return make_mesh(fsdp=fsdp, tensor=tensor)
