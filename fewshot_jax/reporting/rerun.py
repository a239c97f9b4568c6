"""What it takes to run a run again: command, config, versions, data."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from fewshot_jax.config_file import to_dict
from fewshot_jax.reporting.page import Section, code, missing, paragraph, table
from fewshot_jax.reporting.record import RunRecord
from fewshot_jax.versions import versions


def rerun(record: RunRecord) -> Section:
    """The section of a run."""
    path = shlex.quote(f"runs/{record.run.path.resolve().name}")
    commands = [
        "# config.yaml: the text below",
        f"fewshot-jax train config.yaml --run-dir {path}",
        f"fewshot-jax evaluate {path}",
    ]
    config = yaml.safe_dump(to_dict(record.config), sort_keys=False, allow_unicode=True)
    numbers = {
        "config": to_dict(record.config),
        "training": record.result,
        "evaluation": _scalars(record.evaluation),
        "report": versions(),
        "data": record.fingerprint,
    }
    blocks = [code("\n".join(commands)), paragraph(f"Seed {record.config.seed}.")]
    if record.result is None:
        blocks.append(missing("The run is unfinished: result.json, with its time and versions, is not there yet."))
    else:
        blocks.append(_facts("Training (result.json)", record.result))
    if record.evaluation is not None:
        blocks.append(_facts("Evaluation (evaluation.json)", _scalars(record.evaluation)))
    blocks.append(_facts("What made this report", versions()))
    if record.fingerprint:
        blocks.append(_facts("Fingerprints of the data (data.json)", record.fingerprint))
    else:
        blocks.append(missing("The run has no fingerprints of its data."))
    blocks += [paragraph("config.yaml:"), code(config)]
    return Section("To run it again", blocks, (), numbers)


def _scalars(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """The facts of an evaluation, without its tables."""
    return {name: value for name, value in (values or {}).items() if not isinstance(value, dict | list)}


def _facts(caption: str, values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return table(caption, ["what", "value"], [[name.replace("_", " "), text(value)] for name, value in values.items()])
