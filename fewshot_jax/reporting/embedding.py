"""The features of one test episode before and after adaptation, in the plane of their largest variance."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fewshot_jax.algorithms.inner_loop import query_key
from fewshot_jax.config.learners import METRIC
from fewshot_jax.training.experiment import Experiment
from fewshot_jax.types import Episode, Key, MetaParams


class Plane(NamedTuple):
    """Attributes: ``points [n, 2]``, and the ``shares [2]`` of the variance that the two axes hold, 0 to 1."""

    points: np.ndarray
    shares: np.ndarray


class Embedding(NamedTuple):
    """The features of an episode's items.

    Attributes:
        before: of the meta-parameters.
        after: of the adapted parameters; None where adaptation leaves the features as they are.
        label: ``[n]``, of each item, within the episode.
        support: ``[n]`` bool: a support item, not a query.
        classes: the names of the ``N`` classes.
        shots: of the episode.
        prototypes: whether the learner compares class means of these features.
    """

    before: Plane
    after: Plane | None
    label: np.ndarray
    support: np.ndarray
    classes: list[str]
    shots: int
    prototypes: bool

    def to_json(self) -> dict[str, Any]:
        planes = {"before": self.before, **({} if self.after is None else {"after": self.after})}
        return {
            "shots": self.shots,
            "classes": self.classes,
            "label": self.label.tolist(),
            "support": self.support.tolist(),
            **{name: {"points": of.points.tolist(), "shares": of.shares.tolist()} for name, of in planes.items()},
        }


def principal_plane(features: np.ndarray) -> Plane:
    """Project features on their first two principal components.

    Args:
        features: ``[n, D]``.
    """
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2
    points = (left * singular)[:, :2]
    missing = 2 - points.shape[1]  # of a single feature, or a single item
    shares = variance[:2] / max(variance.sum(), np.finfo(np.float64).tiny)
    return Plane(np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing)))


def embed(experiment: Experiment, meta_params: MetaParams, *, shots: int) -> Embedding | None:
    """The features of the first test episode; None where the model of an application has none.

    Args:
        experiment: of the run, which has classes.
        meta_params: of its best checkpoint.
        shots: of the episode.
    """
    (functions, learner), application = experiment.judging, experiment.application
    embed_fn = functions.embed_fn
    if embed_fn is None:
        return None
    compares = experiment.config.learner.name in METRIC

    @jax.jit
    def features(meta_params: MetaParams, episode: Episode, key: Key) -> tuple[Any, Any]:
        def of(params: Any) -> list[jax.Array]:
            return [embed_fn(params, batch, query_key(key)) for batch in episode]

        adapted = learner.adapt(meta_params, episode.support, key)
        return of(meta_params["params"]), of(adapted["params"] if compares else adapted)

    episode = jax.tree.map(lambda leaf: leaf[0], application.stream("test", shots)(0, 1))
    key = jax.random.fold_in(experiment.keys.evaluation, 0)
    before, after = (np.concatenate([np.asarray(part) for part in of]) for of in features(meta_params, episode, key))
    real, label = (np.concatenate([side[name] for side in episode]) for name in ("mask", "label"))
    support = np.arange(len(real)) < len(episode.support["mask"])
    moved = not np.allclose(before[real], after[real], rtol=1e-5, atol=1e-6)
    return Embedding(
        before=principal_plane(before[real]),
        after=principal_plane(after[real]) if moved else None,
        label=label[real],
        support=support[real],
        classes=_classes(application, shots),
        shots=shots,
        prototypes=compares,
    )


def _classes(application: Any, shots: int) -> list[str]:
    """The names of the classes of the first test episode."""
    data, support = application.splits["test"], application.sampler("test", shots).task(0, 0).support
    real = support.mask & (support.position < len(data.label))  # names of classes stand behind the items
    names = [""] * (int(support.label[real].max()) + 1)
    for label, position in zip(support.label[real], support.position[real], strict=True):
        names[label] = data.classes[data.label[position]]
    return names
