"""The evaluation table on a terminal."""

from collections.abc import Sequence
from typing import Any

from fewshot_jax.data.names import counted
from fewshot_jax.evaluation.baselines import CHANCE
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.training.results import Evaluation, Measured
from fewshot_jax.training.rows import MULTI_TASK, PRETRAINED, UNTRAINED

_OF_A_RUN = (UNTRAINED, PRETRAINED, MULTI_TASK)  # what the baselines start from that depend on the run's model


def table_rows(evaluations: Sequence[Evaluation]) -> dict[str, dict[int, Estimate]]:
    """The rows of one or several runs on the same episodes: learners first, then the baselines, shared ones once."""
    own: dict[str, dict[int, Estimate]] = {}
    baselines: dict[str, dict[int, Estimate]] = {}
    for evaluation in evaluations:
        of_run = f" ({evaluation.run})" if len(evaluations) > 1 else ""
        for name, row in evaluation.scores.items():
            if name.split(",")[0] == evaluation.learner:
                own[f"{name}{of_run}"] = row
            else:
                baselines[f"{name}{of_run}" if name.split(",")[0] in _OF_A_RUN else name] = row
    last = {name: baselines.pop(name) for name in [CHANCE] if name in baselines}
    return {**own, **baselines, **last}


def _more(evaluations: Sequence[Evaluation], number: int, first: Measured, shots: Sequence[int], classes: bool) -> Any:
    """A table of one of the further scores."""
    from rich import box
    from rich.table import Table

    percent = first.score.percent
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{first.score.name}{' (%)' if percent else ''}")
    for k in shots:
        table.add_column(f"{k}-shot" if classes else counted(k, "example"), justify="right", no_wrap=True)
    for evaluation in evaluations:
        of_run = f" ({evaluation.run})" if len(evaluations) > 1 else ""
        for name, row in evaluation.more[number].scores.items():
            table.add_row(f"{name}{of_run}", *(row[k].text(percent=percent) for k in shots))
    return table


def print_evaluation(evaluations: Sequence[Evaluation]) -> None:
    """Print scores with 95% intervals, a row for each learner and for each baseline."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first = evaluations[0]
    percent, larger, classes = first.score.percent, first.score.larger_is_better, first.ways is not None
    rows = table_rows(evaluations)
    shots = list(next(iter(rows.values())))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{first.score.name}{' (%)' if percent else ''}{'' if larger else ', less is better'}")
    unit = "examples" if first.more else "points"
    for k in shots:
        table.add_column(f"{first.ways}-way {k}-shot" if classes else f"{k} {unit}", justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = (f"{100 * row[k].mean:.1f}" if name == CHANCE else row[k].text(percent=percent) for k in shots)
        table.add_row(name, *cells)
    table.add_section()
    for evaluation in evaluations:
        of_run = f" ({evaluation.run})" if len(evaluations) > 1 else ""
        for baseline, gains in evaluation.gains.items():
            name = f"{evaluation.learner}{of_run} - {baseline}"
            table.add_row(name, *(gains[k].text(percent=percent, sign=True) for k in shots))
    console = Console()
    console.print(table)
    for number, one in enumerate(first.more):
        console.print(_more(evaluations, number, one, shots, classes))
    steps = ", ".join(f"{e.run} at step {e.step}{'' if e.finished else ' (run unfinished)'}" for e in evaluations)
    what = "unseen classes; 95% intervals over episodes, of one run and one class split" if classes else "test tasks"
    for evaluation in evaluations:
        for k, confusion in evaluation.confusion.items():
            pairs = [f"{label} as {other} {share:.1%}" for label, other, share in confusion.worst()]
            if pairs:
                of_run = f", {evaluation.run}" if len(evaluations) > 1 else ""
                listed = "; ".join(pairs)
                console.print(f"most often confused, {k}-shot{of_run}: {listed}", highlight=False, markup=False)
    for name, text in first.signatures().items():
        console.print(f"{name}: {text}", highlight=False)
    console.print(f"{first.episodes} episodes of {what}\ncheckpoints: {steps}", highlight=False)
