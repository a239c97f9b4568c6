"""The evaluation table on a terminal."""

from collections.abc import Sequence

from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.training.evaluate import CHANCE, TFIDF, UNTRAINED, Evaluation


def table_rows(evaluations: Sequence[Evaluation]) -> dict[str, dict[int, Estimate]]:
    """The rows of one or several runs on the same episodes: learners first, then the floors once."""
    learners: dict[str, dict[int, Estimate]] = {}
    untrained: dict[str, dict[int, Estimate]] = {}
    for evaluation in evaluations:
        of_run = f" ({evaluation.run})" if len(evaluations) > 1 else ""
        name = next(iter(evaluation.accuracy))
        learners[f"{name}{of_run}"] = evaluation.accuracy[name]
        untrained[f"{UNTRAINED}{of_run}"] = evaluation.accuracy[UNTRAINED]
    shared = evaluations[0].accuracy
    return {**learners, TFIDF: shared[TFIDF], **untrained, CHANCE: shared[CHANCE]}


def print_evaluation(evaluations: Sequence[Evaluation]) -> None:
    """Print accuracies with 95% intervals, a row for each learner and for each floor."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first = evaluations[0]
    rows = table_rows(evaluations)
    shots = list(next(iter(rows.values())))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("accuracy (%)")
    for k in shots:
        table.add_column(f"{first.ways}-way {k}-shot", justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(f"{100 * row[k].mean:.1f}" if name == CHANCE else str(row[k]) for k in shots))
    table.add_section()
    for evaluation in evaluations:
        gains = [evaluation.gain[k] for k in shots]
        name = f"{next(iter(evaluation.accuracy))} - {TFIDF}"
        table.add_row(name, *(f"{100 * gain.mean:+.1f} ± {100 * gain.half_width:.1f}" for gain in gains))
    console = Console()
    console.print(table)
    steps = ", ".join(f"{e.run} at step {e.step}{'' if e.finished else ' (run unfinished)'}" for e in evaluations)
    console.print(
        f"{first.episodes} episodes of unseen classes; 95% intervals over episodes, of one run and one class split\n"
        f"checkpoints: {steps}",
        highlight=False,
    )
