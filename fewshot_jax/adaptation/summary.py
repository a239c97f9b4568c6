"""What cross-validation found, as a record, as a table and as a model card."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewshot_jax.adaptation.folds import rare_classes
from fewshot_jax.adaptation.selection import ADAPTED, MAJORITY, ROUNDING, Selection, accuracy, confusions
from fewshot_jax.adaptation.simple import NAME as SIMPLE
from fewshot_jax.adaptation.start import Start
from fewshot_jax.evaluation.classification_metrics import macro_f1
from fewshot_jax.evaluation.statistics import Estimate, plain
from fewshot_jax.versions import versions

_CARD = """# {title}

A classifier of texts into {ways} classes, adapted to {examples} labelled examples with fewshot_jax {version}.

- Model: {model}
- Started from: {start}
- Classes: {labels}

## How well it does

{how}

{table}

{verdict}

{confused}

## Use

```sh
fewshot-jax predict THIS_DIRECTORY --input new.csv --output labelled.csv
```

```python
import fewshot_jax as fsj

fsj.load("THIS_DIRECTORY").predict(["a text"])
```

Probabilities are scaled by temperature {temperature:.2f}, chosen on texts that were held out.

## Limits

The figures hold for texts like the examples, in the same proportions. Those of the better model are somewhat too good,
since it was chosen by them. A text of none of the classes is labelled all the same, unless `--threshold` sets it apart.
The examples are saved in examples.jsonl, so that more can be added: share the model with those only who may read them.
"""


def record_of(selection: Selection, start: Start, texts: Sequence[str], kept: str) -> dict[str, Any]:
    """The findings, as plain numbers and texts.

    Args:
        selection: the findings.
        start: what was adapted, with the choice made.
        texts: the examples.
        kept: the model that is saved.
    """
    scores = {"accuracy": accuracy, "macro F1": macro_f1}
    of_models = {name: selection.scores(score) for name, score in scores.items()}
    gain = selection.gain(accuracy)
    return {
        "start": start.name,
        "saved": kept,
        "examples": len(texts),
        "classes": {name: int((selection.label == i).sum()) for i, name in enumerate(selection.labels)},
        "folds": len(selection.folds),
        "scores": {model: {name: plain(of_models[name][model]) for name in scores} for model in of_models["accuracy"]},
        "gain of the adapted model": plain(gain),
        "inner loop": {"rate": start.config.inner.rate, "steps": start.steps[0]},
        "per class": per_class(selection, kept),
        "confusions": [
            {"true": true, "predicted": wrong, "count": count, "example": example}
            for true, wrong, count, example in confusions(selection, kept, texts)
        ],
        "not judged": [selection.labels[one] for one in rare_classes(selection.label)],
        "diverged": selection.diverged,
        "temperature": selection.temperature(kept),
    }


def per_class(selection: Selection, model: str) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each class, of the texts while they were held out; rare classes never were."""
    from sklearn.metrics import precision_recall_fscore_support

    logits, held_out = selection.pooled(model)
    label = selection.label[held_out]
    judged = np.unique(label).tolist()
    precision, recall, f1, _ = precision_recall_fscore_support(label, logits.argmax(-1), labels=judged, zero_division=0)
    return {
        selection.labels[one]: {"precision": float(precision[i]), "recall": float(recall[i]), "F1": float(f1[i])}
        for i, one in enumerate(judged)
    }


def _text(value: dict[str, Any], sign: bool = False) -> str:
    """A score in percent, with its interval where there is one."""
    if (value["half_width"] or 0) < 1e-9:  # of one fold, or of equal ones, there is no interval
        return f"{100 * value['mean']:{'+' if sign else ''}.1f}"
    return Estimate(value["mean"], min(value["half_width"], 1.0)).text(sign=sign)  # no score is farther from another


def score_rows(record: dict[str, Any]) -> list[list[str]]:
    """The table of models: name, accuracy, macro F1, in percent."""
    return [[name, *(_text(one) for one in scores.values())] for name, scores in record["scores"].items()]


def class_rows(record: dict[str, Any]) -> list[list[str]]:
    """The table of classes: name, examples, precision, recall and F1, in percent."""
    return [
        [name, str(record["classes"][name]), *(f"{100 * value:.0f}" for value in scores.values())]
        for name, scores in record["per class"].items()
    ]


def verdict(record: dict[str, Any]) -> str:
    """In plain words, which model is better, by how much, and which is saved."""
    gain = record["gain of the adapted model"]
    better, difference = gain["mean"], _text(gain, sign=True)
    width = gain["half_width"]
    sure = width is not None and abs(better) > width
    unsure = " The interval has zero in it: these texts cannot tell for sure."
    if width is None:
        unsure = " All folds agree, of which there are few: that is no interval."
    if record["diverged"]:
        words = "The adapted model diverged in some fold, for the inner rate is too large: its figures mean nothing."
    elif abs(better) < ROUNDING:
        words = "The adapted model and the simple one label equally many texts right."
    else:
        which = "adapted" if better > 0 else "simple"
        words = (
            f"The {which} model is better: the adapted one's accuracy minus the simple one's is {difference} points."
        )
        words += "" if sure else unsure
    most = record["scores"][MAJORITY]["accuracy"]["mean"]
    if max(record["scores"][name]["accuracy"]["mean"] for name in (ADAPTED, SIMPLE)) <= most:
        words += f" Neither is better than always saying the most frequent label ({100 * most:.1f}%): do not use it."
    saved = "adapted model" if record["saved"] == ADAPTED else f"simple one, {SIMPLE}"
    return f"{words} Saved: the {saved}."


def card(record: dict[str, Any], title: str) -> str:
    """The model card, in Markdown; what comes from the data is quoted as code."""
    table = [["", "accuracy (%)", "macro F1 (%)"], ["---"] * 3, *score_rows(record)]
    confused = [
        f"- {_code(one['true'])} taken for {_code(one['predicted'])}, {one['count']} times: {_code(one['example'])}"
        for one in record["confusions"]
    ]
    return _CARD.format(
        title=_code(title),
        ways=len(record["classes"]),
        examples=record["examples"],
        version=versions()["fewshot-jax"],
        model=SIMPLE
        if record["saved"] == SIMPLE
        else f"a transformer encoder, {_steps(record['inner loop']['steps'])}",
        start=_code(record["start"]) if record["saved"] == ADAPTED else "nothing",
        labels=", ".join(f"{_code(name)} ({count})" for name, count in record["classes"].items()),
        how=f"By cross-validation: {record['folds']} folds, each labelled by models that had not seen it; rates were "
        "chosen inside the training texts of each fold. Means with 95% intervals (corrected for overlapping folds).",
        table="\n".join(f"| {' | '.join(row)} |" for row in table),
        verdict=verdict(record),
        confused="\n".join(["Most often confused:", "", *confused])
        if confused
        else "No held-out example was labelled wrong.",
        temperature=record["temperature"],
    )


def _steps(count: int) -> str:
    return f"adapted by {count} gradient step{'' if count == 1 else 's'}" if count else "compared with prototypes"


def _code(text: str, most: int = 200) -> str:
    """A text as inline code, on one line."""
    line = " ".join(text.split()).replace("`", "'")
    return f"`{line[:most]}{'...' if len(line) > most else ''}`"
