"""Few-shot regression of sinusoids: the toy on which meta-learners can be seen to adapt."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.applications.application import Functions, Score, Stream, episode_seed, evaluation_steps
from fewshot_jax.applications.optional import OptionalParts
from fewshot_jax.atomic_write import atomic_file
from fewshot_jax.config import Config
from fewshot_jax.data.sinusoid import INPUT, sinusoid_task
from fewshot_jax.models.mlp import MLP
from fewshot_jax.types import Aux, Batch, Episode, Key, MetaLearner, MetaParams, Params, PyTree


def regression(*, width: int, layers: int, context_width: int = 0) -> Functions:
    """A perceptron from one number to another: ``x [B, 1]`` to ``y [B, 1]``.

    Its parameters are ``{"features": hidden layers, "head": {"kernel", "bias"}}``. A context
    (cavia) is joined to the input.

    Args:
        width: units of a hidden layer.
        layers: hidden layers.
        context_width: numbers in a task's context; 0 for none.
    """
    hidden, context = MLP([width] * layers), jnp.zeros(context_width)

    def init_params(rng: Key) -> Params:
        # A small head: an untrained network is near zero everywhere.
        below, above = jax.random.split(rng)
        features = hidden.init(below, jnp.zeros((1, 1 + context_width)))["params"]
        kernel = 0.01 * jax.random.normal(above, (width, 1))
        return {"features": features, "head": {"kernel": kernel, "bias": jnp.zeros(1)}}

    def output_fn(params: Params, batch: Batch, rng: Key) -> jax.Array:
        del rng
        x = batch["x"]
        if context_width:
            given = params.get("context", context)
            x = jnp.concatenate([x, jnp.broadcast_to(given, (x.shape[0], context_width))], axis=1)
        features = jax.nn.relu(cast(jax.Array, hidden.apply({"params": params["features"]}, x)))
        return features @ params["head"]["kernel"] + params["head"]["bias"][None, :]

    def loss_fn(params: Params, batch: Batch, rng: Key) -> tuple[jax.Array, Aux]:
        """Mean squared error."""
        return jnp.mean((output_fn(params, batch, rng) - batch["y"]) ** 2), {}

    return Functions(init_params, loss_fn, output_fn, joint_loss_fn=loss_fn, context=context)


def _mean_squared_error(outputs: jax.Array, episode: Episode) -> jax.Array:
    return jnp.mean((outputs - episode.query["y"]) ** 2)


SUPPORT_MEAN = "mean of the support set"
SQUARED_ERROR = Score("mean squared error", _mean_squared_error, larger_is_better=False, percent=False)


@dataclass(frozen=True)
class Regression(OptionalParts):
    """The application of one run; see `application.Application`. An item is ``{"x": [1], "y": [1]}``."""

    config: Config
    score: ClassVar[Score] = SQUARED_ERROR
    scores: ClassVar[tuple[Score, ...]] = (SQUARED_ERROR,)
    notes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def build(cls, config: Config, saved: Path | None = None) -> Self:
        """There is nothing to read."""
        del saved
        return cls(config)

    @classmethod
    def is_endless(cls, config: Config) -> bool:
        return True

    def plain_outputs(self) -> Mapping[str, Callable[[Episode], PyTree]]:
        return {SUPPORT_MEAN: lambda episode: jnp.mean(episode.support["y"])}

    def with_config(self, config: Config) -> Self:
        return dataclasses.replace(self, config=config)

    def functions(self, *, training: bool) -> Functions:
        model = self.config.model
        return regression(width=model.width, layers=model.layers, context_width=model.context_width)

    def training_stream(self) -> Stream:
        episodes = self.config.episodes
        return self._stream("train", episodes.shots, episodes.queries)

    def stream(self, split: str, shots: int) -> Stream:
        return self._stream(split, shots, self.config.evaluation.queries)

    def _stream(self, split: str, shots: int, queries: int) -> Stream:
        seed = episode_seed(self.config, split)

        def task(step: int, index: int) -> Episode:
            curve, *inputs = sinusoid_task(seed, step, index, shots=shots, queries=queries)
            return Episode(*({"x": x, "y": curve(x)} for x in inputs))

        def episodes(step: int, tasks: int) -> Episode:
            return jax.tree.map(lambda *leaves: np.stack(leaves), *(task(step, index) for index in range(tasks)))

        return episodes

    def labels(self) -> dict[str, list[str]]:
        return {}

    def record(self) -> dict[str, Any]:
        return {}

    def save(self, directory: Path) -> None:
        """Nothing to write."""

    def fingerprint(self) -> dict[str, str]:
        return {}

    def draw(self, learner: MetaLearner, meta_params: MetaParams, directory: Path) -> None:
        """Write ``adapted_curves.png``: test tasks, their support points, and the curve after a few inner steps."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if not self.config.learner.record.has_loop:
            return
        steps = sorted({0, 1, evaluation_steps(self.config), *self.config.evaluation.inner_steps})
        shots, seed = max(self.config.evaluation.shots), episode_seed(self.config, "test")
        grid = np.linspace(*INPUT, 200, dtype=np.float32)[:, None]
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        for index, axes in enumerate(figure.subplots(1, 3, sharey=True)):
            curve, x, _ = sinusoid_task(seed, 0, index, shots=shots, queries=0)
            axes.plot(grid, curve(grid), color="black", lw=1, label="task")
            axes.plot(x, curve(x), "^", color="black", ms=6, zorder=3, label=f"{shots} support points")
            key = jax.random.key(index)
            for number, count in enumerate(steps):
                adapted = learner.adapt(meta_params, {"x": x, "y": curve(x)}, key, inner_steps=count)
                fitted = learner.predict(adapted, {"x": grid}, key)
                shade = 0.85 * (1 - number / max(len(steps) - 1, 1))
                label = f"{count} step{'s' if count != 1 else ''}"
                axes.plot(grid, fitted, color=(shade, shade, 1.0), label=label)
            axes.set(xlabel="x", title=f"amplitude {curve.amplitude:.1f}, phase {curve.phase:.1f}")
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right upper")
        with atomic_file(directory / "adapted_curves.png") as partial:
            figure.savefig(partial, dpi=120)
