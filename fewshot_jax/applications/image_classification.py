"""Few-shot image classification, the benchmark on which the family of learners is compared with its papers."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.applications.application import Functions, Stream
from fewshot_jax.applications.classification import ClassApplication, Features, classification
from fewshot_jax.applications.optional import By
from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.episodes import EpisodeSampler, gather
from fewshot_jax.data.images import ImageSplit, image_splits, read_npz, read_vinyals_split
from fewshot_jax.data.sources import data_files
from fewshot_jax.data.splits import class_members
from fewshot_jax.data.tfds_images import read_tfds_images
from fewshot_jax.errors import UserError, require
from fewshot_jax.models.conv import ConvFeatures
from fewshot_jax.types import Batch, Episode, Key, Params

VINYALS = "vinyals"
PIXELS = "pixel centroid"


def features_of_images(model: ConvFeatures, shape: tuple[int, ...]) -> Features:
    """A convolutional model as the features of a classification.

    Args:
        model: images ``[B, H, W]`` or ``[B, H, W, C]`` to vectors ``[B, D]``.
        shape: of one image.
    """
    blank = jnp.zeros((2, *shape), jnp.uint8)
    width = jax.eval_shape(model.init_with_output, jax.random.key(0), blank)[0].shape[-1]

    def apply(params: Params, batch: Batch, rng: Key) -> jax.Array:
        del rng
        vectors = cast(jax.Array, model.apply({"params": params["features"]}, batch["image"], batch.get("mask")))
        return vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))

    return Features(lambda rng: model.init(rng, blank)["params"], apply, width)


def read_images(config: DataConfig) -> dict[str, ImageSplit]:
    """Read and split the labelled images that a config names."""
    if config.source == "tfds":
        if config.name is None:
            raise UserError("data.name: the source 'tfds' needs the name of a data set")
        images, label, classes = read_tfds_images(
            config.name,
            split=config.tfds_split,
            image=config.image_field,
            label=config.label_field,
            size=config.image_size,
            invert=config.invert,
            data_dir=config.path,
        )
    elif config.source == "files":
        paths = data_files(config)
        if len(paths) != 1:
            raise UserError(f"data.files={config.files}: expected one .npz file of images")
        images, label, classes = read_npz(paths[0])
    else:
        what = "has no generated images" if config.source == "generated" else "reads no such source"
        raise UserError(f"data.source={config.source}: image_classification {what}; set it to files or tfds")
    if config.class_split == VINYALS:
        members = read_vinyals_split(Path(config.path or "."))
    else:
        members = class_members(classes, config)
    return image_splits(images, label, classes, members, rotations=config.rotations)


@dataclass(frozen=True)
class ImageClassification(ClassApplication):
    """The application of one run; see `application.Application`. Its splits are of images, `ImageSplit`."""

    @classmethod
    def build(cls, config: Config, saved: Path | None = None) -> Self:
        """Read and split the data of a config; nothing of a run directory is needed.

        Raises:
            UserError: the data cannot be read, or cannot fill the episodes.
        """
        del saved
        application = cls(config, cls.read_splits(config))
        application.check_episodes()
        return application

    @classmethod
    def read_splits(cls, config: Config) -> dict[str, Any]:
        return read_images(config.data)

    @classmethod
    def division(cls, config: Config, by: By | None, flag: str) -> DataConfig:
        require(by in (None, "class"), f"{flag}: images have classes alone; take --by class")
        return config.data

    def centroid_vectors(self, split: str) -> tuple[str, Any] | None:
        images = self.splits[split].images
        return PIXELS, images.reshape(len(images), -1).astype(np.float32)

    def functions(self, *, training: bool) -> Functions:
        config = self.config
        model = ConvFeatures(
            width=config.model.width,
            layers=config.model.layers,
            downsample=config.model.downsample,
            norm=config.model.conv_norm,
            dtype=jnp.dtype(config.model.compute_dtype),
        )
        return classification(
            features_of_images(model, self.splits["train"].images.shape[1:]),
            ways=config.episodes.ways if training else config.evaluation.ways,
            joint_classes=self.joint_classes,
        )

    def record(self) -> dict[str, Any]:
        return {}

    def save(self, directory: Path) -> None:
        """Nothing to write."""

    def fingerprint(self) -> dict[str, str]:
        def digest(split: ImageSplit) -> str:
            hashed = hashlib.sha256(strict_json.dumps([split.label.tolist(), split.classes]).encode())
            hashed.update(np.ascontiguousarray(split.images).data)
            return hashed.hexdigest()

        return {name: digest(split) for name, split in self.splits.items()}

    def batches(self, split: str, sampler: EpisodeSampler) -> Stream:
        class_id = self.class_id(split)
        fields = {"image": self.splits[split].images, **({} if class_id is None else {"class_id": class_id})}
        return lambda step, tasks: Episode(*(gather(fields, items) for items in sampler.batch(step, tasks)))
