"""Many tasks are one task many times: chunks, weights, offsets, devices and traces change nothing else."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import fewshot_jax as fsj
from fewshot_jax.parallel.mesh import replicate, shard_tasks, task_mesh

TASKS, SUPPORT, QUERY, FEATURES, HIDDEN = 7, 5, 6, 3, 4
eight_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices, simulated or real")


def noisy_loss(params, batch, rng):
    """Regression by a tanh network on inputs with noise: every key that is consumed shows."""
    x = batch["x"] + 0.1 * jax.random.normal(rng, batch["x"].shape, batch["x"].dtype)
    error = jnp.tanh(x @ params["w"]) @ params["v"] - batch["y"]
    return jnp.mean(error**2), {"mean_error": jnp.mean(error), "errors": error}


def make_params(dtype="float64"):
    generator = np.random.default_rng(0)
    return {
        "w": jnp.asarray(generator.normal(size=(FEATURES, HIDDEN)), dtype),
        "v": jnp.asarray(generator.normal(size=(HIDDEN,)), dtype),
    }


def make_episodes(tasks=TASKS, dtype="float64", seed=1):
    generator = np.random.default_rng(seed)

    def side(items):
        return {
            "x": generator.normal(size=(tasks, items, FEATURES)).astype(dtype),
            "y": generator.normal(size=(tasks, items)).astype(dtype),
        }

    return fsj.Episode(side(SUPPORT), side(QUERY))


def make_learner(**keywords):
    return fsj.maml(noisy_loss, inner_optimizer=optax.sgd(0.1), inner_steps=2, **keywords)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@functools.cache
def loss_and_grad_of_a_task():
    return jax.jit(jax.value_and_grad(make_learner().loss, has_aux=True))


def task_by_task(meta_params, episodes, rng, offset=0):
    """The oracle: a Python loop over tasks, jax.grad of each, and the mean."""
    value_and_grad = loss_and_grad_of_a_task()
    results = []
    for t in range(episodes.query["y"].shape[0]):
        results.append(value_and_grad(meta_params, take(episodes, t), jax.random.fold_in(rng, offset + t)))
    losses = np.stack([loss for (loss, _), _ in results])
    support_loss = np.stack([aux["support_loss"] for (_, aux), _ in results])
    mean_error = np.stack([aux["mean_error"] for (_, aux), _ in results]).mean()
    grads = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *[grads for _, grads in results])
    metrics = {"loss": losses.mean(), "task_loss": losses, "support_loss": support_loss, "mean_error": mean_error}
    return grads, metrics


def close(given, expected, tolerance=1e-10):
    chex.assert_trees_all_close(given, expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def reference(enable_x64):
    """Meta-parameters, episodes, a key and the result of the loop over tasks, in float64."""
    with enable_x64(True):
        meta_params, episodes, rng = {"params": make_params()}, make_episodes(), jax.random.key(2)
        return meta_params, episodes, rng, task_by_task(meta_params, episodes, rng)


@pytest.mark.parametrize("task_chunk", [None, *range(1, TASKS + 2)])
def test_any_chunk_gives_the_loop_over_tasks_in_its_order(float64, reference, task_chunk):
    meta_params, episodes, rng, expected = reference
    given = jax.jit(make_learner(task_chunk=task_chunk).grad)(meta_params, episodes, rng)
    close(given, expected)


@pytest.mark.parametrize(("shards", "task_chunk"), [(3, None), (3, 5), (3, 2), (5, 1), (15, 1)])
def test_any_shards_give_the_loop_over_tasks_in_its_order(float64, shards, task_chunk):
    meta_params, episodes, rng = {"params": make_params()}, make_episodes(15), jax.random.key(2)
    learner = make_learner(task_chunk=task_chunk)
    given = jax.jit(functools.partial(learner.grad, task_shards=shards))(meta_params, episodes, rng)
    close(given, task_by_task(meta_params, episodes, rng))


def test_shards_that_do_not_divide_the_tasks_are_refused(float64):
    with pytest.raises(ValueError, match="task_shards=4: expected a divisor of the 15 tasks"):
        make_learner().grad({"params": make_params()}, make_episodes(15), jax.random.key(2), task_shards=4)


def test_metrics_are_scalar_aux_averaged_over_tasks_and_the_losses(float64, reference):
    meta_params, episodes, rng, _ = reference
    _, metrics = jax.eval_shape(make_learner().grad, meta_params, episodes, rng)
    shapes = {name: value.shape for name, value in metrics.items()}
    assert shapes == {"loss": (), "mean_error": (), "task_loss": (TASKS,), "support_loss": (TASKS, 2)}


@pytest.mark.parametrize(
    ("side", "field", "shape", "expected"),
    [
        ("support", "y", (TASKS - 1, SUPPORT), (TASKS, SUPPORT)),
        ("query", "x", (TASKS + 1, QUERY, FEATURES), (TASKS, QUERY, FEATURES)),
        ("query", "y", (QUERY,), (TASKS,)),
        ("query", "y", (), None),
    ],
)
def test_a_leaf_with_another_task_axis_is_named_with_both_shapes(side, field, shape, expected):
    episodes = make_episodes(dtype="float32")
    getattr(episodes, side)[field] = jnp.zeros(shape)
    with pytest.raises(ValueError, match="leading task axis") as caught:
        make_learner().grad({"params": make_params("float32")}, episodes, jax.random.key(0))
    message = str(caught.value)
    assert f"'episodes/{side}/{field}'" in message
    assert f"has shape {shape}" in message
    if expected is None:
        assert f"expected ({TASKS}, " in message
    elif len(expected) > 1:
        assert f"expected {expected}" in message


@pytest.mark.parametrize(
    ("episodes", "words"),
    [
        (fsj.Episode({}, {}), "no leaves"),
        (fsj.Episode({"x": np.float32(1)}, {"x": np.float32(1)}), "episodes/support/x"),
        (fsj.Episode({"x": np.zeros((0, 4))}, {"x": np.zeros((0, 4))}), "at least one task"),
    ],
)
def test_a_meta_batch_without_tasks_is_refused(episodes, words):
    with pytest.raises(ValueError, match=words):
        make_learner().grad({"params": make_params("float32")}, episodes, jax.random.key(0))


def test_a_task_weight_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"'task_weight' has shape \(6,\)"):
        make_learner().grad(
            {"params": make_params("float32")},
            make_episodes(dtype="float32"),
            jax.random.key(0),
            task_weight=jnp.ones(TASKS - 1),
        )


@pytest.mark.parametrize("task_chunk", [None, 3])
@pytest.mark.parametrize("dtype", ["float64", "bool"])
def test_a_padded_task_of_weight_zero_counts_as_if_it_were_not_there(float64, reference, task_chunk, dtype):
    meta_params, episodes, rng, _ = reference
    real = 4
    padded = take(episodes, np.array([0, 1, 2, 3, 3, 0, 1]))
    weight = jnp.array([1, 1, 1, 1, 0, 0, 0], dtype)
    learner = make_learner(task_chunk=task_chunk)
    grads, metrics = jax.jit(learner.grad)(meta_params, padded, rng, task_weight=weight)
    expected_grads, expected = task_by_task(meta_params, take(episodes, slice(real)), rng)
    close(grads, expected_grads)
    close({name: metrics[name] for name in ("loss", "mean_error")}, {n: expected[n] for n in ("loss", "mean_error")})
    close(metrics["task_loss"][:real], expected["task_loss"])


def test_tasks_count_in_proportion_to_their_weight(float64, reference):
    meta_params, episodes, rng, (_, expected) = reference
    weight = np.array([3.0, 1, 0, 2, 0, 0, 4])
    grads, metrics = jax.jit(make_learner().grad)(meta_params, episodes, rng, task_weight=jnp.asarray(weight))
    close(metrics["loss"], np.asarray(weight @ np.asarray(expected["task_loss"]) / weight.sum()))
    alone = [
        task_by_task(meta_params, take(episodes, slice(t, t + 1)), rng, offset=t)[0] for t in np.flatnonzero(weight)
    ]
    share = weight[weight > 0] / weight.sum()
    close(grads, jax.tree.map(lambda *leaves: sum(s * g for s, g in zip(share, leaves, strict=True)), *alone))


def test_two_halves_with_offsets_average_to_the_whole(float64):
    meta_params, episodes, rng = {"params": make_params()}, make_episodes(8), jax.random.key(2)
    grad = jax.jit(make_learner().grad)
    whole, metrics = grad(meta_params, episodes, rng)
    halves = [grad(meta_params, take(episodes, slice(o, o + 4)), rng, task_offset=o) for o in (0, 4)]
    close(jax.tree.map(lambda a, b: (a + b) / 2, halves[0][0], halves[1][0]), whole)
    close(jnp.concatenate([half["task_loss"] for _, half in halves]), metrics["task_loss"])
    _, without_offset = grad(meta_params, take(episodes, slice(4, 8)), rng)
    assert np.abs(without_offset["task_loss"] - metrics["task_loss"][4:]).min() > 1e-4  # the noise does show


def test_repeating_every_task_leaves_a_deterministic_gradient_unchanged(float64):
    def loss_fn(params, batch, rng):
        return noisy_loss(params, batch, jax.random.key(0))

    learner = fsj.maml(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=2)
    meta_params, episodes, rng = {"params": make_params()}, make_episodes(), jax.random.key(2)
    once, _ = jax.jit(learner.grad)(meta_params, episodes, rng)
    twice, _ = jax.jit(learner.grad)(
        meta_params, jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), episodes), rng
    )
    close(twice, once)


def on_devices(learner, meta_params, episodes, rng, devices):
    mesh = task_mesh(devices)
    placed = shard_tasks(episodes, mesh)
    assert len(placed.support["x"].sharding.device_set) == len(devices)
    return jax.jit(learner.grad)(replicate(meta_params, mesh), placed, replicate(rng, mesh))


@eight_devices
@pytest.mark.parametrize("task_chunk", [None, 8, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
def test_eight_devices_compute_what_one_does(request, task_chunk, dtype, tolerance):
    if dtype == "float64":
        request.getfixturevalue("float64")
    meta_params, episodes, rng = {"params": make_params(dtype)}, make_episodes(16, dtype), jax.random.key(2)
    learner = make_learner(task_chunk=task_chunk)
    one, one_metrics = on_devices(make_learner(), meta_params, episodes, rng, jax.devices()[:1])
    eight, eight_metrics = on_devices(learner, meta_params, episodes, rng, jax.devices()[:8])
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    close(jax.device_get(eight), jax.device_get(one), tolerance * largest)
    chex.assert_trees_all_close(jax.device_get(eight_metrics), jax.device_get(one_metrics), rtol=tolerance, atol=1e-7)


@eight_devices
@pytest.mark.parametrize("task_chunk", [None, 8])
def test_no_task_is_sent_to_another_device(task_chunk):
    mesh: Mesh = task_mesh(jax.devices()[:8])
    meta_params = replicate({"params": make_params("float32")}, mesh)
    episodes = shard_tasks(make_episodes(16, "float32"), mesh)
    grad = jax.jit(lambda *arguments: make_learner(task_chunk=task_chunk).grad(*arguments)[0])
    program = grad.lower(meta_params, episodes, replicate(jax.random.key(2), mesh)).compile().as_text()
    assert "all-reduce" in program  # the meta-gradient is summed
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in program, collective


@pytest.mark.parametrize("task_chunk", [None, 2])
def test_training_on_new_episodes_traces_the_loss_only_once(task_chunk):
    traces = []

    def counted_loss(params, batch, rng):
        traces.append(None)
        return noisy_loss(params, batch, rng)

    learner = fsj.maml(counted_loss, inner_optimizer=optax.sgd(0.1), inner_steps=2, task_chunk=task_chunk)
    outer = optax.adam(1e-3)

    @jax.jit
    def step(meta_params, state, episodes, rng):
        grads, metrics = learner.grad(meta_params, episodes, rng)
        updates, state = outer.update(grads, state, meta_params)
        return optax.apply_updates(meta_params, updates), state, metrics

    meta_params = learner.init(make_params("float32"), jax.random.key(0))
    state = outer.init(meta_params)
    counts = []
    for number in range(5):
        episodes = make_episodes(dtype="float32", seed=number)
        meta_params, state, _ = step(meta_params, state, episodes, jax.random.key(number))
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 5


@eight_devices
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize(("make", "keywords"), [(fsj.maml, {"gradient": "reverse"}), (fsj.reptile, {}), (fsj.maml, {})])
def test_in_shard_map_no_task_adapts_with_the_gradients_of_other_devices(make, keywords, check_vma):
    """An inner gradient by parameters that are one on all devices is summed over the devices."""

    def loss_fn(params, batch, rng):
        return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), {}

    rng = np.random.default_rng(0)
    episodes = fsj.Episode(
        *({"x": rng.normal(size=(8, n, 3)).astype("f"), "y": rng.normal(size=(8, n)).astype("f")} for n in (4, 5))
    )
    learner = make(loss_fn, inner_steps=2, **keywords)
    meta_params, key = {"params": {"w": jnp.ones(3)}}, jax.random.key(0)
    expected, _ = learner.grad(meta_params, episodes, key)
    one = learner.adapt(meta_params, jax.tree.map(lambda leaf: leaf[3], episodes.support), key)
    mesh = task_mesh(jax.devices()[:8])

    def on_one_device(meta_params, episodes):
        adapted = learner.adapt(meta_params, jax.tree.map(lambda leaf: leaf[0], episodes.support), key)
        grads, _ = learner.grad(meta_params, episodes, key)
        return jax.lax.pmean(grads, "task"), jax.tree.map(lambda leaf: leaf[None], adapted)

    specs = (PartitionSpec(), PartitionSpec("task"))
    mapped = jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=check_vma)
    found, adapted = jax.jit(mapped)(meta_params, episodes)
    np.testing.assert_allclose(found["params"]["w"], expected["params"]["w"], rtol=1e-5)
    np.testing.assert_allclose(jax.tree.leaves(adapted)[0][3], jax.tree.leaves(one)[0], rtol=1e-5)
