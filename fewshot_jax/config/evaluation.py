"""Evaluation, and the baselines that stand beside the learner."""

import math
from dataclasses import dataclass

from fewshot_jax.errors import require


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation while training, and the final evaluation.

    Attributes:
        every: outer steps between validations and checkpoints.
        validation_episodes: episodes of a validation for each number of shots; their mean chooses the checkpoint.
        validation_shots: those numbers of shots; empty for all of `shots`. Given, they are all that the validation
            split must fill, and a loop at more shots than it fills is chosen at the largest of them.
        episodes: test episodes of an evaluation.
        ways: classes of a test episode.
        shots: an evaluation for each number of shots (for regression: points).
        queries: query texts per class.
        uneven: each class of an episode draws its own number of shots, from 1 to the number in `shots`.
        inner_steps: numbers of inner steps to evaluate after beside `inner.test_steps`, each a row of the table.
        tune_rates: choose the inner loop of one more row, "tuned", on the validation episodes, for each number
            of shots: from these multiples of the inner rate (or of the learned rates) and 1; empty for no such row.
        tune_steps: and from these numbers of inner steps and the run's own.
        tasks: episodes evaluated at once.
        write: write answers to the test queries and judge them as texts, beside their likelihood.
        beams: of the search in writing; 1 for the most probable token each time.
        null_threshold: of an encoder that points to answers: "no answer" unless the best span's logits exceed those
            of no span by so much (0 for the larger of the two; a larger one answers fewer questions).
        at_end: evaluate on the test classes when training ends.
    """

    every: int = 100
    validation_episodes: int = 100
    validation_shots: tuple[int, ...] = ()
    episodes: int = 600
    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 10
    uneven: bool = False
    inner_steps: tuple[int, ...] = ()
    tune_rates: tuple[float, ...] = ()
    tune_steps: tuple[int, ...] = (1, 2, 4)
    tasks: int = 20
    write: bool = True
    beams: int = 1
    null_threshold: float = 0.0
    at_end: bool = True

    def most_shots(self, split: str) -> int:
        """The largest number of shots that a split must fill."""
        return max((split == "validation" and self.validation_shots) or self.shots)

    def __post_init__(self) -> None:
        require(self.ways >= 2, f"evaluation.ways={self.ways}: expected at least 2")
        for name in ("every", "validation_episodes", "queries", "tasks", "beams"):
            require(getattr(self, name) >= 1, f"evaluation.{name}={getattr(self, name)}: expected at least 1")
        require(self.episodes >= 2, f"evaluation.episodes={self.episodes}: expected at least 2, for an interval")
        require(bool(self.shots) and min(self.shots) >= 1, f"evaluation.shots={self.shots}: expected positive numbers")
        require(
            min(self.validation_shots, default=1) >= 1,
            f"evaluation.validation_shots={self.validation_shots}: expected positive numbers",
        )
        require(
            min(self.inner_steps, default=0) >= 0,
            f"evaluation.inner_steps={self.inner_steps}: expected numbers of steps, zero or more",
        )
        require(
            math.isfinite(self.null_threshold), f"evaluation.null_threshold={self.null_threshold}: expected a number"
        )
        require(
            all(0 < rate < math.inf for rate in self.tune_rates),
            f"evaluation.tune_rates={self.tune_rates}: expected positive multiples of the inner rate",
        )
        require(
            min(self.tune_steps, default=0) >= 1,
            f"evaluation.tune_steps={self.tune_steps}: expected numbers of steps, at least 1",
        )


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """What stands beside the learner in the table and costs training; the other baselines are always there.

    Fine-tuning is Adam on all parameters. Its rate and number of steps are those that do best on validation
    episodes, for each number of shots.

    Attributes:
        fine_tuning: fine-tune the untrained model on the support set of each test episode.
        multi_task: train the same model jointly on all training classes, on the items of as many episodes
            as the learner saw, into RUN/multi_task; then fine-tune it in the same way.
        in_context: the support set in the context of a decoder, which takes memory and time as its length squared.
        rates: rates to choose from.
        steps: most steps.
        episodes: validation episodes for each choice.
    """

    fine_tuning: bool = True
    multi_task: bool = True
    in_context: bool = True
    rates: tuple[float, ...] = (0.001, 0.003, 0.01)
    steps: int = 20
    episodes: int = 60

    def __post_init__(self) -> None:
        require(
            bool(self.rates) and all(0 < rate < math.inf for rate in self.rates),
            f"baselines.rates={self.rates}: expected positive numbers",
        )
        for name in ("steps", "episodes"):
            require(getattr(self, name) >= 1, f"baselines.{name}={getattr(self, name)}: expected at least 1")
