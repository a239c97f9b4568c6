"""The model card of a classifier that was cross-validated."""

from collections.abc import Mapping
from typing import Any

from fewshot_jax.adaptation.report import ADAPTED, SIMPLE, score_rows, verdict
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


def card(record: Mapping[str, Any], title: str, source: Mapping[str, str | None] | None = None) -> str:
    """The model card, in Markdown; what comes from the data is quoted as code.

    Args:
        record: what cross-validation found.
        title: of the card.
        source: of a pretrained model, see `AdaptationReport`.
    """
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
        start=f"{_code(record['start'])}{_version(source)}" if record["saved"] == ADAPTED else "nothing",
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


def _version(source: Mapping[str, str | None] | None) -> str:
    """Which files a name stood for."""
    if source is None:
        return ""
    stated = {"revision": source["revision"], "SHA-256": source["sha256"]}
    return f" ({', '.join(f'{name} {value}' for name, value in stated.items() if value is not None)})"


def _steps(count: int) -> str:
    return f"adapted by {count} gradient step{'' if count == 1 else 's'}" if count else "compared with prototypes"


def _code(text: Any, most: int = 200) -> str:
    """A text, or a label of another type, as inline code on one line."""
    line = " ".join(str(text).split()).replace("`", "'")
    return f"`{line[:most]}{'...' if len(line) > most else ''}`"
