"""The evaluation table on a terminal."""

from fewshot_jax.training.evaluate import Evaluation


def print_evaluation(evaluation: Evaluation) -> None:
    """Print accuracies with 95% intervals, a row for the learner and for each floor."""
    from rich.console import Console
    from rich.table import Table

    shots = list(next(iter(evaluation.accuracy.values())))
    state = "" if evaluation.finished else ", run unfinished"
    table = Table(
        title=f"{evaluation.ways}-way accuracy (%) on {evaluation.episodes} episodes of unseen classes, "
        f"95% intervals (checkpoint of step {evaluation.step}{state})",
        title_justify="left",
    )
    table.add_column("")
    for k in shots:
        table.add_column(f"{k}-shot", justify="right")
    for name, row in evaluation.accuracy.items():
        table.add_row(name, *(f"{100 * row[k].mean:.1f}" if name == "chance" else str(row[k]) for k in shots))
    table.add_section()
    gains = [evaluation.gain[k] for k in shots]
    table.add_row("gain over TF-IDF", *(f"{100 * g.mean:+.1f} ± {100 * g.half_width:.1f}" for g in gains))
    console = Console()
    console.print(table, width=None if console.is_terminal else max(console.width, 100))
