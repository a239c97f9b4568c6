"""Labelled texts from TensorFlow Datasets, read without TensorFlow."""

from os import PathLike
from typing import Any

from fewshot_jax.data.records import Record
from fewshot_jax.data.tfds_source import check_features, decoder, open_builder, open_source
from fewshot_jax.errors import UserError, first_line


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
    builder = open_builder(name, data_dir)
    fields = {"data.text_field": text, "data.label_field": label}
    if group is not None:
        fields["data.group_field"] = group
    features: Any = builder.info.features
    check_features(name, list(features or ()), fields)
    source = open_source(builder, name, split, data_dir)
    decode = {field: decoder(features[field]) for field in fields.values()}
    records = []
    for position in range(len(source)):
        example = source[position]
        try:
            values = {field: decode[field](example[field]) for field in fields.values()}
        except (ValueError, TypeError) as error:
            raise UserError(
                f"tfds '{name}', split '{split}', record {position}: not a labelled text "
                f"({first_line(error)}). Choose a labelled split (data.tfds_split) and features of "
                f"one string or class number each ({', '.join(fields)})."
            ) from None
        if values[text]:
            records.append(Record(values[text], values[label], values[group] if group else ""))
    return records
