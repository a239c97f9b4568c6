"""Few-shot classification of whatever has features: texts, images.

One feature extractor serves every learner: gradient-based ones put a linear
head on it that starts at zero in each episode, metric-based ones compare its
vectors. The head is not among the meta-parameters, so a learner meta-trained
with five ways adapts to any number of classes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.algorithms.metric import ABSENT, masked_cross_entropy
from fewshot_jax.algorithms.proto_maml import prototype_head
from fewshot_jax.applications.application import Functions, Score, Stream, episode_seed
from fewshot_jax.applications.optional import HeldOut, OptionalParts
from fewshot_jax.config import Config
from fewshot_jax.data.episodes import EpisodeSampler, EpisodeSize, Naming
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


def _predicted(logits: jax.Array, episode: Episode) -> jax.Array:
    """The most probable class of the support set for each query, ``[Q]``."""
    support = episode.support
    present = jnp.zeros(logits.shape[-1], bool).at[support["label"]].max(support["mask"])
    return jnp.where(present[None, :], logits, -jnp.inf).argmax(-1)


def _unless_nan(value: jax.Array, logits: jax.Array, episode: Episode) -> jax.Array:
    """A score, and NaN where the loop of the episode diverged: the largest of logits that are NaN means nothing."""
    return jnp.where((jnp.isnan(logits).any(-1) & episode.query["mask"]).any(), jnp.nan, value)


def _accuracy(logits: jax.Array, episode: Episode) -> jax.Array:
    """Share of the real queries labelled right; a class that the support set lacks cannot be predicted."""
    query = episode.query
    correct = _predicted(logits, episode) == query["label"]
    return _unless_nan(jnp.sum(correct & query["mask"]) / jnp.maximum(query["mask"].sum(), 1), logits, episode)


def macro_f1_of_episode(logits: jax.Array, episode: Episode) -> jax.Array:
    """F1 of the real queries, averaged over the classes that are true or predicted for any of them.

    It is `evaluation.classification_metrics.macro_f1` of the episode, for traced values. A class that the support set
    lacks cannot be predicted.

    Args:
        logits: ``[Q, N]``.
        episode: with ``label, mask`` in support and query.

    Returns:
        A scalar from 0 to 1; 0 of no queries, NaN of logits that are NaN.
    """
    query, ways = episode.query, logits.shape[-1]
    predicted = _predicted(logits, episode)
    real = query["mask"][:, None]
    gold, given = (real & (labels[:, None] == jnp.arange(ways)[None, :]) for labels in (query["label"], predicted))
    # 2 TP / (2 TP + FP + FN), whose denominator is the number of real items plus that of predicted ones
    size = gold.sum(0) + given.sum(0)
    f1 = 2 * (gold & given).sum(0) / jnp.maximum(size, 1)
    return _unless_nan(f1.sum() / jnp.maximum((size > 0).sum(), 1), logits, episode)


def confusion_of_episode(logits: jax.Array, episode: Episode) -> jax.Array:
    """Counts ``[N, N]`` of the real queries: row ``i``, column ``j`` are items labelled ``i`` predicted as ``j``."""
    query, ways = episode.query, logits.shape[-1]
    predicted = _predicted(logits, episode)
    real = query["mask"] & ~jnp.isnan(logits).any(-1)  # a loop that diverged predicts nothing
    return jnp.zeros((ways, ways), jnp.int32).at[query["label"], predicted].add(real.astype(jnp.int32))


ACCURACY = Score("accuracy", _accuracy)
MACRO_F1 = Score("macro F1", macro_f1_of_episode)


@dataclass(frozen=True)
class ClassApplication(OptionalParts):
    """What the applications with classes share; each adds how its items are read and batched.

    Attributes:
        config: resolved.
        splits: train, validation and test items, class-disjoint: each with ``label [n]``, ``classes`` and,
            where there are groups, ``group [n]``.
        notes: what to tell of the data, see `Application`.
    """

    config: Config
    splits: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    score: ClassVar[Score] = ACCURACY
    scores: ClassVar[tuple[Score, ...]] = (ACCURACY, MACRO_F1)

    def check_episodes(self) -> None:
        """Raise a UserError if a split cannot fill the largest episode asked for."""
        self.training_stream()
        for split in ("validation", "test"):
            self.sampler(split, self.config.evaluation.most_shots(split))

    def with_config(self, config: Config) -> Self:
        return dataclasses.replace(self, config=config)

    def training_stream(self) -> Stream:
        return self.batches("train", self.training_sampler())

    def training_sampler(self) -> EpisodeSampler:
        """The episodes of `training_stream`, as positions in the split."""
        episodes = self.config.episodes
        names = ("ways", "shots", "queries", "min_ways", "min_shots", "uneven")
        sizes = {name: getattr(episodes, name) for name in names}
        return self._sampler("train", "episodes", **sizes)

    def stream(self, split: str, shots: int) -> Stream:
        return self.batches(split, self.sampler(split, shots))

    def sampler(self, split: str, shots: int) -> EpisodeSampler:
        """The episodes of `stream`, as positions in the split."""
        evaluation = self.config.evaluation
        uneven = {"uneven": True, "min_shots": 1} if evaluation.uneven else {}
        return self._sampler(
            split, "evaluation", ways=evaluation.ways, shots=shots, queries=evaluation.queries, **uneven
        )

    def batches(self, split: str, sampler: EpisodeSampler) -> Stream:
        """The drawn items as arrays."""
        raise NotImplementedError

    @classmethod
    def read_splits(cls, config: Config) -> dict[str, Any]:
        """Read and split the data of a config, without encoding it."""
        raise NotImplementedError

    @classmethod
    def divided_by(cls, config: Config, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The names of what was divided to hold out these classes."""
        del config
        return classes

    @classmethod
    def held_out(cls, config: Config) -> HeldOut:
        application = ClassApplication(config, cls.read_splits(config))
        for split in ("validation", "test"):
            application.sampler(split, config.evaluation.most_shots(split))
        classes = tuple(application.labels()["test"])
        return HeldOut(classes, cls.divided_by(config, classes))

    def chance(self) -> float | None:
        return 1 / self.config.evaluation.ways

    @property
    def joint_classes(self) -> int:
        """Size of the joint head, which joint training alone has."""
        return len(self.splits["train"].classes) if self.config.learner.name == "multi_task" else 0

    def class_id(self, split: str) -> np.ndarray | None:
        """``[n]`` numbers for the joint head, where there is one; of the texts, then of the names if they are read."""
        if not self.joint_classes:
            return None
        data = self.splits[split]
        names = np.arange(len(data.classes) if self.config.episodes.label_names else 0, dtype=data.label.dtype)
        return np.concatenate([data.label, names])

    def labels(self) -> dict[str, list[str]]:
        return {name: split.classes for name, split in self.splits.items()}

    def confusion(self, split: str, shots: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts over the ``C`` classes of a split from those of its first episodes, ``[E, N, N]``.

        Returns:
            (counts, asked), each ``[C, C]``: queries of class ``i`` labelled as ``j``, and those asked where both
            classes stood to choice.
        """
        sampler, tasks, data = self.sampler(split, shots), self.config.evaluation.tasks, self.splits[split]
        total, asked = (np.zeros((len(data.classes),) * 2, np.int64) for _ in range(2))
        for index, of_episode in enumerate(counts):
            support = sampler.task(*divmod(index, tasks)).support
            classes = np.full(of_episode.shape[0], -1)
            real = support.mask & (support.position < len(data.label))  # names of classes stand behind the items
            classes[support.label[real]] = data.label[support.position[real]]
            known = classes >= 0
            here, found = np.ix_(classes[known], classes[known]), of_episode[np.ix_(known, known)]
            total[here] += found  # the classes of an episode differ
            asked[here] += found.sum(1, keepdims=True)
        return total, asked

    def _sampler(self, split: str, section: str, **sizes: Any) -> EpisodeSampler:
        data, episodes, domains = self.splits[split], self.config.episodes, bool(self.config.data.sets)
        return EpisodeSampler(
            data.label,
            EpisodeSize(**sizes),
            seed=episode_seed(self.config, split),
            group=data.group if episodes.within_group or domains else None,
            domain_power=episodes.domain_power if domains else None,
            names_from=len(data.label) if episodes.label_names else None,
            naming=Naming(split, section, data.classes),
        )
