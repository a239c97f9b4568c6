"""The sections of a run with classes: confusion, calibration, features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewshot_jax.evaluation.confusion import Confusion
from fewshot_jax.reporting.classes import MOST_CLASSES, matrix, planes, reliability
from fewshot_jax.reporting.page import Section, gallery, missing, paragraph, table
from fewshot_jax.reporting.probe import Probe, fewest_and_most
from fewshot_jax.reporting.record import RunRecord

MOST_PAIRS = 20
NO_CLASSES = "This application has no classes."


def stored_confusion(record: RunRecord) -> dict[int, Confusion]:
    """The counts of the evaluation, at each number of shots; what each class was asked beside is not stored.

    Empty where they are torn: the report then counts its own episodes.
    """
    found: Mapping[str, Any] = (record.evaluation or {}).get("confusion") or {}
    try:
        # A matrix without names is what earlier versions wrote.
        return {int(k): _counted(counts) for k, counts in found.items() if isinstance(counts, Mapping)}
    except (AttributeError, TypeError, ValueError):
        return {}


def _counted(counts: Mapping[str, Mapping[str, int]]) -> Confusion:
    names = sorted({*counts, *(other for row in counts.values() for other in row)})
    place = {name: number for number, name in enumerate(names)}
    total = np.zeros((len(names),) * 2, np.int64)
    for name, row in counts.items():
        for other, count in row.items():
            total[place[name], place[other]] = count
    return Confusion(names, total, np.broadcast_to(total.sum(1, keepdims=True), total.shape))


def confused_pairs(confusion: Confusion, most: int = MOST_PAIRS) -> list[tuple[str, str, int, float]]:
    """The most frequent confusions: class, what it was labelled as, how often, and the share of its queries."""
    wrong = confusion.counts * ~np.eye(len(confusion.classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    totals = confusion.counts.sum(1)
    return [
        (confusion.classes[i], confusion.classes[j], int(wrong[i, j]), float(wrong[i, j] / totals[i])) for i, j in pairs
    ]


def confusion(record: RunRecord, probe: Probe) -> Section:
    """What is taken for what."""
    title = "Confusion of classes"
    if not record.of_classes:
        return Section(title, [paragraph(NO_CLASSES)])
    stored = stored_confusion(record)
    found = stored or dict(probe.confusion)
    if not found:
        return Section(title, [missing(probe.missing or "No confusions are stored.")])
    looked_at = {k: found[k] for k in fewest_and_most(tuple(found))}
    pictures = [matrix(one, k) for k, one in looked_at.items()]
    classes = max(len(one.classes) for one in looked_at.values())
    whence = "The queries of the evaluation" if stored else f"The queries of {probe.episodes} test episodes"
    cut = f" The pictures show the {MOST_CLASSES} most confused of {classes} classes." if classes > MOST_CLASSES else ""
    few = "An episode has a few of the classes, so that shares are of those."
    summary = f"{whence}, labelled by {record.learner}. {few}{cut}"
    blocks = [paragraph(summary), gallery(pictures)]
    for k, one in looked_at.items():
        pairs = confused_pairs(one)
        rows = [[name, other, str(count), f"{share:.1%}"] for name, other, count, share in pairs]
        heads = ["class", "labelled as", "queries", "share of the class's queries"]
        caption = f"Most frequent confusions, {k}-shot"
        blocks.append(table(caption, heads, rows) if rows else paragraph(f"No query was labelled wrong, {k}-shot."))
    return Section(title, blocks, pictures, {str(k): one.to_json() for k, one in looked_at.items()})


def calibration(record: RunRecord, probe: Probe) -> Section:
    """Accuracy against confidence."""
    title = "Calibration"
    if not record.of_classes:
        return Section(title, [paragraph(NO_CLASSES)])
    if probe.missing is not None:
        return Section(title, [missing(probe.missing)])
    pictures = [reliability(one, k, record.chance()) for k, one in probe.calibration.items()]
    bins = len(next(iter(probe.calibration.values())).items)
    summary = (
        f"The queries of {probe.episodes} test episodes at each number of shots, in {bins} bins of equal width by the "
        "probability of the predicted class; the expected calibration error is the mean distance of a bin's accuracy "
        "from its mean confidence, weighted by its queries (Guo et al., ICML 2017)."
    )
    rows = [
        [
            f"{k}-shot",
            str(int(one.items.sum())),
            f"{one.error:.1%}",
            f"{_mean(one.items, one.confidence):.1%}",
            f"{_mean(one.items, one.accuracy):.1%}",
        ]
        for k, one in probe.calibration.items()
    ]
    heads = ["episodes", "queries", "expected calibration error", "mean confidence", "accuracy"]
    blocks = [paragraph(summary), gallery(pictures), table("Calibration", heads, rows)]
    return Section(title, blocks, pictures, {str(k): one.to_json() for k, one in probe.calibration.items()})


def _mean(items: np.ndarray, values: np.ndarray) -> float:
    full = items > 0
    return float(items[full] @ values[full] / max(items.sum(), 1))


def features(record: RunRecord, probe: Probe) -> Section:
    """The features of one episode."""
    title = "Support and query features"
    if probe.missing is not None and record.of_classes:
        return Section(title, [missing(probe.missing)])
    embedding = probe.embedding
    if embedding is None:
        return Section(title, [paragraph("This application's model has no features of whole items to show.")])
    pictures = planes(embedding)
    if embedding.after is not None:
        summary = "Before: the meta-learned parameters. After: those adapted to the support set of the episode."
    elif embedding.prototypes:
        summary = (
            f"{record.learner} compares these features; adapting reads the support set and leaves them as they are."
        )
    else:
        summary = f"Adapting by {record.learner} leaves the features as they are: what adapts lies above them."
    where = "Each picture is the plane of the two largest principal components of what it shows."
    return Section(title, [paragraph(f"{summary} {where}"), gallery(pictures)], pictures, embedding.to_json())
