"""How a model is chosen: the folds of the cross-validation, and which model is kept."""

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal, get_args

from fewshot_jax.adaptation.report import ADAPTED, SIMPLE
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from fewshot_jax.adaptation.selection import Selection

Kept = Literal["better", "adapted", "simple"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a model is chosen.

    Attributes:
        folds: of the cross-validation; 0 for none.
        repeats: of the cross-validation, each with other folds.
        save: which model is kept: the better one, the adapted one or the simple one.
        flags: whether messages name flags of the command line; otherwise they name arguments of Python.

    Raises:
        UserError: a value is out of range.
    """

    folds: int = 5
    repeats: int = 1
    save: Kept = "better"
    flags: bool = False

    def __post_init__(self) -> None:
        if self.save not in get_args(Kept):
            names = ", ".join(f"'{name}'" for name in get_args(Kept))
            raise UserError(f"{self._written('save')}: expected one of {names}; give one of them")
        numbers = [value for value in (self.folds, self.repeats) if isinstance(value, Integral)]
        if len(numbers) < 2 or self.folds < 0 or self.folds == 1 or self.repeats < 1:
            raise UserError(f"{self._written('folds', 'repeats')}: expected at least 2 folds (or 0) and 1 repeat")

    def kept(self, selection: "Selection | None") -> str:
        """The model to keep, `ADAPTED` or `SIMPLE`; without a cross-validation the adapted one is the better one."""
        better = ADAPTED if selection is None else selection.best
        return {"better": better, "adapted": ADAPTED, "simple": SIMPLE}[self.save]

    def check_unused(self, kind: str) -> None:
        """Raise a UserError if a cross-validation is asked for, of a kind of model that has none."""
        for name in ("save", "repeats"):
            if getattr(self, name) != getattr(Policy, name):
                raise UserError(f"{self._written(name)}: {kind} is not cross-validated, nor compared; leave it out")
        if self.folds not in (0, Policy.folds):
            raise UserError(f"{self._written('folds')}: {kind} is not cross-validated; leave it out")

    def _written(self, *names: str) -> str:
        """Some values, as a user writes them."""
        if self.flags:
            return " ".join(f"--{name} {getattr(self, name)}" for name in names)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
