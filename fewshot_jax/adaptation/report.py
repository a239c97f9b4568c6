"""What adapting to examples found and decided, as a record, as JSON and as a table."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewshot_jax.data.names import counted
from fewshot_jax.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

# The models that are compared, by the names that tables, model.json and JSON have for them.
ADAPTED, SIMPLE, MAJORITY = "adapted", "TF-IDF + logistic regression", "most frequent label"
ROUNDING = 1e-9  # differences of mean accuracies below it are none
WIDTH = 100  # characters of a line of `str(report)`


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """What adapting found and decided.

    `str` gives a table, `to_json` what ``fewshot-jax adapt --json`` prints.

    Attributes:
        start: what was adapted: "default", or the name of a model.
        source: name, revision and hash of the files of a pretrained model; None of another.
        saved: the model that was kept: `ADAPTED` or `SIMPLE`.
        examples: number of examples that it was adapted to, duplicates not counted.
        skipped: number of duplicates that were skipped.
        classes: number of examples of each class; empty of a model that writes.
        right: number of the examples that a classifier labels right; None where it was cross-validated.
        cross_validation: what cross-validation found, as in ``model.json``; None without one.
        notes: what a user may want to know, one sentence each.
        warnings: what a user may want to change, one sentence each.
    """

    start: str
    source: Mapping[str, str | None] | None = None
    saved: str
    examples: int
    skipped: int = 0
    classes: Mapping[Any, int] = field(default_factory=dict)
    right: int | None = None
    cross_validation: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Which model is better, by how much, and which was kept, in words."""
        if self.cross_validation is not None:
            return verdict(self.cross_validation)
        return f"Nothing was cross-validated. Saved: the {_described(self.saved)}."

    def to_json(self) -> dict[str, Any]:
        """The findings of the cross-validation; without one, the counts of examples."""
        if self.cross_validation is not None:
            return dict(self.cross_validation)
        of_classes = {} if self.right is None else {"classes": list(self.classes), "right": self.right}
        return {"saved": self.saved, **of_classes, "examples": self.examples, "cross_validation": None}

    def __str__(self) -> str:
        from rich.console import Console

        if self.cross_validation is None:
            return self._counts()
        console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).rstrip()

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        """The same as `str`, as wide and as coloured as a console has it."""
        from rich.markup import escape

        if self.cross_validation is None:
            yield escape(self._counts())
            return
        yield from _tables(self.cross_validation)
        for one in self.cross_validation["confusions"]:
            times = counted(one["count"], "time")
            yield escape(f"'{one['true']}' taken for '{one['predicted']}' {times}: {one['example'][:160]}")
        yield escape(self.verdict)

    def _counts(self) -> str:
        """One line on a model that was not cross-validated."""
        classes = (
            f" of {len(self.classes)} classes, and labels {self.right} of them right, which it has seen"
            if self.right is not None
            else ""
        )
        return f"adapted to {counted(self.examples, 'example')}{classes}"


def _tables(record: Mapping[str, Any]) -> "Iterator[RenderableType]":
    """The table of the models, and that of the classes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    folds, saved = record["folds"], record["saved"]
    for title, heads, rows in (
        (f"cross-validated, {folds} folds", ("model", "accuracy (%)", "macro F1 (%)"), score_rows(record)),
        (
            f"classes, by the {saved} model",
            ("class", "examples", "precision (%)", "recall (%)", "F1 (%)"),
            class_rows(record),
        ),
    ):
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left", no_wrap=bool(number))
        for row in rows:
            table.add_row(*map(escape, row))
        yield table


def score_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The table of models: name, accuracy, macro F1, in percent."""
    return [[name, *(_percent(one) for one in scores.values())] for name, scores in record["scores"].items()]


def class_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The table of classes: name, examples, precision, recall and F1, in percent."""
    return [
        [str(name), str(record["classes"][name]), *(f"{100 * value:.0f}" for value in scores.values())]
        for name, scores in record["per class"].items()
    ]


def verdict(record: Mapping[str, Any]) -> str:
    """Say which model is better, by how much, and which is saved."""
    gain = record["gain of the adapted model"]
    better, difference = gain["mean"], _percent(gain, sign=True)
    width = gain["half_width"]
    sure = width is not None and abs(better) > width
    unsure = " The interval includes zero, so these texts do not show a difference."
    if width is None:
        unsure = " All folds agree, of which there are few: that is no interval."
    if record["diverged"]:
        words = (
            "The adapted model diverged in at least one fold: the inner learning rate is too large, and its figures "
            "mean nothing."
        )
    elif abs(better) < ROUNDING:
        words = "The adapted model and the simple one label equally many texts right."
    else:
        which = "adapted" if better > 0 else "simple"
        words = (
            f"The {which} model is better: the adapted one's accuracy minus the simple one's is {difference} points."
        )
        words += "" if sure else unsure
    most = record["scores"][MAJORITY]["accuracy"]["mean"]
    if max(record["scores"][name]["accuracy"]["mean"] for name in (ADAPTED, SIMPLE)) <= most:
        words += f" Neither is better than always saying the most frequent label ({100 * most:.1f}%): do not use it."
    return f"{words} Saved: the {_described(record['saved'])}."


def _described(saved: str) -> str:
    return "adapted model" if saved == ADAPTED else f"simple one, {SIMPLE}"


def _percent(value: Mapping[str, Any], sign: bool = False) -> str:
    """A score in percent, with its interval where there is one."""
    if (value["half_width"] or 0) < 1e-9:  # of one fold, or of equal ones, there is no interval
        return f"{100 * value['mean']:{'+' if sign else ''}.1f}"
    return Estimate(value["mean"], min(value["half_width"], 1.0)).text(sign=sign)  # no score is farther from another
