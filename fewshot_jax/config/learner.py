"""The meta-learning algorithm and its inner loop."""

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fewshot_jax.config.learners import LEARNER_RECORDS, LearnerRecord, learner_record
from fewshot_jax.config.names import check_name, is_function
from fewshot_jax.errors import UserError, require


def check_pattern(field: str, pattern: str | None) -> None:
    """Raise a UserError if a field's regular expression is none, or an empty one, which would match everything."""
    require(pattern != "", f"{field}='': expected a regular expression; leave it out for all leaves")
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise UserError(f"{field}={pattern!r}: not a regular expression ({error})") from None


if TYPE_CHECKING:
    LearnerName = str
else:
    LearnerName = Literal[tuple(LEARNER_RECORDS)] | str  # the help of the command line lists the names


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The meta-learning algorithm.

    Attributes:
        name: of the algorithm; with an inner loop, from "maml" to "proto_maml", or without one. "multi_task"
            learns nothing about adapting: joint training on all classes, the baseline of every other. A function
            of your own is named as package.module:function.
        gradient: how the inner gradient is differentiated: "auto", "mixed", "reverse" or "first_order"; read by
            maml, anil, boil, meta_sgd, maml_plus_plus, cavia and proto_maml alone.
        keep: what an inner step keeps for its backward pass: "all", "gradients", "carry", "sqrt";
            None for what suits the gradient.
        keep_blocks: what a transformer block keeps: "all", "matmul" or "boundary"; None likewise.
        share_first_step: compile the first inner step apart, with parameters shared by the tasks.
        plan: choose gradient, keep, keep_blocks and task_chunk by trial before training starts,
            whatever they are set to: all the choices give the same numbers.
        memory_budget: of the plan on each device, in MiB; None for four fifths of what is free.
        task_chunk: tasks vmapped at once on each device; None for all of a meta-batch.
        distance: "euclidean" or "cosine" (protonet).
        temperature: similarities are divided by it (protonet, matching_network).
        proximal: strength of the pull to the initialisation (imaml).
        cg_steps: steps of conjugate gradients (imaml).
        multi_step_share: first share of training, in which the losses after every inner step count (maml_plus_plus).
        first_order_share: first share of training that is first order (maml_plus_plus).
        channel: learn to write the source of an example given its target, not the target given the source (metaicl).
        options: of a function of your own, which gets them as they stand here; built-in learners have none.
    """

    name: LearnerName = "maml"
    gradient: Literal["auto", "mixed", "reverse", "first_order"] = "auto"
    keep: Literal["all", "gradients", "carry", "sqrt"] | None = None
    keep_blocks: Literal["all", "matmul", "boundary"] | None = None
    share_first_step: bool = False
    plan: bool = False
    memory_budget: float | None = None
    task_chunk: int | None = None
    distance: Literal["euclidean", "cosine"] = "euclidean"
    temperature: float = 1.0
    proximal: float = 1.0
    cg_steps: int = 5
    multi_step_share: float = 0.1
    first_order_share: float = 0.3
    channel: bool = False
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def record(self) -> LearnerRecord:
        """What is known of the algorithm without building it."""
        return learner_record(self.name)

    def __post_init__(self) -> None:
        check_name("learner.name", self.name, LEARNER_RECORDS)
        require(
            not self.options or is_function(self.name),
            f"learner.options={self.options}: are of a learner of your own; leave them out with {self.name}",
        )
        require(
            not self.plan or not is_function(self.name),
            f"learner.plan={self.plan}: knows the choices of built-in learners alone; leave it out with {self.name}",
        )
        require(
            self.task_chunk is None or self.task_chunk >= 1,
            f"learner.task_chunk={self.task_chunk}: expected at least 1",
        )
        require(
            not self.plan or self.gradient != "first_order",
            "learner.plan chooses among exact gradients: leave it out with learner.gradient=first_order",
        )
        require(
            self.memory_budget is None or (self.memory_budget > 0 and self.plan),
            f"learner.memory_budget={self.memory_budget}: expected a positive number of MiB, and learner.plan",
        )
        for name in ("temperature", "proximal"):
            require(getattr(self, name) > 0, f"learner.{name}={getattr(self, name)}: expected a positive number")
        require(self.cg_steps >= 1, f"learner.cg_steps={self.cg_steps}: expected at least 1")
        for name in ("multi_step_share", "first_order_share"):
            require(0 <= getattr(self, name) <= 1, f"learner.{name}={getattr(self, name)}: expected a share, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """The inner loop of gradient-based learners.

    Attributes:
        optimizer: "sgd", "momentum" or "adam".
        rate: its learning rate.
        steps: steps in training.
        test_steps: steps in evaluation and adaptation; None for `steps`.
        params: regular expression on the paths of the leaves that adapt, such as "head", "lora_|head" or
            "norm|bias|head"; None for all. (anil and boil choose themselves.)
        batch_size: support texts drawn at each step; None for all.
    """

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    rate: float = 0.1
    steps: int = 3
    test_steps: int | None = None
    params: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.rate < math.inf, f"inner.rate={self.rate}: expected a positive number")
        require(self.steps >= 0, f"inner.steps={self.steps}: expected zero or more")
        check_pattern("inner.params", self.params)
        require(
            self.test_steps is None or self.test_steps >= 0,
            f"inner.test_steps={self.test_steps}: expected zero or more",
        )
        require(
            self.batch_size is None or self.batch_size >= 1, f"inner.batch_size={self.batch_size}: expected at least 1"
        )
