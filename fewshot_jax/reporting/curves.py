"""Pictures of scores and losses along an axis: outer steps, inner steps, shots; and their spread over episodes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fewshot_jax.evaluation.baselines import CHANCE
from fewshot_jax.evaluation.statistics import Estimate
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
from fewshot_jax.reporting.probe import StepCurve
from fewshot_jax.reporting.record import RunRecord, is_chance

Points = Sequence[tuple[int, float]]  # (step, value)
LOSS, VALIDATION = "training_loss", "validation_score"


def points_of(record: RunRecord, metric: str) -> list[tuple[int, float]]:
    """The values of a metric that were finite."""
    return [(row["step"], float(row[metric])) for row in record.metrics if row.get(metric) is not None]


def over_steps(
    record: RunRecord,
    lines: Mapping[str, Points],
    references: Mapping[str, float],
    *,
    name: str,
    unit: str,
    scale: float,
) -> Picture:
    """Curves against outer steps, with the seconds of training and validation on a second axis.

    Args:
        record: of the run.
        lines: by what they are; the first is the one that counts.
        references: the baselines.
        name: of the picture.
        unit: of the curves, named.
        scale: what the values are multiplied by.
    """
    made, axes = figure()
    for number, (what, points) in enumerate(lines.items()):
        if points:
            steps, values = np.array(points).T
            few = marker(number) if len(points) < 30 else None
            axes.plot(steps, scale * values, color=colour(number), marker=few, markersize=4, label=shown(what, 44))
    for number, (what, value) in enumerate(references.items()):
        reference(axes, what, scale * value, number)
    label(axes, "outer step", unit)
    _from_zero(axes, percent=scale == 100)
    _seconds(axes, record)
    legend(made, axes)
    summary = "; ".join(f"{what}: {_course(points, scale)}" for what, points in lines.items() if points)
    baselines = "".join(f"; {what} at {scale * value:.4g}" for what, value in references.items())
    return Picture(name, png(made, axes), f"Curve of {unit} against outer steps. {summary}{baselines}.")


def _course(points: Points, scale: float) -> str:
    (first, start), (last, end) = points[0], points[-1]
    return f"from {scale * start:.4g} at step {first} to {scale * end:.4g} at step {last}"


def _from_zero(axes: Any, *, percent: bool) -> None:
    """The axis begins at zero; that of a share ends at 100%."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(0 if percent else min(0, bottom), 103 if percent else 1.03 * top)


def _seconds(axes: Any, record: RunRecord) -> None:
    """A second axis above: the time at which a step was done."""
    at = points_of(record, "seconds")
    if len(at) < 2:
        return
    steps, seconds = np.array(sorted(at)).T
    low, high = axes.get_xlim()
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    ticks = [tick for tick in axes.get_xticks() if steps[0] <= tick <= steps[-1] and low <= tick <= high]
    written = "{:,.0f}" if seconds[-1] >= 20 else "{:.2g}"
    above = axes.twiny()
    above.set_xlim(low, high)
    above.set_xticks(ticks, [written.format(np.interp(tick, steps, seconds)) for tick in ticks], fontsize=SMALL)
    above.set_xlabel("seconds of training and validation", fontsize=TEXT)
    above.spines[["right"]].set_visible(False)


def over_shots(
    rows: Mapping[str, Mapping[int, Estimate]],
    *,
    solid: Sequence[str],
    colours: Mapping[str, int],
    name: str,
    unit: str,
    scale: float,
    classes: bool,
) -> Picture:
    """Scores with their 95% intervals against the number of shots.

    Args:
        rows: row -> shots -> estimate.
        solid: the rows of learners; the others are dashed.
        colours: numbers of the palette, where rows are to share one; by default each has its own.
        name: of the picture.
        unit: the score's name.
        scale: what it is multiplied by.
        classes: whether shots are of classes.
    """
    made, axes = figure()
    shots = sorted({k for row in rows.values() for k in row})
    for number, (row, of) in enumerate(rows.items()):
        if is_chance(row) and len({estimate.mean for estimate in of.values()}) == 1:
            reference(axes, row, scale * next(iter(of.values())).mean, 0 if row == CHANCE else number)
            continue
        known = [k for k in sorted(of) if math.isfinite(of[k].mean)]
        means, halves = (scale * np.array([getattr(of[k], part) for k in known]) for part in Estimate._fields)
        own = row in solid
        axes.errorbar(
            np.array(known) * 1.02 ** (number - len(rows) / 2),  # side by side, where intervals would cover each other
            means,
            yerr=np.where(np.isfinite(halves), halves, 0),
            color=colour(colours.get(row, number)),
            marker=marker(number),
            markersize=6 if own else 4.5,
            linewidth=2.2 if own else 1.3,
            linestyle="-" if own else "--",
            capsize=3,
            label=shown(row, 44),
            zorder=3 if own else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(shots) / 1.35, max(shots) * 1.35)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    label(axes, "shots (support items of each class)" if classes else "support items", unit)
    _from_zero(axes, percent=scale == 100)
    legend(made, axes)
    summary = "; ".join(f"{row}: {_at_shots(of, scale)}" for row, of in rows.items())
    return Picture(name, png(made, axes), f"{unit} against shots with 95% intervals. {summary}.")


