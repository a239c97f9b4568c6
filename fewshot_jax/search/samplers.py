"""Optuna's samplers and pruners, by name."""

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, Literal

from fewshot_jax.errors import UserError
from fewshot_jax.search.space import Choices, Range, Space

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "gp", "random", "grid"]
Pruner = Literal["median", "hyperband", "none"]
_OF_GP = ("torch", "scipy")


def check_sampler(name: Sampler, space: Space) -> int | None:
    """The number of points of a grid; None for samplers that know no end.

    Raises:
        UserError: a package is missing, or the space is no grid.
    """
    if name == "gp":
        for package in _OF_GP:
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"--sampler gp: needs the package {package}, which is not installed; 'pip install {package}', or "
                    "take --sampler tpe"
                )
    if name != "grid":
        return None
    count = 1
    for values in space.grid().values():
        count *= len(values)
    return count


def sampler_of(name: Sampler, space: Space, *, seed: int, trials: int) -> "optuna.samplers.BaseSampler":
    """The sampler of the next trial.

    Args:
        name: of the sampler.
        space: that it samples.
        seed: of the study.
        trials: that the study has: each trial has a key of its own, so that processes do not try the same values.
    """
    import optuna

    own = (seed * 100_003 + trials) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "grid":  # its seed shuffles the grid, which is the same for all trials
            return optuna.samplers.GridSampler(space.grid(), seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=own)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=own)
        return optuna.samplers.TPESampler(seed=own, constant_liar=True)  # other processes' trials count as bad


def pruner_of(name: Pruner, *, first: int, last: int) -> "optuna.pruners.BasePruner":
    """The rule by which hopeless trials end early.

    Args:
        name: of the rule.
        first, last: steps of the first and of the last validation.
    """
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=min(first, last), max_resource=last)
    return optuna.pruners.NopPruner()


def distributions(space: Space) -> dict[str, Any]:
    """The space as Optuna writes it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(field: Range | Choices) -> Any:
        if isinstance(field, Choices):
            return CategoricalDistribution(field.values)
        if field.whole:
            return IntDistribution(int(field.low), int(field.high), log=field.log, step=int(field.step or 1))
        return FloatDistribution(field.low, field.high, log=field.log, step=field.step)

    return {name: of(field) for name, field in space.fields.items()}
