"""Few-shot classification of whatever has features: texts, images.

One feature extractor serves every learner: gradient-based ones put a linear
head on it that starts at zero in each episode, metric-based ones compare its
vectors. The head is not among the meta-parameters, so a learner meta-trained
with five ways adapts to any number of classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.algorithms.metric import ABSENT, masked_cross_entropy
from fewshot_jax.algorithms.proto_maml import prototype_head
from fewshot_jax.applications.application import Functions, Score, episode_seed
from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.splits import divide, read_class_split
from fewshot_jax.errors import UserError
from fewshot_jax.models.heads import zero_head
from fewshot_jax.types import Aux, Batch, BatchFn, Episode, Key, Params, PyTree

JOINT = "joint_head"  # classifies among all training classes (multi_task)


class Features(NamedTuple):
    """A feature extractor.

    Attributes:
        init: ``rng -> its parameters``.
        apply: ``(params, batch, rng) -> [B, D]``, its parameters being ``params["features"]``.
        width: ``D``.
        context: where the context of a task starts, or None.
    """

    init: Callable[[Key], Params]
    apply: BatchFn
    width: int
    context: PyTree = None


def classification(features: Features, *, ways: int, joint_classes: int = 0) -> Functions:
    """The functions of few-shot classification.

    Batches have ``label [B]`` and ``mask [B]`` beside what the features read, and
    ``class_id [B]``, the number among all training classes, where there is a joint head.

    Args:
        features: the extractor.
        ways: number of classes ``N`` of an episode's head.
        joint_classes: size of the joint head; 0 for none.
    """

    def dtype(params: Params) -> jnp.dtype:
        return jnp.result_type(*jax.tree.leaves(params["features"]))

    def init_params(rng: Key) -> Params:
        params = {"features": features.init(rng)}
        if joint_classes:
            params[JOINT] = {
                "kernel": jnp.zeros((features.width, joint_classes), dtype(params)),
                "bias": jnp.zeros(joint_classes, dtype(params)),
            }
        return params

    def zero_start(params: Params, support: Batch, rng: Key) -> Params:
        """The meta-parameters and a zero head.

        ``kernel [D, N]``, and a constant ``offset [N]`` that keeps classes without
        support items (an episode with fewer ways than the head) out of the softmax.
        """
        del rng
        present = jnp.zeros(ways, bool).at[support["label"]].max(support["mask"].astype(bool))
        offset = jnp.where(present, 0, ABSENT).astype(dtype(params))
        return {**params, "head": {**zero_head(features.width, ways, dtype(params)), "offset": offset}}

    def prototype_start(params: Params, support: Batch, rng: Key) -> Params:
        """The meta-parameters and the prototype classifier."""
        return {**params, "head": prototype_head(features.apply(params, support, rng), support, ways)}

    def output_fn(params: Params, batch: Batch, rng: Key) -> jax.Array:
        """Logits ``[B, N]``, of a head with a ``bias`` or with an ``offset`` that stays."""
        head = params["head"]
        shift = head["bias"] if "bias" in head else jax.lax.stop_gradient(head["offset"])
        return features.apply(params, batch, rng) @ head["kernel"] + shift[None, :]

    def loss_fn(params: Params, batch: Batch, rng: Key) -> tuple[jax.Array, Aux]:
        """Mean cross-entropy in nats over the real items, with ``accuracy``."""
        return masked_cross_entropy(output_fn(params, batch, rng), batch["label"], batch["mask"])

    def joint_loss_fn(params: Params, batch: Batch, rng: Key) -> tuple[jax.Array, Aux]:
        """The same among all training classes."""
        head = params[JOINT]
        logits = features.apply(params, batch, rng) @ head["kernel"] + head["bias"][None, :]
        return masked_cross_entropy(logits, batch["class_id"], batch["mask"])

    return Functions(
        init_params=init_params,
        loss_fn=loss_fn,
        output_fn=output_fn,
        joint_loss_fn=joint_loss_fn,
        embed_fn=features.apply,
        task_init_fn=zero_start,
        prototype_init_fn=prototype_start,
        context=features.context,
        ways=ways,
    )


def _accuracy(logits: jax.Array, episode: Episode) -> jax.Array:
    """Share of the real queries labelled right; a class that the support set lacks cannot be predicted."""
    support, query = episode
    present = jnp.zeros(logits.shape[-1], bool).at[support["label"]].max(support["mask"])
    correct = jnp.where(present[None, :], logits, -jnp.inf).argmax(-1) == query["label"]
    return jnp.sum(correct & query["mask"]) / jnp.maximum(query["mask"].sum(), 1)


ACCURACY = Score("accuracy", _accuracy)


class Labelled(NamedTuple):
    """The labels of one split: ``label [n]`` numbers into ``classes``, ``group [n]`` or None."""

    label: np.ndarray
    classes: list[str]
    group: np.ndarray | None = None


def training_sampler(config: Config, labelled: Labelled) -> EpisodeSampler:
    """The episodes of meta-training."""
    episodes = config.episodes
    sizes = {name: getattr(episodes, name) for name in ("ways", "shots", "queries", "min_ways", "min_shots")}
    return _sampler(config, labelled, "train", "episodes", **sizes)


def evaluation_sampler(config: Config, labelled: Labelled, split: str, shots: int) -> EpisodeSampler:
    """Episodes of fixed size from a split, the same for every learner."""
    evaluation = config.evaluation
    sizes = {"ways": evaluation.ways, "shots": shots, "queries": evaluation.queries}
    return _sampler(config, labelled, split, "evaluation", **sizes)


def _sampler(config: Config, labelled: Labelled, split: str, section: str, **sizes: Any) -> EpisodeSampler:
    return EpisodeSampler(
        labelled.label,
        **sizes,
        seed=episode_seed(config, split),
        group=labelled.group if config.episodes.within_group else None,
        class_names=labelled.classes,
        split=split,
        section=section,
    )


def data_files(config: DataConfig) -> list[Path]:
    """The files of the source "files".

    Raises:
        UserError: there is no path, or nothing there.
    """
    if config.path is None:
        raise UserError("data.path: the source 'files' needs a file or a folder; give --data.path PATH")
    path = Path(config.path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; see data.path")
    return [path / name for name in config.files] or [path]


def class_members(names: Sequence[str], config: DataConfig) -> dict[str, list[str]]:
    """The classes (or groups) of each split: as a file says, or divided by fractions."""
    if config.class_split is None:
        return divide(names, config.fractions, config.split_seed)
    beside_the_data = Path(config.path or ".") / config.class_split
    path = beside_the_data if beside_the_data.exists() else Path(config.class_split)
    return read_class_split(path if path.exists() else beside_the_data, config.class_split_name)
