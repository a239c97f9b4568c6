"""Labelled images: .npz files, TensorFlow Datasets, class-disjoint splits with turned images as further classes."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_jax.data import tfds as texts
from fewshot_jax.data.splits import SPLITS
from fewshot_jax.errors import UserError, require

# Images `[n, H, W]` or `[n, H, W, C]` uint8, labels `[n]` int32 (positions in the names), class names.
LabelledImages = tuple[np.ndarray, np.ndarray, list[str]]


class ImageSplit(NamedTuple):
    """The labelled images of one split.

    Attributes:
        images: ``[n, H, W]`` or ``[n, H, W, C]`` uint8, those of a class one after the other.
        label: ``[n]`` int32, positions in ``classes``.
        classes: class names, sorted; the turns of a class in the order 0, 90, 180, 270 degrees.
    """

    images: np.ndarray
    label: np.ndarray
    classes: list[str]


def read_npz(path: str | PathLike[str]) -> LabelledImages:
    """Read labelled images from an .npz file, of one of two forms.

    * ``images [classes, items, H, W]`` or ``[classes, items, H, W, C]`` and one name for each class in
      ``names`` or ``character``.
    * ``images [n, H, W]`` or ``[n, H, W, C]`` and ``label [n]``: names, or integers, which
      count in ``names`` if that is there and are names as they stand otherwise.

    Nothing in the file is unpickled.

    Returns:
        Images ``[n, ...]`` uint8, labels ``[n]`` int32 and the class names.

    Raises:
        UserError: the file cannot be read, an array is missing or has the wrong dtype or shape.
    """
    arrays = _npz_arrays(path, ("images", "label", "names", "character"))
    if "images" not in arrays:
        raise UserError(f"{path}: no array 'images'. Write it with np.savez(path, images=..., names=...).")
    images, label = arrays["images"], arrays.get("label")
    names = arrays.get("names", arrays.get("character"))
    if names is not None:
        require(
            names.ndim == 1 and names.dtype.kind == "U" and len(set(names.tolist())) == names.size,
            f"{path}: names (or character) has shape {names.shape} and dtype {names.dtype}: expected one string "
            "[classes] for each class, no two alike",
        )
    require(
        images.dtype == np.uint8, f"{path}: images has dtype {images.dtype}. Scale it to 0..255 and store it as uint8."
    )
    if label is None and names is None:
        raise UserError(
            f"{path}: images are without classes. Add an array 'names' for images [classes, items, H, W], "
            "or 'label' for images [n, H, W]."
        )
    leading, axes = (1, "n") if label is not None else (2, "classes, items")
    require(
        images.ndim in (leading + 2, leading + 3) and images.size > 0,
        f"{path}: images has shape {images.shape}: expected [{axes}, H, W] or [{axes}, H, W, C], none of them zero",
    )
    if label is None:
        assert names is not None
        require(len(names) == len(images), f"{path}: {len(names)} names for images of {len(images)} classes")
        label = np.repeat(np.arange(len(images)), images.shape[1])
        images = images.reshape(-1, *images.shape[2:])
    require(
        label.shape == images.shape[:1] and label.dtype.kind in "iuU",
        f"{path}: label has shape {label.shape} and dtype {label.dtype}: expected one integer or string for each of "
        f"the {len(images)} images",
    )
    if names is None or label.dtype.kind == "U":
        names, label = np.unique(label, return_inverse=True)
    require(
        label.min() >= 0 and label.max() < len(names),
        f"{path}: label holds {label.min()} to {label.max()}, but names has {len(names)} entries, counted from 0",
    )
    require(len(names) > 1, f"{path}: only one class, '{names[0]}'. An episode needs two at least.")
    return images, label.astype(np.int32), [str(name) for name in names]


def _npz_arrays(path: str | PathLike[str], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The wanted arrays that an .npz file has; raises `UserError` where it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in wanted if name in file.files}
    except OSError as error:
        if not Path(path).is_file():
            raise UserError(f"{path}: cannot be read ({error.strerror or error}). Check data.path.") from None
        problem = str(error)
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        problem = str(error)
    raise UserError(
        f"{path}: not an .npz file of plain arrays ({problem}). Write it with np.savez_compressed, names as "
        "np.array(list_of_str), not as objects."
    )


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
    builder = _tfds_builder(name, data_dir)
    features: Any = builder.info.features
    texts._check_features(name, list(features or ()), {"data.image_field": image, "data.label_field": label})
    to_name = texts._decoder(features[label])
    images: list[np.ndarray] = []
    names: list[str] = []
    for part in split.split("+"):
        source = texts._data_source(builder, name, part.strip(), data_dir)
        source.decoders = _undecoded(features, image)
        for position in range(len(source)):
            try:
                example = source[position]
                names.append(to_name(example[label]))
                images.append(_grey(example[image], size))
            except (ValueError, TypeError, OSError) as error:
                raise UserError(
                    f"tfds '{name}', split '{part}', record {position}: not a labelled image "
                    f"({texts._first_line(error)}). Choose a labelled split (data.tfds_split) and features of an "
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


def _tfds_builder(name: str, data_dir: str | PathLike[str] | None) -> Any:
    """The builder of a data set; raises `UserError` where there is none."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(
            f"tfds '{name}': the package tensorflow_datasets is missing. Install it with `{texts._INSTALL}`."
        ) from None
    # With a folder, the format of the files in it counts; data_source does the same.
    options: dict[str, Any] = {} if data_dir else {"file_format": "array_record"}
    try:
        return tfds.builder(name, data_dir=data_dir, **options)
    except (tfds.core.DatasetNotFoundError, ImportError, ValueError, AssertionError) as error:
        raise UserError(
            f"tfds '{name}': cannot be opened ({texts._first_line(error)}). Check data.name, written "
            f"NAME/CONFIG:VERSION, and data.path. {texts._prepare(name, data_dir)}"
        ) from None


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


