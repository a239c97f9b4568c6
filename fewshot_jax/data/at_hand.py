"""What there is to train on without a download: generated data, prepared data sets, and files of the right columns."""

import os
from collections.abc import Mapping
from pathlib import Path

from fewshot_jax.config.applications import ApplicationRecord, columns_of_files

_FORMATS = ("array_record", "parquet")  # of tensorflow-datasets, which are read without TensorFlow


def applications(records: Mapping[str, ApplicationRecord]) -> dict[str, str]:
    """Return the columns (CSV, TSV) or fields (JSONL) that each application reads."""
    needs = columns_of_files(records)
    return {
        name: f"{', '.join(' or '.join(place) for place in places)}  ({records[name].files})"
        for name, places in needs.items()
    }


def generated(records: Mapping[str, ApplicationRecord]) -> dict[str, str]:
    """Return the data that ships with the package, by application; with ``data.source: generated``."""
    return {name: record.generated for name, record in records.items() if record.generated}


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
