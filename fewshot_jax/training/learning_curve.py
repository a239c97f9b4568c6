"""The learning curve of a run."""

from pathlib import Path
from typing import Any

from fewshot_jax.training.metrics import read_metrics


def learning_curve(metrics: Path, output: Path) -> None:
    """Draw loss and accuracy against outer steps.

    Args:
        metrics: ``metrics.jsonl`` of a run.
        output: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, accuracy_axes = figure.subplots(1, 2)

    def draw(axes: Any, name: str, label: str, **style: Any) -> None:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)

    draw(loss_axes, "loss", "query loss, training classes")
    draw(accuracy_axes, "accuracy", "training classes", alpha=0.6)
    draw(accuracy_axes, "validation_accuracy", "validation classes", marker="o")
    loss_axes.set(xlabel="outer step", ylabel="loss (nats)", ylim=(0, None))
    accuracy_axes.set(xlabel="outer step", ylabel="accuracy", ylim=(0, 1.02))
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(output, dpi=120)
