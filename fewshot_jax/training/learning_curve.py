"""The learning curve of a run."""

from pathlib import Path
from typing import Any

from fewshot_jax.applications.application import Score
from fewshot_jax.training.metrics import read_metrics


def learning_curve(metrics: Path, output: Path, score: Score) -> None:
    """Draw loss and score against outer steps, and the validation score against time.

    Args:
        metrics: ``metrics.jsonl`` of a run.
        output: the PNG to write.
        score: of the application.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, score_axes, time_axes = figure.subplots(1, 3)

    def draw(axes: Any, name: str, label: str, **style: Any) -> None:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)

    draw(loss_axes, "loss", "query loss, training tasks")
    draw(score_axes, score.name, "training tasks", alpha=0.6)
    draw(score_axes, score.metric, "validation tasks", marker="o")
    loss_axes.set(xlabel="outer step", ylabel="loss (nats)" if score.percent else "loss", ylim=(0, None))
    score_axes.set(xlabel="outer step", ylabel=score.name, ylim=(0, 1.02 if score.percent else None))
    at = {row["step"]: row["seconds"] / 60 for row in rows if row.get("seconds") is not None}
    timed = [(at[row["step"]], row[score.metric]) for row in rows if score.metric in row and row["step"] in at]
    if timed:
        time_axes.plot(*zip(*timed, strict=True), label="validation tasks", marker="o", color="C1")
    time_axes.set(xlabel="minutes of training and validation", ylabel=score.name, ylim=score_axes.get_ylim())
    for axes in (loss_axes, score_axes, time_axes):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(output, dpi=120)
