"""Accuracy over episodes: every episode once, padding and absent classes left out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.classification import ACCURACY
from fewshot_jax.evaluation import episodic
from fewshot_jax.evaluation.episodic import episode_scores, evaluate_episodes
from fewshot_jax.parallel.mesh import task_mesh
from fewshot_jax.planning.collectives import collectives
from fewshot_jax.types import Episode, MetaLearner


def learner(predict):
    """A learner whose adaptation hands on the support set."""
    return MetaLearner(None, lambda meta_params, support, rng: support, predict, None, None)


# Its logits come with the query.
READS_LOGITS = learner(lambda adapted, batch, rng: batch["logits"])
# Its logits are noise of its key.
GUESSES = learner(lambda adapted, batch, rng: jax.random.normal(rng, (batch["label"].shape[0], 4)))
KEY = jax.random.key(0)


def episodes(support, query, logits=None):
    """Episodes from (labels [T, S], mask) and (labels [T, Q], mask)."""
    parts = [{"label": jnp.asarray(label), "mask": jnp.asarray(mask, bool)} for label, mask in (support, query)]
    return Episode(parts[0], parts[1] if logits is None else {**parts[1], "logits": jnp.asarray(logits)})


def full(label):
    return np.array(label), np.ones(np.shape(label), bool)


def test_padded_queries_do_not_count():
    logits = np.eye(2)[[[0, 1, 1, 0]]]
    query = (np.array([[0, 1, 0, 1]]), np.array([[True, True, True, False]]))
    value = episode_scores(READS_LOGITS, ACCURACY.of)({}, episodes(full([[0, 1]]), query, logits), KEY, 0)
    np.testing.assert_allclose(value, [2 / 3], rtol=1e-6)


@pytest.mark.parametrize(("mask", "expected"), [([True, True, False], 1.0), ([True, True, True], 0.0)])
def test_a_class_without_support_cannot_be_predicted(mask, expected):
    # Class 2 has the largest logit; the support set holds it only if its item is real.
    support = (np.array([[0, 1, 2]]), np.array([mask]))
    logits = np.array([[[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]]])
    value = episode_scores(READS_LOGITS, ACCURACY.of)({}, episodes(support, full([[0, 1]]), logits), KEY, 0)
    np.testing.assert_allclose(value, [expected])


def guessing_tasks(count):
    return episodes(full(np.tile(np.arange(4), (count, 1))), full(np.tile(np.arange(4), (count, 16))))


def test_a_task_has_the_key_of_its_global_index_whatever_the_batch():
    accuracies = episode_scores(GUESSES, ACCURACY.of)
    whole = accuracies({}, guessing_tasks(6), KEY, 0)
    parts = [accuracies({}, guessing_tasks(2), KEY, first) for first in (0, 2, 4)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-6)
    assert len(set(np.asarray(whole).tolist())) > 2
    chunked = episode_scores(GUESSES, ACCURACY.of, task_chunk=4)({}, guessing_tasks(6), KEY, 0)
    np.testing.assert_allclose(whole, chunked, rtol=1e-6)


def test_the_last_batch_is_cut():
    seen = []

    def accuracies(meta_params, batch, rng, first):
        seen.append((int(meta_params), batch.tolist(), first))
        return jnp.arange(first, first + 4, dtype=jnp.float32)

    values = evaluate_episodes(
        accuracies, np.float32(7), lambda step, tasks: np.full(tasks, step), episodes=10, tasks=4, rng=KEY
    )
    assert values.tolist() == list(range(10))
    assert seen == [(7, [step] * 4, 4 * step) for step in range(3)]


@pytest.mark.parametrize(("tasks", "devices", "task_chunk"), [(16, 8, None), (20, 5, 3)])
def test_tasks_are_divided_over_devices_that_have_nothing_to_tell_each_other(tasks, devices, task_chunk, monkeypatch):
    """A task's score depends on its key and on parameters that it has adapted to itself alone."""

    def loss_fn(params, batch, rng):
        noise = jax.random.normal(rng, batch["y"].shape)
        return jnp.mean((batch["x"] @ params["w"] + 0.1 * noise - batch["y"]) ** 2), {}

    learner = fsj.maml(
        loss_fn,
        inner_optimizer=optax.sgd(0.1),
        inner_steps=3,
        output_fn=lambda params, batch, rng: batch["x"] @ params["w"],
    )
    x, y = jax.random.normal(KEY, (tasks, 6, 3)), jax.random.normal(jax.random.key(1), (tasks, 6))
    batch = Episode({"x": x[:, :4], "y": y[:, :4]}, {"x": x[:, 4:], "y": y[:, 4:]})
    judge = lambda outputs, episode: jnp.mean((outputs - episode.query["y"]) ** 2)  # noqa: E731
    meta_params = learner.init({"w": jnp.ones(3)}, KEY)
    given = {"episodes": 2 * tasks, "tasks": tasks, "rng": KEY}

    def scored():
        return evaluate_episodes(
            episode_scores(learner, judge, task_chunk=task_chunk), meta_params, lambda step, tasks: batch, **given
        )

    compiled = episode_scores(learner, judge, task_chunk=task_chunk).lower(meta_params, batch, KEY, 0).compile()
    assert len(compiled.output_shardings.device_set) == devices
    assert collectives(compiled.as_text(), devices) == []
    divided = scored()
    monkeypatch.setattr(episodic, "local_mesh", lambda tasks: task_mesh(jax.local_devices()[:1]))
    np.testing.assert_allclose(divided, scored(), rtol=1e-5)
    assert len(set(divided.tolist())) == 2 * tasks


def test_texts_of_batches_in_different_buckets_are_padded():
    def scores(meta_params, episodes, rng, first):
        width = 3 if first == 0 else 5
        return {"score": np.arange(2.0) + first, "ids": np.full((2, 1, 4, width), 7)}

    values = evaluate_episodes(scores, {}, lambda step, tasks: (), episodes=3, tasks=2, rng=KEY)
    assert values["score"].tolist() == [0, 1, 2]
    assert values["ids"].shape == (3, 1, 4, 5)
    assert (values["ids"][:2, ..., 3:] == -1).all() and (values["ids"][2] == 7).all()
