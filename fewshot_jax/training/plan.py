"""Behind the field `learner.plan`: choose the strategy of a config by `planning.plan` before training starts."""

import dataclasses
import functools
import math
import sys
from typing import Any

import jax

from fewshot_jax.config import SECOND_ORDER, Config
from fewshot_jax.errors import UserError
from fewshot_jax.planning.plan import MIB, STRATEGIES, NothingFits, Strategy, free_memory, plan
from fewshot_jax.training.experiment import Experiment
from fewshot_jax.types import MetaLearner


def planned(experiment: Experiment, *, quiet: bool = False) -> Config:
    """Return the config of a run with the strategy that `plan` chose for its model and first meta-batch.

    The budget is `learner.memory_budget`, or what is free, less the outer
    optimizer's state; each device plans for its own share of the tasks.

    Raises:
        UserError: nothing fits.
    """
    config = experiment.config
    tasks = config.outer.tasks // math.gcd(config.outer.tasks, jax.device_count())
    inner_loop = config.learner.name in SECOND_ORDER
    free = free_memory() if config.learner.memory_budget is None else int(config.learner.memory_budget * MIB)
    state = experiment.initial_state()
    outer = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    if free <= outer:
        raise UserError(
            f"learner.memory_budget: {free / MIB:,.3g} MiB is less than the optimizer's state, "
            f"{outer / MIB:,.3g} MiB: raise it, or take a smaller model"
        )

    def chosen(strategy: Strategy) -> Config:
        # A learner that differentiates no inner gradient has nothing but the chunk to choose.
        fields = strategy._asdict() if inner_loop else {"task_chunk": strategy.task_chunk}
        return dataclasses.replace(config, learner=dataclasses.replace(config.learner, **fields))

    def build(**fields: Any) -> MetaLearner:
        return experiment.with_config(chosen(Strategy(**fields))).training.learner

    try:
        choice = plan(
            build,
            state.meta_params,
            experiment.application.training_stream()(0, tasks),
            strategies=STRATEGIES if inner_loop else STRATEGIES[:1],
            memory_budget=free - outer,
            report=(lambda message: None) if quiet else functools.partial(print, file=sys.stderr, flush=True),
        )
    except NothingFits as error:
        raise UserError(f"learner.memory_budget: {error}") from None
    return chosen(choice.strategy)
