"""Classifiers that are read off the support set: Proto-MAML's start, matching networks, ridge regression."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import Ridge

import fewshot_jax as fsj
from fewshot_jax.algorithms.metric import masked_cross_entropy
from fewshot_jax.algorithms.r2d2 import ridge

WAYS, INPUTS, FEATURES = 3, 5, 4
LABEL = np.array([0, 2, 1, 0, 2, 0])  # classes of 3, 1 and 2 items, out of order
QUERY = np.array([1, 0, 2, 2, 0])


def embed_fn(params, batch, rng):
    return jnp.tanh(batch["x"] @ params["body"])


def output_fn(params, batch, rng):
    return embed_fn(params, batch, rng) @ params["head"]["kernel"] + params["head"]["bias"][None]


def loss_fn(params, batch, rng):
    return masked_cross_entropy(output_fn(params, batch, rng), batch["label"], jnp.ones_like(batch["label"], bool))


def make_params():
    return {"body": jnp.asarray(np.random.default_rng(0).normal(size=(INPUTS, FEATURES)))}


def make_episode(lead=()):
    rng = np.random.default_rng(1)

    def side(label):
        x = rng.normal(size=(*lead, len(label), INPUTS))
        return {"x": jnp.asarray(x), "label": jnp.asarray(np.broadcast_to(label, (*lead, len(label))))}

    return fsj.Episode(side(LABEL), side(QUERY))


def embeddings(episode):
    return (np.tanh(np.asarray(side["x"]) @ np.asarray(make_params()["body"])) for side in episode)


def logits(learner, episode):
    meta_params = learner.init(make_params(), jax.random.key(0))
    adapted = learner.adapt(meta_params, episode.support, jax.random.key(1))
    return np.asarray(learner.predict(adapted, episode.query, jax.random.key(2)))


def softmax(values):
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def check_gradient(learner):
    """Against central differences in every meta-parameter."""
    episodes = make_episode((2,))
    flat, unravel = ravel_pytree(learner.init(make_params(), jax.random.key(0)))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(1), jnp.arange(2))
    loss = lambda flat: jax.vmap(lambda e, k: learner.loss(unravel(flat), e, k)[0])(episodes, keys).mean()  # noqa: E731
    moves = 1e-6 * jnp.eye(flat.size)
    expected = jax.vmap(lambda move: loss(flat + move) - loss(flat - move))(moves) / 2e-6
    given = ravel_pytree(learner.grad(unravel(flat), episodes, jax.random.key(1))[0])[0]
    assert np.linalg.norm(given - expected) <= 1e-6 * np.linalg.norm(expected)


def proto_maml(steps):
    return fsj.proto_maml(
        loss_fn,
        embed_fn=embed_fn,
        ways=WAYS,
        inner_steps=steps,
        inner_optimizer=optax.sgd(0.1),
        output_fn=output_fn,
    )


def test_proto_maml_without_steps_is_the_prototype_classifier(float64):
    episode = make_episode()
    support, query = embeddings(episode)
    centres = np.stack([support[n == LABEL].mean(0) for n in range(WAYS)])
    distances = ((query[:, None] - centres[None]) ** 2).sum(-1)
    np.testing.assert_allclose(softmax(logits(proto_maml(0), episode)), softmax(-distances), atol=1e-12)
    np.testing.assert_allclose(
        softmax(logits(proto_maml(0), episode)),
        softmax(logits(fsj.protonet(embed_fn, ways=WAYS), episode)),
        atol=1e-12,
    )


@pytest.mark.parametrize("steps", [0, 3])
def test_the_meta_gradient_of_proto_maml_flows_through_the_prototypes(float64, steps):
    check_gradient(proto_maml(steps))


def test_matching_networks_attend_by_cosine(float64):
    episode = make_episode()
    support, query = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in embeddings(episode))
    attention = softmax(query @ support.T / 0.5)
    expected = np.stack([attention[:, n == LABEL].sum(1) for n in range(WAYS)], 1)
    learner = fsj.matching_network(embed_fn, ways=WAYS, temperature=0.5)
    np.testing.assert_allclose(np.exp(logits(learner, episode)), expected, rtol=1e-6)
    meta_params = learner.init(make_params(), jax.random.key(0))
    loss, _ = learner.loss(meta_params, episode, jax.random.key(1))
    np.testing.assert_allclose(loss, -np.log(expected[np.arange(len(QUERY)), QUERY]).mean(), rtol=1e-6)
    check_gradient(learner)


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_r2d2_is_ridge_regression(float64, penalty):
    episode = make_episode()
    support, query = (np.concatenate([rows, np.ones((len(rows), 1))], 1) for rows in embeddings(episode))
    fitted = Ridge(alpha=penalty, fit_intercept=False).fit(support, np.eye(WAYS)[LABEL])
    learner = fsj.r2d2(embed_fn, ways=WAYS, penalty=penalty, scale=4.0)
    np.testing.assert_allclose(logits(learner, episode), 4 * fitted.predict(query), rtol=1e-6)
    check_gradient(learner)


def test_no_product_of_the_ridge_head_is_left_to_the_precision_of_the_device():
    """With more items than features the dual is 1 / penalty times larger than what it cancels to."""
    jaxpr = jax.make_jaxpr(ridge)(jnp.ones((9, 2)), jnp.ones((9, 3)), jnp.array(1e-3))
    products = [line for line in str(jaxpr).splitlines() if "dot_general[" in line]
    assert str(jaxpr).count("precision=(Precision.HIGHEST, Precision.HIGHEST)") >= len(products) >= 2


@pytest.mark.parametrize("build", [fsj.matching_network, fsj.r2d2])
def test_a_class_without_support_items_is_never_predicted(float64, build):
    episode = make_episode()
    given = logits(build(embed_fn, ways=WAYS + 1), episode)
    np.testing.assert_allclose(softmax(given)[:, WAYS], 0, atol=1e-12)
    np.testing.assert_allclose(
        softmax(given)[:, :WAYS], softmax(logits(build(embed_fn, ways=WAYS), episode)), atol=1e-12
    )


def test_proto_maml_keeps_an_absent_class_out_through_the_inner_loop(float64):
    learner = fsj.proto_maml(
        loss_fn, embed_fn=embed_fn, ways=WAYS + 1, inner_steps=3, inner_optimizer=optax.sgd(0.1), output_fn=output_fn
    )
    given = logits(learner, make_episode())
    np.testing.assert_allclose(softmax(given)[:, WAYS], 0, atol=1e-12)
    np.testing.assert_allclose(softmax(given)[:, :WAYS], softmax(logits(proto_maml(3), make_episode())), atol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fsj.matching_network(embed_fn, temperature=0.0), "temperature=0.0"),
        (lambda: fsj.matching_network(embed_fn, ways=0), "ways=0"),
        (lambda: fsj.r2d2(embed_fn, penalty=0.0), "penalty=0.0"),
        (lambda: fsj.r2d2(embed_fn, scale=-1.0), "scale=-1.0"),
    ],
)
def test_hyperparameters_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()
