"""Pictures of classes: what is taken for what, how sure the learner is, where its features lie."""

from typing import Any

import numpy as np

from fewshot_jax.evaluation.confusion import Confusion
from fewshot_jax.reporting.calibration import Calibration
from fewshot_jax.reporting.embedding import Embedding, Plane
from fewshot_jax.reporting.figures import (
    GREY,
    SMALL,
    TEXT,
    Picture,
    colour,
    figure,
    label,
    legend,
    marker,
    png,
    reference,
    shown,
)

MOST_CLASSES = 30  # of a matrix that can be read
WRITTEN_OUT = 12  # up to so many classes, the shares stand in the cells


def most_confused(confusion: Confusion, most: int = MOST_CLASSES) -> list[int]:
    """The positions of the classes with the most queries on either side of a confusion, in their own order."""
    wrong = confusion.counts * ~np.eye(len(confusion.classes), dtype=bool)
    here = np.flatnonzero(confusion.counts.sum(0) + confusion.counts.sum(1))
    order = np.argsort(-(wrong.sum(0) + wrong.sum(1))[here], kind="stable")
    return sorted(int(place) for place in here[order[:most]])


def matrix(confusion: Confusion, shots: int) -> Picture:
    """The confusion matrix of at most `MOST_CLASSES` classes, in percent of each class's queries."""
    chosen = most_confused(confusion)
    totals = np.maximum(confusion.counts.sum(1), 1)[chosen]
    shares = 100 * confusion.counts[np.ix_(chosen, chosen)] / totals[:, None]
    names = [shown(confusion.classes[place], 20) for place in chosen]
    size = max(4.6, 2.2 + 0.26 * len(chosen))
    made, axes = figure(size + 0.6, size)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    font = SMALL if len(chosen) <= 20 else 7.5
    axes.set_xticks(range(len(chosen)), names, rotation=90, fontsize=font)
    axes.set_yticks(range(len(chosen)), names, fontsize=font)
    if len(chosen) <= WRITTEN_OUT:
        for (i, j), share in np.ndenumerate(shares):
            ink = "white" if share < 55 else "black"
            axes.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=SMALL, color=ink)
    label(axes, f"labelled as, {shots}-shot", "class")
    bar = made.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("% of the class's queries", fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    right = float(np.trace(confusion.counts)) / max(confusion.counts.sum(), 1)
    alt = f"Confusion matrix of {len(chosen)} classes, {shots}-shot; {100 * right:.1f}% of queries labelled right."
    return Picture(f"confusion_{shots}_shot", png(made, axes, grid=False), alt, wide=len(chosen) > WRITTEN_OUT)


def reliability(calibration: Calibration, shots: int, chance: float | None) -> Picture:
    """Accuracy against confidence, bin by bin."""
    made, axes = figure(5.0, 4.4)
    full = calibration.items > 0
    low, high = 100 * calibration.edges[:-1][full], 100 * calibration.edges[1:][full]
    accuracy, confidence = 100 * calibration.accuracy[full], 100 * calibration.confidence[full]
    share = 100 * calibration.items[full] / max(calibration.items.sum(), 1)
    axes.bar(low, accuracy, high - low, align="edge", color=colour(0), alpha=0.6, edgecolor="white", label="accuracy")
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1.4, label="confidence equals accuracy")
    size = 18 + 3 * share
    axes.scatter([], [], s=36, color=colour(1), label="mean confidence (area: share)")
    axes.scatter(
        confidence,
        accuracy,
        s=size,
        color=colour(1),
        edgecolor="white",
        zorder=3,
    )
    if chance is not None:
        reference(axes, "chance", 100 * chance, 0)
    axes.set(xlim=(0, 100), ylim=(0, 103))
    label(axes, "confidence, probability of the predicted class (%)", "accuracy (%)")
    error = 100 * calibration.error
    axes.set_title(f"{shots}-shot, expected calibration error {error:.1f}%", fontsize=TEXT)
    legend(made, axes)
    bins = ", ".join(f"{a:.0f}% right at {c:.0f}% confidence" for a, c in zip(accuracy, confidence, strict=True))
    alt = f"Reliability diagram, {shots}-shot, expected calibration error {error:.1f}%: {bins}."
    return Picture(f"reliability_{shots}_shot", png(made, axes), alt)


def planes(embedding: Embedding) -> list[Picture]:
    """The features of one episode, before and after adaptation."""
    if embedding.after is None:
        return [_plane(embedding, embedding.before, "features", "Features")]
    return [
        _plane(embedding, embedding.before, "features_before", "Features before adaptation"),
        _plane(embedding, embedding.after, "features_after", "Features after adaptation"),
    ]


def _plane(embedding: Embedding, plane: Plane, name: str, title: str) -> Picture:
    made, axes = figure(5.2, 4.4)
    for number, class_name in enumerate(embedding.classes):
        here = embedding.label == number
        for side, style in ((False, _QUERY), (True, _SUPPORT)):
            points = plane.points[here & (embedding.support == side)]
            named = {"label": shown(class_name, 24)} if side else {}
            drawn = {"facecolor": colour(number)} if side else {"facecolor": "none"}
            axes.scatter(*points.T, edgecolor=colour(number), marker=marker(number), **style, **drawn, **named)
        if embedding.prototypes:
            centre = plane.points[here & embedding.support].mean(0)
            axes.scatter(*centre, s=190, marker="*", color=colour(number), edgecolor="black", zorder=4)
    more = " A star is a prototype." if embedding.prototypes else ""
    first, second = 100 * plane.shares
    label(axes, f"principal component 1 ({first:.0f}% of variance)", f"principal component 2 ({second:.0f}%)")
    axes.set_title(f"{title}: filled support, hollow query{', star prototype' if more else ''}", fontsize=SMALL)
    legend(made, axes)
    items = f"{int(embedding.support.sum())} support and {int((~embedding.support).sum())} query items"
    alt = (
        f"{title} of one {embedding.shots}-shot test episode in two dimensions: {items} of {len(embedding.classes)} "
        f"classes, {', '.join(embedding.classes)}.{more}"
    )
    return Picture(name, png(made, axes), alt)


_QUERY: dict[str, Any] = {"s": 34, "linewidth": 1.3, "zorder": 2}
_SUPPORT: dict[str, Any] = {"s": 62, "linewidth": 1.0, "zorder": 3}
