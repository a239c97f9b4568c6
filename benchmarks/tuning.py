"""A grid of inner rates and steps: as one vmapped program, and point by point.

    python benchmarks/tuning.py

Every way gives the scores of the same episodes at every point, beginning with nothing compiled: "anew" builds and
compiles a learner for each point, its rate and steps constants of the program; "traced" compiles once, with rate and
steps as arguments, and calls the program for each point; "grid" is `fewshot-jax tune RUN --inner`, one program and one
call. "again" is a second call of what is compiled, on the same episodes. The ways take turns; the ratio is that of the
medians, and the results are refused unless the scores agree.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import MODELS, Problem, arguments, relative_error, table, write

import fewshot_jax as fsj
from fewshot_jax.evaluation.episodic import over_episodes
from fewshot_jax.search.inner_grid import grid_scores

AGREEMENT = 1e-3
Evaluate = Callable[[], np.ndarray]  # -> scores [rates, steps]


def learner(problem: Problem, optimizer: optax.GradientTransformation, steps: int) -> fsj.MetaLearner:
    """MAML, whose prediction is its loss on the query set."""
    output_fn = lambda params, batch, rng: problem.loss_fn(params, batch, rng)[0]  # noqa: E731
    return fsj.maml(problem.loss_fn, inner_optimizer=optimizer, inner_steps=steps, output_fn=output_fn)


def task_loss(one: fsj.MetaLearner) -> Callable[..., jax.Array]:
    """The query loss of a task after its inner loop, which may be told its rate and steps."""

    def of_task(meta_params: Any, episode: Any, key: Any, *point: Any) -> jax.Array:
        overrides = dict(zip(("inner_rate", "inner_steps"), point, strict=False))
        adapted = one.adapt(meta_params, episode.support, key, **overrides)
        return one.predict(adapted, episode.query, key)

    return of_task


def ways(problem: Problem, rates: list[float], steps: list[int], grid_chunk: int) -> dict[str, Callable[[], Evaluate]]:
    """For each way a function that gives a fresh, uncompiled evaluation."""
    where = ({"params": problem.params}, jax.tree.map(jnp.asarray, problem.episodes), jax.random.key(0), 0)
    traced_sgd = optax.inject_hyperparams(optax.sgd)

    def point_by_point(scores_at: Callable[[float, int], jax.Array]) -> np.ndarray:
        return np.array([[np.asarray(scores_at(rate, count)).mean() for count in steps] for rate in rates])

    def anew() -> Evaluate:
        kept: dict[tuple[float, int], Callable[..., jax.Array]] = {}

        def scores_at(rate: float, count: int) -> jax.Array:
            if (rate, count) not in kept:
                kept[rate, count] = over_episodes(task_loss(learner(problem, optax.sgd(rate), count)))
            return kept[rate, count](*where)

        return lambda: point_by_point(scores_at)

    def traced() -> Evaluate:
        scores = over_episodes(task_loss(learner(problem, traced_sgd(learning_rate=0.0), max(steps))))
        return lambda: point_by_point(lambda rate, count: scores(*where, np.float32(rate), np.int32(count)))

    def grid() -> Evaluate:
        one = learner(problem, traced_sgd(learning_rate=0.0), max(steps))
        scores = grid_scores(one, lambda loss, _: loss, rates=rates, steps=steps, grid_chunk=grid_chunk)
        return lambda: np.asarray(scores(*where)).mean(0)

    return {"anew": anew, "traced": traced, "grid": grid}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0], "tuning")
    parser.set_defaults(repeats=3)
    parser.add_argument("--models", nargs="+", choices=["sinusoids", "classifier"], default=["sinusoids", "classifier"])
    parser.add_argument("--rates", type=int, default=4, help="rates of the grid, from 0.001 to 0.02")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--grid-chunk", type=int, default=8)
    options = parser.parse_args(argv)
    sizes = {
        "sinusoids": {"tasks": 100, "items": 10},
        "classifier": {"layers": 2, "width": 64, "length": 12, "tasks": 4, "items": 5},
    }
    if options.quick:
        options.repeats, options.rates, options.steps, options.models = 1, 2, [1, 2], ["sinusoids"]
        sizes["sinusoids"] = {"tasks": 3, "items": 4}
    jax.config.update("jax_enable_compilation_cache", False)
    rates = np.geomspace(0.001, 0.02, options.rates).tolist()
    results = []
    for model in options.models:
        problem = MODELS[model](**sizes[model])
        first, again, scores = measure(ways(problem, rates, options.steps, options.grid_chunk), options.repeats)
        for name in first:
            error = relative_error(scores[name], scores["anew"])
            if not error < AGREEMENT:
                raise SystemExit(f"{model}: the scores of '{name}' differ from those of 'anew' by {error:.1e}")
            results.append(
                {
                    "model": model,
                    "way": name,
                    "points": len(rates) * len(options.steps),
                    "seconds": first[name],
                    "again_seconds": again[name],
                    "ratio": first[name] / first["grid"],
                    "again_ratio": again[name] / again["grid"],
                    "relative_error": error,
                }
            )
    head = ("model", "way", "points", "s", "ratio to grid", "again, s", "ratio")
    columns = ("model", "way", "points", "seconds", "ratio", "again_seconds", "again_ratio")
    print("\n" + table(head, [[row[column] for column in columns] for row in results]))
    write(options.output, options, results, sizes={model: sizes[model] for model in options.models})
    return results


def measure(made: dict[str, Callable[[], Evaluate]], repeats: int) -> tuple[dict[str, float], dict[str, float], Any]:
    """Median seconds of a first and of a second call of each way, and the scores."""
    first: dict[str, list[float]] = {name: [] for name in made}
    again: dict[str, list[float]] = {name: [] for name in made}
    scores = {}
    for _ in range(repeats):
        for name, make in made.items():
            jax.clear_caches()
            began = time.perf_counter()
            evaluate = make()
            scores[name] = evaluate()
            compiled = time.perf_counter()
            evaluate()
            first[name].append(compiled - began)
            again[name].append(time.perf_counter() - compiled)
    return (
        {name: float(np.median(values)) for name, values in first.items()},
        {name: float(np.median(values)) for name, values in again.items()},
        scores,
    )


if __name__ == "__main__":
    main()
