"""Prototypical networks against numpy, written out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fewshot_jax as fsj
from fewshot_jax.algorithms.metric import masked_cross_entropy, prototypes, similarity

WAYS, FEATURES, EMBEDDING = 3, 4, 5
SUPPORT_LABEL = np.array([0, 2, 1, 0, 2, 0])  # classes of 3, 1 and 2 items, out of order
QUERY_LABEL = np.array([1, 0, 2, 2, 0])


def embed(params, batch, rng):
    return jnp.tanh(batch["x"] @ params["w"])


def make_params():
    return {"w": jnp.asarray(np.random.default_rng(0).normal(size=(FEATURES, EMBEDDING)))}


def make_episode(seed=1, lead=()):
    generator = np.random.default_rng(seed)

    def side(label):
        return {
            "x": jnp.asarray(generator.normal(size=(*lead, len(label), FEATURES))),
            "label": jnp.asarray(np.broadcast_to(label, (*lead, len(label)))),
        }

    return fsj.Episode(side(SUPPORT_LABEL), side(QUERY_LABEL))


def by_hand(params, episode, similarity, temperature=1.0):
    """Prototypes ``[N, D]``, logits ``[Q, N]``, loss and accuracy, with loops."""
    weight = np.asarray(params["w"])
    support, query = (np.tanh(np.asarray(side["x"]) @ weight) for side in episode)
    centres = np.stack([support[n == SUPPORT_LABEL].mean(0) for n in range(WAYS)])
    logits = np.array([[similarity(item, centre) / temperature for centre in centres] for item in query])
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(probability[np.arange(len(QUERY_LABEL)), QUERY_LABEL]).mean()
    return centres, logits, loss, (logits.argmax(1) == QUERY_LABEL).mean()


def euclidean(a, b):
    return -np.sum((a - b) ** 2)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("distance", "similarity", "temperature", "tolerance"),
    [("euclidean", euclidean, 1.0, 1e-10), ("euclidean", euclidean, 2.5, 1e-10), ("cosine", cosine, 0.1, 1e-6)],
)
def test_prototypes_logits_and_loss_are_those_of_the_paper(float64, distance, similarity, temperature, tolerance):
    # Cosine: the package adds 1e-8 to a squared length for a smooth gradient at zero, hence 1e-6.
    params, episode, rng = make_params(), make_episode(), jax.random.key(0)
    learner = fsj.protonet(embed, ways=WAYS, distance=distance, temperature=temperature)
    meta_params = learner.init(params, rng)
    centres, logits, expected_loss, expected_accuracy = by_hand(params, episode, similarity, temperature)
    adapted = learner.adapt(meta_params, episode.support, rng)
    np.testing.assert_allclose(adapted["prototypes"], centres, rtol=0, atol=1e-12)
    np.testing.assert_allclose(learner.predict(adapted, episode.query, rng), logits, rtol=0, atol=tolerance)
    loss, aux = learner.loss(meta_params, episode, rng)
    np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=tolerance)
    np.testing.assert_allclose(aux["accuracy"], expected_accuracy, rtol=0, atol=1e-12)


def test_permuting_the_labels_permutes_the_columns_and_keeps_the_loss(float64):
    learner = fsj.protonet(embed, ways=WAYS)
    episode, rng = make_episode(), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)
    renamed = np.array([2, 0, 1])  # class n becomes class renamed[n]
    permuted = fsj.Episode(*({**side, "label": jnp.asarray(renamed)[side["label"]]} for side in episode))

    def logits(episode):
        return learner.predict(learner.adapt(meta_params, episode.support, rng), episode.query, rng)

    np.testing.assert_allclose(logits(permuted)[:, renamed], logits(episode), rtol=0, atol=1e-12)
    assert np.abs(logits(permuted) - logits(episode)).max() > 1e-2
    np.testing.assert_allclose(
        learner.loss(meta_params, permuted, rng)[0], learner.loss(meta_params, episode, rng)[0], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("ways", [WAYS, None])
@pytest.mark.parametrize("padded_label", [0, 2])
def test_a_padded_item_changes_nothing(float64, ways, padded_label):
    learner = fsj.protonet(embed, ways=ways)
    episode, rng = make_episode(), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)

    def pad(batch):
        items = batch["label"].shape[0]
        return {
            "x": jnp.concatenate([batch["x"], jnp.full((2, FEATURES), 50.0)]),
            "label": jnp.append(batch["label"], jnp.array([padded_label, 1])),
            "mask": jnp.arange(items + 2) < items,
        }

    padded = fsj.Episode(pad(episode.support), pad(episode.query))
    value_and_grad = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    (loss, aux), grads = value_and_grad(meta_params, padded, rng)
    (expected_loss, expected_aux), expected_grads = value_and_grad(meta_params, episode, rng)
    chex.assert_trees_all_close((loss, aux, grads), (expected_loss, expected_aux, expected_grads), rtol=0, atol=1e-12)
    adapted = learner.adapt(meta_params, padded.support, rng)
    plain = learner.adapt(meta_params, episode.support, rng)
    np.testing.assert_allclose(adapted["prototypes"][:WAYS], plain["prototypes"][:WAYS], rtol=0, atol=1e-12)


@pytest.mark.parametrize("label", [-100, -1, WAYS])
def test_the_label_of_a_padded_item_may_be_anything(label):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, WAYS)), jnp.float32)
    mask = jnp.array([True, True, False])

    def loss(logits, last):
        return masked_cross_entropy(logits, jnp.array([0, 1, last]), mask)[0]

    given, expected = (jax.value_and_grad(loss)(logits, last) for last in (label, 2))
    chex.assert_trees_all_equal(given, expected)


def test_half_precision_logits_and_embeddings_are_averaged_in_float32():
    generator = np.random.default_rng(0)
    items, label = 301, generator.integers(WAYS, size=301)  # bfloat16 has no 301
    values = jnp.asarray(generator.normal(size=(items, WAYS)), jnp.bfloat16)
    exact, mask = np.asarray(values, np.float64), jnp.ones(items, bool)
    nats = np.log(np.exp(exact).sum(1)) - exact[np.arange(items), label]
    loss, _ = masked_cross_entropy(values, jnp.asarray(label), mask)
    np.testing.assert_allclose(loss, nats.mean(), rtol=1e-6)
    centres, _ = prototypes(values, jnp.asarray(label), mask, WAYS)
    np.testing.assert_allclose(centres, [exact[label == n].mean(0) for n in range(WAYS)], rtol=1e-5, atol=1e-6)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(similarity(values, values, "cosine"), unit @ unit.T, rtol=0, atol=1e-5)


def test_a_class_without_support_items_gets_no_probability_and_a_finite_gradient():
    learner = fsj.protonet(embed, ways=WAYS + 1)
    episode, rng = make_episode(), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)
    adapted = learner.adapt(meta_params, episode.support, rng)
    assert adapted["present"].tolist() == [True] * WAYS + [False]
    logits = learner.predict(adapted, episode.query, rng)
    probability = jax.nn.softmax(logits)
    assert (probability[:, WAYS] == 0).all()
    assert np.isfinite(logits).all()
    grads, expected = (
        jax.jit(jax.grad(lambda m, one=one: one.loss(m, episode, rng)[0]))(meta_params)
        for one in (learner, fsj.protonet(embed, ways=WAYS))
    )
    chex.assert_trees_all_close(grads, expected, rtol=1e-5, atol=1e-6)


def test_ways_none_serves_any_number_of_classes(float64):
    free, fixed = fsj.protonet(embed), fsj.protonet(embed, ways=WAYS)
    episode, rng = make_episode(), jax.random.key(0)
    meta_params = free.init(make_params(), rng)
    logits = free.predict(free.adapt(meta_params, episode.support, rng), episode.query, rng)
    assert logits.shape == (len(QUERY_LABEL), len(SUPPORT_LABEL))
    _, expected, expected_loss, _ = by_hand(meta_params["params"], episode, euclidean)
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, :WAYS], jax.nn.softmax(expected), rtol=0, atol=1e-12)
    np.testing.assert_allclose(free.loss(meta_params, episode, rng)[0], expected_loss, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fixed.loss(meta_params, episode, rng)[0], expected_loss, rtol=0, atol=1e-12)


def test_cosine_does_not_see_the_length_of_an_embedding(float64):
    def scaled(params, batch, rng):
        return embed(params, batch, rng) * batch["length"][:, None]

    learner = fsj.protonet(scaled, ways=WAYS, distance="cosine")
    episode, rng = make_episode(), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)
    adapted = learner.adapt(meta_params, {**episode.support, "length": jnp.ones(6)}, rng)
    short, long = (
        learner.predict(adapted, {**episode.query, "length": jnp.full(5, length)}, rng) for length in (1.0, 9.0)
    )
    np.testing.assert_allclose(short, long, rtol=0, atol=1e-7)
    assert np.abs(short).max() <= 1


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_gradient_of_weights_and_learned_temperature_equals_finite_differences(float64, distance):
    learner = fsj.protonet(embed, ways=WAYS, distance=distance, temperature=2.0, learn_temperature=True)
    episodes, rng = make_episode(lead=(2,)), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)
    np.testing.assert_allclose(meta_params["log_temperature"], np.log(2), rtol=1e-6)
    meta_params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), meta_params)
    grads, metrics = jax.jit(learner.grad)(meta_params, episodes, rng)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, meta_params)
    assert set(metrics) == {"loss", "task_loss", "accuracy"}
    flat, unravel = ravel_pytree(meta_params)
    step = 1e-5

    def meta_loss(point):
        return jax.vmap(lambda e: learner.loss(unravel(point), e, rng)[0])(episodes).mean()

    directions = step * jnp.eye(flat.size)
    plus, minus = (jax.jit(jax.vmap(meta_loss))(flat[None] + sign * directions) for sign in (1, -1))
    expected = unravel((plus - minus) / (2 * step))
    chex.assert_trees_all_close(grads, expected, rtol=0, atol=1e-8)
    assert abs(float(grads["log_temperature"])) > 1e-3


def test_a_learned_temperature_starts_as_the_fixed_one():
    episode, rng = make_episode(), jax.random.key(0)
    fixed, learned = (fsj.protonet(embed, ways=WAYS, temperature=3.0, learn_temperature=learn) for learn in (0, 1))
    expected = fixed.loss(fixed.init(make_params(), rng), episode, rng)
    chex.assert_trees_all_close(learned.loss(learned.init(make_params(), rng), episode, rng), expected, rtol=1e-6)


@pytest.mark.parametrize("task_chunk", [None, 2])
def test_grad_is_the_mean_over_tasks_of_the_gradient_of_loss(float64, task_chunk):
    learner = fsj.protonet(embed, ways=WAYS, task_chunk=task_chunk)
    episodes, rng = make_episode(lead=(3,)), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)
    grads, metrics = jax.jit(learner.grad)(meta_params, episodes, rng)
    value_and_grad = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    one_by_one = [value_and_grad(meta_params, jax.tree.map(lambda leaf, t=t: leaf[t], episodes), rng) for t in range(3)]
    chex.assert_trees_all_close(
        grads, jax.tree.map(lambda *leaves: sum(leaves) / 3, *[g for _, g in one_by_one]), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(metrics["task_loss"], [loss for (loss, _), _ in one_by_one], rtol=0, atol=1e-12)
    accuracy = np.mean([aux["accuracy"] for (_, aux), _ in one_by_one])
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=0, atol=1e-12)


def test_frozen_weights_reach_the_embedding_and_get_no_gradient():
    def with_frozen_features(params, batch, rng, frozen):
        return embed(params, {"x": batch["x"] @ frozen}, rng)

    learner = fsj.protonet(with_frozen_features, ways=WAYS)
    episode, rng = make_episode(), jax.random.key(0)
    meta_params = learner.init(make_params(), rng)
    frozen = 2 * jnp.eye(FEATURES)

    def loss(frozen):
        return learner.loss(meta_params, episode, rng, frozen=frozen)[0]

    chex.assert_trees_all_equal(jax.jit(jax.grad(loss))(frozen), jnp.zeros_like(frozen))
    doubled = fsj.Episode(*({**side, "x": 2 * side["x"]} for side in episode))
    expected, _ = fsj.protonet(embed, ways=WAYS).loss(meta_params, doubled, rng)
    np.testing.assert_allclose(loss(frozen), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"distance": "manhattan"}, "distance='manhattan'"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"ways": 0}, "ways=0"),
        ({"task_chunk": -1}, "task_chunk=-1"),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_by_name(keywords, named):
    with pytest.raises(ValueError, match=named):
        fsj.protonet(embed, **keywords)


def test_an_inner_loop_override_is_refused_because_there_is_no_inner_loop():
    learner = fsj.protonet(embed, ways=WAYS)
    with pytest.raises(ValueError, match="inner_steps"):
        learner.grad({"params": make_params()}, make_episode(lead=(2,)), jax.random.key(0), inner_steps=2)
