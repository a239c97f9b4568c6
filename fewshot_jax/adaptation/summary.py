"""What cross-validation found, as plain numbers and texts for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewshot_jax.adaptation.folds import rare_classes
from fewshot_jax.adaptation.selection import Selection, accuracy, confusions
from fewshot_jax.adaptation.start import Start
from fewshot_jax.evaluation.classification_metrics import macro_f1
from fewshot_jax.evaluation.statistics import plain


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
