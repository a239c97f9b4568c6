"""Which leaves adapt, which are shared, which are frozen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import merge, split

FEATURES, HIDDEN, ITEMS = 3, 4, 5


def make_params():
    generator = np.random.default_rng(0)
    return {
        "body": {"kernel": jnp.asarray(generator.normal(size=(FEATURES, HIDDEN))), "bias": jnp.ones(HIDDEN)},
        "head": {"kernel": jnp.asarray(generator.normal(size=HIDDEN)), "bias": jnp.ones(1)},
    }


def outputs(params, batch, rng, frozen=None):
    x = batch["x"] if frozen is None else batch["x"] @ frozen["mixing"] * frozen["scale"][0]
    hidden = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"][None])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def loss_fn(params, batch, rng, **frozen):
    return jnp.mean((outputs(params, batch, rng, **frozen) - batch["y"]) ** 2), {}


def make_episodes(tasks=2):
    generator = np.random.default_rng(1)

    def side():
        return {
            "x": jnp.asarray(generator.normal(size=(tasks, ITEMS, FEATURES))),
            "y": jnp.asarray(generator.normal(size=(tasks, ITEMS))),
        }

    return fsj.Episode(side(), side())


def make_frozen():
    return {"mixing": jnp.asarray(np.random.default_rng(2).normal(size=(FEATURES, FEATURES))), "scale": jnp.ones(1)}


def first(episodes):
    return jax.tree.map(lambda leaf: leaf[0], episodes)


def sizes(tree):
    return {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(tree)}


ALL = {"body/kernel", "body/bias", "head/kernel", "head/bias"}


@pytest.mark.parametrize(
    ("selector", "inner"),
    [
        (None, ALL),
        ("head", {"head/kernel", "head/bias"}),
        ("^head/kernel$", {"head/kernel"}),
        ("bias|head", ALL - {"body/kernel"}),
        (lambda path, leaf: leaf.ndim == 1, ALL - {"body/kernel"}),
        (lambda path, leaf: path.endswith("kernel"), {"body/kernel", "head/kernel"}),
    ],
)
def test_split_selects_by_path_or_predicate_and_merge_puts_it_together(selector, inner):
    params = make_params()
    chosen, rest = split(params, selector)
    assert sizes(chosen) == inner
    assert sizes(rest) == ALL - inner
    chex.assert_trees_all_equal(merge(chosen, rest), params)


def test_split_and_merge_keep_a_leaf_that_is_none_and_the_kind_of_every_node():
    params = {"list": [jnp.zeros(1), (jnp.ones(2), None)], "episode": fsj.Episode(jnp.zeros(1), jnp.ones(1))}
    rebuilt = merge(*split(params, "list"))
    assert jax.tree.structure(rebuilt) == jax.tree.structure(params)
    chex.assert_trees_all_equal(rebuilt, params)


def test_a_selector_that_selects_nothing_lists_the_paths_there_are():
    learner = fsj.maml(loss_fn, inner_params="classifier")
    with pytest.raises(ValueError, match="inner_params='classifier' selects no leaf") as caught:
        learner.adapt({"params": make_params()}, first(make_episodes()).support, jax.random.key(0))
    assert all(path in str(caught.value) for path in ALL)


def test_only_the_selected_leaves_adapt_while_the_meta_gradient_reaches_all():
    learner = fsj.maml(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=2, inner_params="head")
    params, episodes, rng = make_params(), make_episodes(), jax.random.key(0)
    adapted = learner.adapt({"params": params}, first(episodes).support, rng)
    chex.assert_trees_all_equal(adapted["body"], params["body"])
    assert all(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(*map(jax.tree.leaves, (adapted["head"], params["head"])), strict=True)
    )
    grads, _ = jax.jit(learner.grad)({"params": params}, episodes, rng)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, {"params": params})
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(grads))


def test_meta_gradient_of_shared_leaves_has_the_path_through_the_inner_loop(float64):
    learner = fsj.maml(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=2, inner_params="head")
    params, episode, rng = make_params(), first(make_episodes()), jax.random.key(0)

    def meta_loss(kernel):
        moved = {**params, "body": {**params["body"], "kernel": kernel}}
        return learner.loss({"params": moved}, episode, rng)[0]

    given = jax.jit(jax.grad(meta_loss))(params["body"]["kernel"])
    step, kernel = 1e-5, params["body"]["kernel"]
    directions = jnp.eye(kernel.size).reshape(-1, *kernel.shape) * step
    plus, minus = (jax.jit(jax.vmap(meta_loss))(kernel[None] + sign * directions) for sign in (1, -1))
    difference = (plus - minus) / (2 * step)
    np.testing.assert_allclose(given.ravel(), difference, rtol=0, atol=1e-8 * np.abs(difference).max())

    adapted = learner.adapt({"params": params}, episode.support, rng)
    direct = jax.grad(lambda p: loss_fn(p, episode.query, rng)[0])(adapted)["body"]["kernel"]
    assert np.abs(given - direct).max() > 1e-3  # query gradient at the adapted point alone would be wrong


def test_unselected_leaves_are_not_in_the_inner_optimizer():
    seen = []

    def init(params):
        seen.append(sizes(params))
        return optax.EmptyState()

    spy = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    learner = fsj.maml(loss_fn, inner_optimizer=spy, inner_params="head")
    learner.adapt({"params": make_params()}, first(make_episodes()).support, jax.random.key(0))
    assert seen == [{"head/kernel", "head/bias"}]


def frozen_learner(**keywords):
    return fsj.maml(loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=2, output_fn=outputs, **keywords)


@pytest.mark.parametrize("function", ["adapt", "loss", "grad", "predict"])
def test_frozen_weights_reach_the_users_function(float64, function):
    """With fixed input features x M, frozen weights M must equal features computed beforehand."""
    learner, params, frozen, rng = frozen_learner(), make_params(), make_frozen(), jax.random.key(0)
    episodes = make_episodes()
    mixed = jax.tree.map(lambda leaf: leaf @ frozen["mixing"] if leaf.ndim == 3 else leaf, episodes)
    meta_params = {"params": params}

    @jax.jit
    def call(episodes, **keywords):
        one = first(episodes)
        if function == "predict":
            return learner.predict(params, one.query, rng, **keywords)
        if function == "grad":
            return learner.grad(meta_params, episodes, rng, **keywords)
        return getattr(learner, function)(meta_params, one.support if function == "adapt" else one, rng, **keywords)

    given, unfrozen = call(episodes, frozen=frozen), call(episodes)
    chex.assert_trees_all_close(given, call(mixed), rtol=0, atol=1e-10)
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), given, unfrozen)
    assert max(jax.tree.leaves(difference)) > 1e-2


@pytest.mark.parametrize("gradient", ["auto", "first_order"])
def test_frozen_weights_get_no_gradient(gradient):
    learner, frozen, episode = frozen_learner(gradient=gradient), make_frozen(), first(make_episodes())

    @jax.jit
    def meta_loss(frozen):
        return learner.loss({"params": make_params()}, episode, jax.random.key(0), frozen=frozen)[0]

    chex.assert_trees_all_equal(jax.grad(meta_loss)(frozen), jax.tree.map(jnp.zeros_like, frozen))
    moved = meta_loss(jax.tree.map(lambda leaf: leaf + 0.1, frozen))
    assert abs(moved - meta_loss(frozen)) > 1e-3  # although the loss does depend on them


def test_frozen_weights_may_be_integers():
    def table_loss(params, batch, rng, frozen):
        return jnp.mean((params["w"][frozen["index"]] - batch) ** 2), {}

    learner = fsj.maml(table_loss, inner_optimizer=optax.sgd(0.1))
    episodes = fsj.Episode(jnp.ones((2, 3)), jnp.ones((2, 3)))
    frozen = {"index": jnp.array([2, 0, 2])}
    grads, _ = jax.jit(learner.grad)({"params": {"w": jnp.zeros(3)}}, episodes, jax.random.key(0), frozen=frozen)
    assert (np.asarray(grads["params"]["w"]) != 0).tolist() == [True, False, True]


def test_a_loss_without_a_frozen_argument_is_called_without_it():
    learner = fsj.maml(lambda params, batch, rng: (jnp.sum(params**2), {}), inner_optimizer=optax.sgd(0.25))
    adapted = learner.adapt({"params": jnp.array([1.0, -2.0])}, jnp.zeros(1), jax.random.key(0))
    np.testing.assert_allclose(adapted, [0.5, -1.0], rtol=1e-6)  # theta - 0.25 * 2 theta


@pytest.mark.parametrize(
    ("make_learner", "name"),
    [(lambda: fsj.maml(loss_fn), "maml"), (lambda: fsj.protonet(lambda params, batch, rng: batch["x"]), "protonet")],
)
@pytest.mark.parametrize("leaf", [np.arange(3), np.array(True)])
def test_a_leaf_that_cannot_be_trained_is_named_at_init(make_learner, name, leaf):
    params = {"body": {"kernel": jnp.ones(2), "index": leaf}}
    with pytest.raises(ValueError, match=f"'body/index' has dtype {jnp.asarray(leaf).dtype}"):
        make_learner().init(params, jax.random.key(0))
