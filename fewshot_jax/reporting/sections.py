"""The sections of one run whose pictures every application has: learning curves, shots, inner steps, episodes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fewshot_jax.evaluation.baselines import CHANCE
from fewshot_jax.evaluation.statistics import Estimate, estimate, finite_or_none, plain
from fewshot_jax.reporting.curves import (
    LOSS,
    VALIDATION,
    over_inner_steps,
    over_shots,
    over_steps,
    points_of,
    spread_over_episodes,
)
from fewshot_jax.reporting.page import Section, gallery, missing, paragraph, table
from fewshot_jax.reporting.probe import Probe, fewest_and_most
from fewshot_jax.reporting.record import RunRecord, is_chance, rows_of


def cell(value: Estimate | None, *, percent: bool, exact: bool = False, sign: bool = False) -> str:
    """A mean with its interval; an ``exact`` one has none."""
    if value is None:
        return "–"
    if not math.isfinite(value.mean):
        return "not finite"
    text = value.text(percent=percent, sign=sign)
    return text.split(" ± ")[0] if exact or not math.isfinite(value.half_width) else text


def learning(record: RunRecord) -> Section:
    """Loss and score against outer steps."""
    losses = {"training tasks, query loss": points_of(record, "loss")}
    scores = {
        "validation episodes, mean over shots": points_of(record, record.score.metric),
        "training tasks": points_of(record, record.score.name),
    }
    if not any(losses.values()) and not any(scores.values()):
        return Section("Learning curves", [missing("metrics.jsonl has no steps yet.")])
    evaluation = record.config.evaluation
    references = record.references(evaluation.validation_shots or evaluation.shots)
    nats = record.of_classes or "nats" in record.score.name
    pictures = []
    if any(losses.values()):
        unit = "loss (nats)" if nats else "loss"
        guess = _loss_of_guessing(record, references)
        pictures.append(over_steps(record, losses, guess, name=LOSS, unit=unit, scale=1))
    if any(scores.values()):
        pictures.append(over_steps(record, scores, references, name=VALIDATION, unit=record.unit, scale=record.scale))
    seconds = [value for _, value in points_of(record, "seconds")]
    summary = f"{max(seconds):.0f} seconds of training and validation, compilation included." if seconds else ""
    if record.result is None:
        summary = f"The run is unfinished. {summary}"
    elif "best_step" in record.result:
        summary = f"The best checkpoint is that of step {record.result['best_step']}. {summary}"
    numbers = {
        "loss": [list(point) for point in losses["training tasks, query loss"]],
        record.score.metric: [list(point) for point in points_of(record, record.score.metric)],
        "seconds": [list(point) for point in points_of(record, "seconds")],
    }
    return Section("Learning curves", [paragraph(summary.strip()), gallery(pictures)], pictures, numbers)


def _loss_of_guessing(record: RunRecord, references: Mapping[str, float]) -> dict[str, float]:
    """The baseline of a training loss: a uniform guess of the classes; where the loss is the score, the score's."""
    config = record.config
    if not record.of_classes:
        return {} if record.score.percent or record.score.larger_is_better else dict(references)
    fixed = config.episodes.min_ways in (None, config.episodes.ways)
    if not fixed or config.learner.name == "multi_task" or config.model.classifier != "head":
        return {}
    return {f"{CHANCE}: a uniform guess, ln {config.episodes.ways}": math.log(config.episodes.ways)}


def shots(record: RunRecord) -> Section:
    """The table of the evaluation, and its curve."""
    title, rows = f"{record.score.name.capitalize()} against shots", record.rows()
    if record.evaluation is None or not rows:
        words = f"This run was not evaluated yet: 'fewshot-jax evaluate {record.run.path}' writes evaluation.json."
        return Section(title, [missing(words)])
    own = [name for name in rows if record.is_own(name)]
    picture = over_shots(
        rows,
        solid=own,
        colours={},
        name="shots",
        unit=f"{record.unit}, test episodes",
        scale=record.scale,
        classes=record.of_classes,
    )
    ways = record.evaluation.get("ways")
    summary = (
        f"{record.evaluation.get('episodes', '?')} test episodes{f' of {ways} ways' if ways else ''}, checkpoint of "
        f"step {record.evaluation.get('checkpoint_step', '?')}; 95% intervals over episodes, of one run. "
        f"{'More' if record.score.larger_is_better else 'Less'} is better."
    )
    measured = score_table(record, f"{record.unit}, test episodes", rows, record.score.percent, own)
    blocks = [paragraph(summary), gallery([picture]), measured]
    gains = rows_of(record.evaluation.get("gain"))
    if gains:
        blocks.append(
            score_table(
                record,
                f"{record.unit}: {record.learner} minus each baseline, paired by episode",
                gains,
                record.score.percent,
                sign=True,
            )
        )
    for name, of in (record.evaluation.get("more") or {}).items():
        unit, percent = record.unit_of(name)
        blocks.append(score_table(record, unit, rows_of(of.get("scores")), percent, own))
    return Section(title, blocks, [picture], {row: _by_shots(of) for row, of in rows.items()})


