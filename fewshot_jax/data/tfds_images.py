"""Labelled images from TensorFlow Datasets, read without TensorFlow."""

import io
from os import PathLike
from typing import Any

import numpy as np

from fewshot_jax.data.images import LabelledImages
from fewshot_jax.data.tfds_source import check_features, decoder, open_builder, open_source
from fewshot_jax.errors import UserError, first_line, require


def read_tfds_images(
    name: str,
    *,
    split: str = "train",
    image: str = "image",
    label: str = "label",
    data_dir: str | PathLike[str] | None = None,
    size: int | None = None,
    invert: bool = False,
) -> LabelledImages:
    """Read labelled images from a prepared TensorFlow Datasets data set, as shades of grey.

    Nothing is downloaded, and TensorFlow is not imported.

    Args:
        name: the data set, with its configuration and version if any (``"omniglot:3.0.0"``).
        split: a split, a slice of one (``"train[:10%]"``), or several joined by ``+``.
        image: the feature of the image.
        label: the feature of the label: a class label, an integer or a string.
        data_dir: where data sets are kept; by default tfds's own folder.
        size: average images down to so many pixels a side; None leaves them as they are.
        invert: turn black on white (Omniglot's drawings) into white on black.

    Returns:
        Images ``[n, H, W]`` uint8, labels ``[n]`` int32 and the class names, sorted.

    Raises:
        UserError: the package, the data set, its prepared files, the split or a feature is
            missing, a record is not a labelled image, or images differ in size.
    """
    require(size is None or size > 0, f"size={size}: expected a positive number of pixels, or None")
    builder = open_builder(name, data_dir)
    features: Any = builder.info.features
    check_features(name, list(features or ()), {"data.image_field": image, "data.label_field": label})
    to_name = decoder(features[label])
    images: list[np.ndarray] = []
    names: list[str] = []
    for part in split.split("+"):
        source = open_source(builder, name, part.strip(), data_dir)
        source.decoders = _undecoded(features, image)
        for position in range(len(source)):
            try:
                example = source[position]
                names.append(to_name(example[label]))
                images.append(_grey(example[image], size))
            except (ValueError, TypeError, OSError) as error:
                raise UserError(
                    f"tfds '{name}', split '{part}', record {position}: not a labelled image "
                    f"({first_line(error)}). Choose a labelled split (data.tfds_split) and features of an "
                    "image and of one string or class number (data.image_field, data.label_field)."
                ) from None
    shapes = sorted({array.shape for array in images})
    if len(shapes) > 1:
        raise UserError(
            f"tfds '{name}': images of {len(shapes)} sizes ({shapes[0]}, {shapes[-1]}). Set data.image_size, the "
            "pixels a side to which they are averaged."
        )
    classes, numbers = np.unique(names, return_inverse=True)
    stacked = np.stack(images)
    return 255 - stacked if invert else stacked, numbers.astype(np.int32), classes.tolist()


def _undecoded(features: Any, image: str) -> dict[str, Any] | None:
    """The decoders that leave an image as the bytes of its file.

    tfds decodes with either of two packages, which disagree: with pillow, the black and white
    drawings of Omniglot, one bit for each pixel, become zeros and ones instead of 0 and 255.
    """
    import tensorflow_datasets as tfds

    return {image: tfds.decode.SkipDecoding()} if isinstance(features[image], tfds.features.Image) else None


def _grey(image: bytes | np.ndarray, size: int | None) -> np.ndarray:
    """An image file, or an array ``[H, W]`` or ``[H, W, C]`` uint8, in shades of grey: ``[H, W]`` uint8."""
    from PIL import Image  # matplotlib needs it too

    if isinstance(image, bytes):
        grey = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
    elif image.dtype == np.uint8 and image.ndim in (2, 3):
        grey = np.asarray(Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).convert("L"))
    else:
        raise ValueError(f"an array of shape {image.shape} and dtype {image.dtype}")
    return grey if size is None else np.rint(area_average(grey, size)).astype(np.uint8)


def area_average(image: np.ndarray, size: int) -> np.ndarray:
    """Average ``[H, W]`` over a grid of ``size`` x ``size`` equal cells; pixels that cells share count by area."""
    if min(image.shape) < size:
        raise ValueError(f"{image.shape[0]} x {image.shape[1]} pixels cannot be averaged to {size} x {size}")
    return _shares(image.shape[0], size) @ image @ _shares(image.shape[1], size).T


def _shares(length: int, cells: int) -> np.ndarray:
    """What each of ``length`` pixels counts in the mean over each of ``cells`` equal cells, ``[cells, length]``."""
    edge = np.arange(cells + 1)[:, None] * length / cells
    pixel = np.arange(length)[None, :]
    overlap = np.minimum(edge[1:], pixel + 1) - np.maximum(edge[:-1], pixel)
    return np.maximum(overlap, 0) * cells / length
