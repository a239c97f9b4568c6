"""Labelled texts from TensorFlow Datasets, read without TensorFlow.

`tensorflow_datasets.data_source` reads array_record (and parquet) files in numpy; the
default file format of an older preparation, tfrecord, would need TensorFlow.
"""

import difflib
from collections.abc import Callable
from os import PathLike
from typing import Any

from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError

# Preparing a data set imports importlib_resources, which tfds 4.9.10 does not require.
_INSTALL = "pip install tensorflow-datasets array_record importlib_resources"


def read_tfds(
    name: str,
    *,
    split: str = "train",
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    data_dir: str | PathLike[str] | None = None,
) -> list[Record]:
    """Read labelled texts from a prepared TensorFlow Datasets data set.

    Class numbers become class names. Records with an empty text are left out: a published
    data set cannot be corrected by its reader. Nothing is downloaded.

    Args:
        name: the data set, with its configuration and version if any (`"glue/sst2:2.0.0"`).
        split: a split or a slice of one (`"train[:10%]"`).
        text: the feature of the text.
        label: the feature of the label: a class label, an integer or a string.
        group: the feature of the group, of the same types.
        data_dir: where data sets are kept; by default tfds's own folder.

    Returns:
        The records in the order of the data source.

    Raises:
        UserError: the package, the data set, its prepared files, the split or a feature is
            missing, or a record is not labelled.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            f"tfds '{name}': the package tensorflow_datasets is missing. Install it with `{_INSTALL}`."
        ) from None

    # With a folder, the format of the files in it counts; data_source does the same.
    options: dict[str, Any] = {} if data_dir else {"file_format": "array_record"}
    try:
        builder = tfds.builder(name, data_dir=data_dir, **options)
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
            f"tfds '{name}': cannot be opened ({_first_line(error)}). Check data.name, "
            f"written NAME/CONFIG:VERSION. {_prepare(name, data_dir)}"
        ) from None

    fields = {"data.text_field": text, "data.label_field": label}
    if group is not None:
        fields["data.group_field"] = group
    features: Any = builder.info.features
    _check_features(name, list(features or ()), fields)
    source = _data_source(builder, name, split, data_dir)
    decode = {field: _decoder(features[field]) for field in fields.values()}
    records = []
    for position in range(len(source)):
        example = source[position]
        try:
            values = {field: decode[field](example[field]) for field in fields.values()}
        except (ValueError, TypeError) as error:
            raise UserError(
                f"tfds '{name}', split '{split}', record {position}: not a labelled text "
                f"({_first_line(error)}). Choose a labelled split (data.tfds_split) and features of "
                f"one string or class number each ({', '.join(fields)})."
            ) from None
        if values[text]:
            records.append(Record(values[text], values[label], values[group] if group else ""))
    return records


def _data_source(builder: Any, name: str, split: str, data_dir: object) -> Any:
    """Return the random access source of a split; raises `UserError` where there is none."""
    try:
        return builder.as_data_source(split=split)
    except (AssertionError, OSError, NotImplementedError, ValueError, KeyError) as error:
        splits = list(builder.info.splits)  # none before the data set is prepared
        if splits and isinstance(error, ValueError | KeyError):
            problem = f"no split '{split}' ({_first_line(error)})"
            remedy = f"Set data.tfds_split to one of {', '.join(splits)}, or to a slice of one."
        else:
            problem = f"no files that can be read without TensorFlow in {builder.data_dir}"
            remedy = _prepare(name, data_dir)
        raise UserError(f"tfds '{name}': {problem}. {remedy}") from None


def _check_features(name: str, found: list[str], fields: dict[str, str]) -> None:
    """Raise unless all `fields` (option name -> feature name) are among `found`."""
    for option, field in fields.items():
        if field not in found:
            near = difflib.get_close_matches(field, found, n=1)
            raise UserError(
                f"tfds '{name}': no feature '{field}'; there are {', '.join(found) or 'none'}."
                + (f" Did you mean '{near[0]}'?" if near else "")
                + f" Set {option} to the name of the feature."
            )


def _decoder(feature: Any) -> Callable[[Any], str]:
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
        f"after `{_INSTALL}`."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
