"""The learning curves of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_jax.atomic_write import atomic_file
from fewshot_jax.runs.metrics import read_metrics


def learning_curve(metrics: Path, output: Path, *, name: str, metric: str, percent: bool) -> None:
    """Draw loss and score against outer steps, and the validation score against time.

    Args:
        metrics: ``metrics.jsonl`` of a run.
        output: the PNG to write.
        name: of the score, as it stands in the lines of training.
        metric: its name in the lines of validation.
        percent: whether it is a share, from 0 to 1.
    """
    rows = read_metrics(metrics)
    figure, (loss_axes, score_axes, time_axes) = _figure(3)
    _draw(loss_axes, rows, "loss", "query loss, training tasks")
    _draw(score_axes, rows, name, "training tasks", alpha=0.6)
    _draw(score_axes, rows, metric, "validation tasks", marker="o")
    loss_axes.set(xlabel="outer step", ylabel="loss (nats)" if percent else "loss", ylim=(0, None))
    score_axes.set(xlabel="outer step", ylabel=name, ylim=(0, 1.02 if percent else None))
    at = {row["step"]: row["seconds"] / 60 for row in rows if row.get("seconds") is not None}
    timed = [(at[row["step"]], row[metric]) for row in rows if metric in row and row["step"] in at]
    if timed:
        time_axes.plot(*zip(*timed, strict=True), label="validation tasks", marker="o", color="C1")
    time_axes.set(xlabel="minutes of training and validation", ylabel=name, ylim=score_axes.get_ylim())
    _save(figure, output)


def loss_curve(metrics: Path, output: Path) -> None:
    """Draw the losses and the throughput of a pretraining run against steps.

    Args:
        metrics: its ``metrics.jsonl``.
        output: the PNG to write.
    """
    rows = read_metrics(metrics)
    figure, (loss_axes, speed_axes) = _figure(2)
    _draw(loss_axes, rows, "loss", "training", alpha=0.6)
    _draw(loss_axes, rows, "validation_loss", "held-out documents", marker="o")
    _draw(speed_axes, rows, "tokens_per_second", "training")
    loss_axes.set(xlabel="step", ylabel="loss (nats per token)")
    speed_axes.set(xlabel="step", ylabel="tokens per second", ylim=(0, None))
    _save(figure, output)


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * columns, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def _draw(axes: Any, rows: Sequence[Mapping[str, Any]], name: str, label: str, **style: Any) -> None:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _save(figure: Any, output: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    with atomic_file(output) as partial:
        figure.savefig(partial, dpi=120)