def _at_shots(row: Mapping[int, Estimate], scale: float) -> str:
    return ", ".join(f"{scale * row[k].mean:.4g} at {k}" for k in sorted(row))


def over_inner_steps(record: RunRecord, curve: StepCurve) -> Picture:
    """The score against the number of inner steps, with those of training and evaluation marked."""
    made, axes = figure()
    dashes: Any = ({"linestyle": "-", "zorder": 3}, {"linestyle": "--", "zorder": 4})  # both show where they coincide
    for number, (shots, scores) in enumerate(curve.scores.items()):
        means, halves = (record.scale * np.array([getattr(of, part) for of in scores]) for part in Estimate._fields)
        halves = np.where(np.isfinite(halves), halves, 0)
        axes.plot(
            curve.steps,
            means,
            color=colour(number),
            marker=marker(number),
            label=record.at(shots),
            **dashes[number % 2],
        )
        axes.fill_between(curve.steps, means - halves, means + halves, color=colour(number), alpha=0.18, linewidth=0)
    for number, (what, value) in enumerate(record.references(list(curve.scores)).items()):
        reference(axes, what, record.scale * value, number)
    marks = {curve.trained: "training", curve.evaluated: "evaluation"}
    if curve.trained == curve.evaluated:
        marks[curve.trained] = "training and evaluation"
    for number, (steps, what) in enumerate(marks.items()):
        axes.axvline(steps, color=GREY, alpha=0.45, linewidth=4 - 2 * number, label=f"steps of {what}", zorder=0)
    axes.set_xticks(curve.steps)
    label(axes, "inner steps", f"{record.unit}, validation episodes")
    _from_zero(axes, percent=record.score.percent)
    legend(made, axes)
    summary = "; ".join(
        f"{record.at(shots)}: "
        + ", ".join(f"{record.scale * of.mean:.4g} after {n}" for n, of in zip(curve.steps, scores, strict=True))
        for shots, scores in curve.scores.items()
    )
    return Picture("inner_steps", png(made, axes), f"{record.unit} against inner steps. {summary}.")


def spread_over_episodes(record: RunRecord, values: Mapping[str, np.ndarray], shots: int) -> Picture:
    """The spread of the score over test episodes, of the learner and of a baseline.

    Args:
        record: of the run.
        values: row -> ``[episodes]``, the learner's first; at least one is finite.
        shots: of the episodes.
    """
    made, axes = figure()
    finite = {row: record.scale * of[np.isfinite(of)] for row, of in values.items()}
    every = np.concatenate(list(finite.values()))
    edges = np.linspace(0, 100, 21) if record.score.percent else np.histogram_bin_edges(every, 20)
    for number, (row, of) in enumerate(finite.items()):
        filled = {"alpha": 0.55} if number == 0 else {"histtype": "step", "linewidth": 1.8}
        axes.hist(of, edges, color=colour(number), label=shown(f"{row}, mean {of.mean():.3g}", 50), **filled)
        axes.axvline(of.mean(), color=colour(number), linewidth=1.6)
    guess = record.chance()
    if guess is not None:
        reference(axes, f"{CHANCE}, {record.scale * guess:.3g}", record.scale * guess, 0, vertical=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    label(axes, record.unit, f"test episodes, {record.at(shots)}")
    legend(made, axes)
    summary = "; ".join(
        f"{row}: median {np.median(of):.4g}, from {of.min():.4g} to {of.max():.4g}" for row, of in finite.items()
    )
    return Picture(
        f"episode_scores_{shots}_shot", png(made, axes), f"Histogram over test episodes, {record.at(shots)}. {summary}."
    )