def _by_shots(row: Mapping[int, Estimate]) -> dict[str, Any]:
    return {str(k): plain(value) for k, value in row.items()}


def score_table(
    record: RunRecord,
    caption: str,
    rows: Mapping[str, Mapping[int, Estimate]],
    percent: bool,
    own: Sequence[str] = (),
    sign: bool = False,
) -> str:
    """Estimates of rows at each number of shots.

    Args:
        record: of a run, which has words for shots.
        caption: of the table.
        rows: row -> shots -> estimate.
        percent: whether these are shares.
        own: the rows to stand out.
        sign: write a plus too.
    """
    numbers = sorted({k for row in rows.values() for k in row})
    lines = [
        [name, *(cell(of.get(k), percent=percent, exact=is_chance(name), sign=sign) for k in numbers)]
        for name, of in rows.items()
    ]
    marked = [number for number, name in enumerate(rows) if name in own]
    return table(caption, ["row", *map(record.at, numbers)], lines, marked)


def inner_steps(record: RunRecord, probe: Probe) -> Section:
    """The score after other numbers of inner steps."""
    title, curve = f"{record.score.name.capitalize()} against inner steps", probe.steps
    if probe.missing is not None:
        return Section(title, [missing(probe.missing)])
    if curve is None:
        return Section(title, [paragraph(f"{record.learner} has no inner loop.")])
    picture = over_inner_steps(record, curve)
    summary = (
        f"The best checkpoint on {probe.episodes} validation episodes at each number of shots, with other numbers of "
        f"inner steps: training took {curve.trained}, evaluation takes {curve.evaluated}. Bands are 95% intervals."
    )
    percent = record.score.percent
    rows = [
        [str(steps), *(cell(scores[place], percent=percent) for scores in curve.scores.values())]
        for place, steps in enumerate(curve.steps)
    ]
    heads = ["inner steps", *map(record.at, curve.scores)]
    numbers = {
        "episodes": probe.episodes,
        "steps": list(curve.steps),
        "scores": {str(k): [plain(value) for value in scores] for k, scores in curve.scores.items()},
    }
    return Section(title, [paragraph(summary), gallery([picture]), table(record.unit, heads, rows)], [picture], numbers)


def episode_sections(record: RunRecord, probe: Probe) -> Section:
    """The spread of the score over test episodes."""
    title = f"{record.score.name.capitalize()} of each test episode"
    stored, pictures, rows = record.episode_scores, [], []
    numbers: dict[str, dict[str, Any]] = {}
    own = (stored or {}).get(record.learner, probe.scores)
    if not own:
        return Section(title, [missing(probe.missing or "No episodes were measured.")])
    for k in fewest_and_most(tuple(own)):
        values = {record.learner: own[k]}
        if stored is not None and (baseline := _best_baseline(record, k)):
            values[baseline] = stored[baseline][k]
        values = {name: of for name, of in values.items() if np.isfinite(of).any()}
        if record.learner not in values:
            continue
        pictures.append(spread_over_episodes(record, values, k))
        for name, of in values.items():
            those = of[np.isfinite(of)]
            spread = record.scale * np.quantile(those, [0, 0.25, 0.5, 0.75, 1])
            digits = 1 if record.score.percent else 3
            mean = cell(estimate(those), percent=record.score.percent)
            rows.append([f"{name}, {record.at(k)}", str(len(of)), mean, *(f"{value:.{digits}f}" for value in spread)])
            kept = [finite_or_none(float(value)) for value in of]
            numbers.setdefault(name, {})[str(k)] = kept
    whence = (
        "The episodes of the evaluation (episode_scores.json)."
        if stored is not None and record.learner in stored
        else f"The run keeps no scores of single episodes; these are {probe.episodes} that the report has measured."
    )
    if not pictures:
        return Section(title, [missing("No episode has a finite score.")])
    heads = ["row", "episodes", "mean", "least", "quarter", "median", "three quarters", "most"]
    blocks = [paragraph(whence), gallery(pictures), table(record.unit, heads, rows)]
    return Section(title, blocks, pictures, numbers)


def _best_baseline(record: RunRecord, k: int) -> str | None:
    """The baseline with the best mean at a number of shots, of those whose episodes are kept."""
    means = {
        name: float(np.nanmean(of[k]))
        for name, of in (record.episode_scores or {}).items()
        if not record.is_own(name) and k in of and np.isfinite(of[k]).any()
    }
    best = max if record.score.larger_is_better else min
    return best(means, key=lambda name: means[name]) if means else None
