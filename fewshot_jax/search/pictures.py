"""The pictures of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_jax.applications.application import Score
from fewshot_jax.atomic_write import atomic_file
from fewshot_jax.search.results import COMPLETE, TrialRow


def history(rows: Sequence[TrialRow], score: Score, output: Path) -> None:
    """Draw the score of each trial, and the best so far.

    Args:
        rows: of the trials.
        score: of the study.
        output: the PNG to write.
    """
    figure, axes = _figure(6, 3.5)
    complete = [row for row in rows if row.state == COMPLETE]
    ended = [row for row in rows if row.state == "pruned" and row.score is not None]
    for some, label, style in (
        (complete, "complete", {"color": "C0"}),
        (ended, "pruned, best before its end", {"color": "C7", "marker": "x"}),
    ):
        if some:
            axes.scatter([row.number for row in some], [row.score for row in some], label=label, zorder=3, **style)
    running = np.maximum.accumulate if score.larger_is_better else np.minimum.accumulate
    if complete:
        best = running(np.array([row.score for row in complete], np.float64))
        axes.step([row.number for row in complete], best, where="post", color="C1", label="best so far")
        axes.legend(frameon=False)
    axes.set(xlabel="trial", ylabel=f"{score.name}, validation tasks")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    with atomic_file(output) as partial:
        figure.savefig(partial, dpi=120)


def importance(shares: Mapping[str, float], output: Path) -> None:
    """Draw how much of the variance of the score each field explains.

    Args:
        shares: by field.
        output: the PNG to write.
    """
    figure, axes = _figure(6, 1.2 + 0.4 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color="C0")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the score's variance (fANOVA)", xlim=(0, 1.1))
    axes.grid(alpha=0.3, axis="x")
    with atomic_file(output) as partial:
        figure.savefig(partial, dpi=120)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
