"""Labelled images: .npz files, class-disjoint splits with turned images as further classes."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewshot_jax.data.label_arrays import check_lengths
from fewshot_jax.data.names import normal_name
from fewshot_jax.data.splits import SPLITS, check_disjoint
from fewshot_jax.errors import UserError, require

# Images `[n, H, W]` or `[n, H, W, C]` uint8, labels `[n]` int32 (positions in the names), class names.
LabelledImages = tuple[np.ndarray, np.ndarray, list[str]]


class ImageSplit(NamedTuple):
    """The labelled images of one split.

    Attributes:
        images: ``[n, H, W]`` or ``[n, H, W, C]`` uint8, those of a class one after the other.
        label: ``[n]`` int32, positions in ``classes``.
        classes: class names, sorted; the turns of a class in the order 0, 90, 180, 270 degrees.
        group: images have no groups.
    """

    images: np.ndarray
    label: np.ndarray
    classes: list[str]
    group: None = None


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
    images, label = arrays["images"], _normal(arrays.get("label"))
    names = _normal(arrays.get("names", arrays.get("character")))
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


def _normal(names: np.ndarray | None) -> np.ndarray | None:
    """Names in one form, where an array holds some."""
    if names is None or names.dtype.kind != "U":
        return names
    return np.array([normal_name(one) for one in names.ravel().tolist()], str).reshape(names.shape)


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
        problem = str(error) if zipfile.is_zipfile(path) else "it is no zip archive"
    raise UserError(
        f"{path}: not an .npz file of plain arrays ({problem}). Write it with np.savez_compressed, names as "
        "np.array(list_of_str), not as objects."
    )


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
    check_lengths({"images": len(images), "label": len(label)})
    number = {classes[i]: i for i in np.unique(label)}
    check_disjoint(members, "the class split")
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
    check_disjoint(members, folder)
    return members
