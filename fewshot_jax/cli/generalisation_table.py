"""Tables on a terminal: scores over divisions of the data, two runs compared, what training and test share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_jax.data.names import counted
from fewshot_jax.evaluation.bootstrap import LEAST_GROUPS
from fewshot_jax.evaluation.leakage import shortened, warnings_of

if TYPE_CHECKING:
    from fewshot_jax.data.leakage import Leakage
    from fewshot_jax.training.compare import Comparison
    from fewshot_jax.training.generalisation import Generalisation

_NAMED = 3  # names of classes in a row


def print_generalisation(result: "Generalisation") -> None:
    """Print the scores over all folds or seeds with 95% intervals, and below them the learner's in each training."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    percent, shots = result.score.percent, list(result.scores[result.learner])
    first = (
        f"{result.score.name}{' (%)' if percent else ''}{'' if result.score.larger_is_better else ', less is better'}"
    )
    heads = [f"{result.ways}-way {k}-shot" if result.ways else counted(k, "example") for k in shots]
    of_all, of_parts = Table(box=box.SIMPLE_HEAD), Table(box=box.SIMPLE_HEAD)
    for table, head in ((of_all, first), (of_parts, f"{result.learner} in each training")):
        table.add_column(head)
        for column in heads:
            table.add_column(column, justify="right", no_wrap=True)
    for name, row in result.scores.items():
        of_all.add_row(name, *(row[k].text(percent=percent) for k in shots))
    if result.ways:
        of_all.add_row("chance", *(f"{100 / result.ways:.1f}" for _ in shots))
    of_all.add_section()
    for baseline, row in result.gains.items():
        of_all.add_row(f"{result.learner} - {baseline}", *(row[k].text(percent=percent, sign=True) for k in shots))
    of_parts.add_column("held out")
    for tested in result.parts:
        cells = [one.text(percent=percent) for one in result.of_part(tested).values()]
        of_parts.add_row(tested.part.name, *cells, escape(_listed(tested.part.held_out)))
    console = Console()
    console.print(of_all)
    console.print(of_parts)
    over = (
        f"95% intervals over {result.groups} {result.over} and the episodes of each (hierarchical bootstrap)"
        if result.bootstrapped
        else f"95% intervals over the episodes of these trainings alone; from {LEAST_GROUPS} {result.over} on they are "
        f"over {result.over} too"
    )
    console.print(f"{len(result.parts)} trainings, {result.episodes} episodes of each; {over}", highlight=False)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def print_comparison(result: "Comparison") -> None:
    """Print the scores of two runs, their difference and its p-value, a row for each number of shots."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    percent = result.score.percent
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(
        f"{result.score.name}{' (%)' if percent else ''}{'' if result.score.larger_is_better else ', less'}"
    )
    for name in ("first", "second", "difference", "p-value", "episodes"):
        table.add_column(name, justify="right", no_wrap=True)
    for k, difference in result.differences.items():
        table.add_row(
            counted(k, "shot"),
            *(one.text(percent=percent) for one in result.of_runs[k]),
            difference.difference.text(percent=percent, sign=True),
            f"{difference.p_value:.4f}",
            str(difference.episodes),
        )
    console = Console()
    console.print(table)
    for name, path, learner in zip(("first", "second"), result.runs, result.learners, strict=True):
        console.print(f"{name}: {learner} ({path})", highlight=False, markup=False, soft_wrap=True)
    exact = all(difference.exact for difference in result.differences.values())
    how = "all exchanges" if exact else "10,000 random exchanges"
    console.print(
        "difference: first minus second, paired by episode, with its 95% interval\n"
        f"p-value: two-sided, {how} of the two runs' scores within episodes",
        highlight=False,
    )


def print_leakage(found: Mapping[Path, Mapping[str, "Leakage"]]) -> None:
    """Print what the test split of each run shares with each other split."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    table.add_column("test with", no_wrap=True)
    for head in ("texts", "test\ntexts", "shared\nnames", "equal\ntexts", "nearly\nequal"):
        table.add_column(head, justify="right", no_wrap=True)
    for run, of_run in found.items():
        for split, one in of_run.items():
            counts = (one.known_texts, one.test_texts, len(one.classes), len(one.exact))
            near = "too many" if one.near is None else f"{len(one.near):,}"
            table.add_row(escape(run.name), split, *(f"{count:,}" for count in counts), near)
    console.print(table)
    for run, of_run in found.items():
        for split, one in of_run.items():
            for line in warnings_of(one, split):
                console.print(f"{run}: {line}", highlight=False, markup=False, soft_wrap=True)
            for pair in (*one.exact[:3], *(one.near or ())[:3]):
                known = f"{split}: {shortened(pair.known)}"
                told = f"  {pair.similarity:.2f}  test: {shortened(pair.test)}\n        {known}"
                console.print(told, highlight=False, markup=False, soft_wrap=True)