def image_splits(
    images: np.ndarray,
    label: np.ndarray,
    classes: Sequence[str],
    members: Mapping[str, Sequence[str]],
    *,
    rotations: bool = False,
) -> dict[str, ImageSplit]:
    """Distribute images over splits by their class.

    Args:
        images: ``[n, H, W]`` or ``[n, H, W, C]`` uint8.
        label: ``[n]`` integers, positions in ``classes``.
        classes: class names.
        members: the class names of each split, from `splits.divide`, `splits.read_class_split` or
            `read_vinyals_split`.
        rotations: the images of each class, turned by 90, 180 and 270 degrees against the clock, are
            three classes more, in the split of their original. Names end in ``/rot0``, ``/rot90``, ...

    Raises:
        UserError: a split names a class that does not exist or that another split has, or
            images to be turned are not square.

    References:
        Santoro et al. Meta-Learning with Memory-Augmented Neural Networks. ICML 2016 (section 4.1:
        rotations as new classes).
    """
    require(
        not rotations or images.shape[1] == images.shape[2],
        f"data.rotations: images of {images.shape[1]} x {images.shape[2]} pixels cannot be turned; they must be square",
    )
    number = {classes[i]: i for i in np.unique(label)}
    _check_disjoint(members, "the class split")
    order = np.argsort(label, kind="stable")
    ends = np.searchsorted(label[order], np.arange(len(classes) + 1))
    turns = 4 if rotations else 1
    splits = {}
    for split, names in members.items():
        if missing := sorted(set(names) - set(number)):
            raise UserError(f"{split} split: no image has the class '{missing[0]}' ({len(missing)} such names)")
        chosen = sorted(set(names))
        items = [order[ends[number[name]] : ends[number[name] + 1]] for name in chosen]
        # One array of the final size, filled in place: the turned images of a large data set are written once.
        out = np.empty((turns * sum(map(len, items)), *images.shape[1:]), images.dtype)
        lengths, start = [], 0
        for index in items:
            for turn in range(turns):
                out[start : start + len(index)] = np.rot90(images[index], turn, axes=(1, 2))
                start += len(index)
                lengths.append(len(index))
        shown = [f"{name}/rot{90 * turn}" for name in chosen for turn in range(turns)] if rotations else chosen
        splits[split] = ImageSplit(out, np.repeat(np.arange(len(shown)), lengths).astype(np.int32), shown)
    return splits


def _check_disjoint(members: Mapping[str, Sequence[str]], where: object) -> None:
    seen: dict[str, str] = {}
    for split, names in members.items():
        for name in names:
            if seen.setdefault(name, split) != split:
                raise UserError(f"{where}: class '{name}' is in {seen[name]} and in {split}; splits must be disjoint")


def read_vinyals_split(folder: str | PathLike[str]) -> dict[str, list[str]]:
    """Omniglot's split into 1,028 training, 172 validation and 423 test characters, named ``alphabet/character``.

    Args:
        folder: holds ``vinyals_train.json``, ``vinyals_val.json`` and ``vinyals_test.json``, each
            ``{part: {alphabet: [character, ...]}}``.

    Raises:
        UserError: a file cannot be read or has another form, or a class is in two of them.

    References:
        Vinyals et al. Matching Networks for One Shot Learning. NeurIPS 2016 (section 4.1.1; the
        files are those of jax-meta-learning).
    """
    members: dict[str, list[str]] = {}
    for split, part in zip(SPLITS, ("train", "val", "test"), strict=True):
        path = Path(folder) / f"vinyals_{part}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            alphabets = [item for part in content.values() for item in part.items()]
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot read the class split ({error}); see data.class_split") from None
        except AttributeError:
            alphabets = [("", None)]
        if not all(isinstance(characters, list) for _, characters in alphabets):
            raise UserError(f"{path}: expected {{part: {{alphabet: [character, ...]}}}}; see data.class_split")
        members[split] = [f"{alphabet}/{character}" for alphabet, characters in alphabets for character in characters]
    _check_disjoint(members, folder)
    return members
