"""What there is to train on without a download: generated data, prepared data sets, and files of the right columns."""

import os
from pathlib import Path

from fewshot_jax.data.detect import NEEDS

_FILES = {
    "text_classification": "CSV, TSV, JSONL",
    "question_answering": "CSV, TSV, JSONL, or SQuAD's JSON",
    "translation": "CSV, TSV, JSONL",
    "dialogue": "JSONL, of turns with speaker and text, or of Schema-Guided Dialogue",
}
_FORMATS = ("array_record", "parquet")  # of tensorflow-datasets, which are read without TensorFlow


def applications() -> dict[str, str]:
    """The columns (CSV, TSV) or fields (JSONL) that each application reads."""
    return {
        name: f"{', '.join(' or '.join(place) for place in places)}  ({_FILES[name]})" for name, places in NEEDS.items()
    }


def generated() -> dict[str, str]:
    """The data that ships with the package, by application; with ``data.source: generated``."""
    return {
        "text_classification": "intents that are told by the order of three actions",
        "question_answering": "questions whose words for the relations are new in every task",
        "translation": "languages of a lexicon and a word order",
        "dialogue": "personas with favourites and a manner of speaking",
        "regression": "sinusoids of an amplitude and a phase",
    }


def prepared(data_dir: Path | None = None) -> dict[str, str]:
    """The data sets of tensorflow-datasets on this machine, by the name that ``data.name`` takes.

    Args:
        data_dir: where they are; None for tensorflow-datasets' own folder.
    """
    home = data_dir or Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    found = {}
    # NAME/VERSION or NAME/CONFIG/VERSION; tensorflow-datasets itself takes seconds to import.
    for info in sorted([*home.glob("*/*/dataset_info.json"), *home.glob("*/*/*/dataset_info.json")]):
        *name, version = info.parent.relative_to(home).parts
        files = [path.name for path in info.parent.iterdir()]
        kinds = [kind for kind in _FORMATS if any(f".{kind}" in file for file in files)]
        how = ", ".join(kinds) if kinds else "in no format that is read without TensorFlow; prepare it as array_record"
        found[f"{'/'.join(name)}:{version}"] = how
    return found
