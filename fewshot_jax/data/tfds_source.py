"""Prepared data sets of TensorFlow Datasets, opened without TensorFlow.

`tensorflow_datasets.data_source` reads array_record (and parquet) files in numpy; the
default file format of an older preparation, tfrecord, would need TensorFlow.
"""

import difflib
from collections.abc import Callable
from os import PathLike
from typing import Any

from fewshot_jax.errors import UserError, first_line

# Preparing a data set imports importlib_resources, which tfds 4.9.10 does not require.
INSTALL = "pip install tensorflow-datasets array_record importlib_resources"


def open_builder(name: str, data_dir: str | PathLike[str] | None = None) -> Any:
    """The builder of a data set.

    Args:
        name: with its configuration and version if any (`"glue/sst2:2.0.0"`).
        data_dir: where data sets are kept; by default tfds's own folder.

    Raises:
        UserError: the package or the data set is missing.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            f"tfds '{name}': the package tensorflow_datasets is missing. Install it with `{INSTALL}`."
        ) from None

    # With a folder, the format of the files in it counts; data_source does the same.
    options: dict[str, Any] = {} if data_dir else {"file_format": "array_record"}
    try:
        return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.DatasetNotFoundError:
        # Listing the community's data sets too would import TensorFlow.
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"tfds '{name}': no such data set"
            + (f" in {data_dir}" if data_dir else "")
            + (f". Did you mean '{near[0]}'?" if near else ".")
            + " Check the name (data.name) and the folder (data.path)."
        ) from None
    except ImportError as error:
        raise UserError(f"tfds '{name}': needs a package that is missing ({error}). Install it.") from None
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"tfds '{name}': cannot be opened ({first_line(error)}). Check data.name, "
            f"written NAME/CONFIG:VERSION. {_prepare(name, data_dir)}"
        ) from None


def open_source(builder: Any, name: str, split: str, data_dir: object) -> Any:
    """Return the random access source of a split; raises `UserError` where there is none."""
    try:
        return builder.as_data_source(split=split)
    except (AssertionError, OSError, NotImplementedError, ValueError, KeyError) as error:
        splits = list(builder.info.splits)  # none before the data set is prepared
        if splits and isinstance(error, ValueError | KeyError):
            problem = f"no split '{split}' ({first_line(error)})"
            remedy = f"Set data.tfds_split to one of {', '.join(splits)}, or to a slice of one."
        else:
            problem = f"no files that can be read without TensorFlow in {builder.data_dir}"
            remedy = _prepare(name, data_dir)
        raise UserError(f"tfds '{name}': {problem}. {remedy}") from None


def check_features(name: str, found: list[str], fields: dict[str, str]) -> None:
    """Raise unless all `fields` (option name -> feature name) are among `found`."""
    for option, field in fields.items():
        if field not in found:
            near = difflib.get_close_matches(field, found, n=1)
            raise UserError(
                f"tfds '{name}': no feature '{field}'; there are {', '.join(found) or 'none'}."
                + (f" Did you mean '{near[0]}'?" if near else "")
                + f" Set {option} to the name of the feature."
            )


def decoder(feature: Any) -> Callable[[Any], str]:
    """Return the function from a feature's value to a string."""
    to_name = getattr(feature, "int2str", None)  # only class labels have it

    def decode(value: Any) -> str:
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, int):
            # tfds writes the withheld labels of a test split as -1, which int2str takes for
            # the last class.
            if to_name and value < 0:
                raise ValueError(f"its class number is {value}")
            return to_name(value) if to_name else str(value)
        if isinstance(value, bytes):
            value = value.decode("utf-8")
        if not isinstance(value, str):
            raise TypeError(f"a value of type {type(value).__name__}")
        return value.strip()

    return decode


def _prepare(name: str, data_dir: object) -> str:
    folder = f", data_dir={str(data_dir)!r}" if data_dir else ""
    return (
        'Prepare it once with `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}{folder}, file_format='array_record').download_and_prepare()\"`, "
        f"after `{INSTALL}`."
    )
