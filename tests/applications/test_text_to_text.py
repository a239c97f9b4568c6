"""Likelihood, context and writing of a model that reads one text and writes another."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from fewshot_jax.algorithms.metaicl import metaicl
from fewshot_jax.applications.text_to_text import CONTEXT, EXACT, NATS, READ, text_to_text
from fewshot_jax.models.huggingface.fresh import new_model, new_params
from fewshot_jax.types import Episode
from tests.models.huggingface.tiny import tiny

V, END, KEY = 23, 3, jax.random.key(0)


def functions(architecture="decoder", compute_dtype=jnp.float32, **options):
    sizes = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32}
    model = new_model(architecture, vocab_size=V, **sizes, compute_dtype=compute_dtype)
    made = text_to_text(
        model.module, lambda key: new_params(model.module, key), end_id=END, max_new_tokens=5, **options
    )
    params = jax.tree.map(lambda leaf: leaf * 3, jax.jit(made.init_params)(jax.random.key(1)))  # far from uniform
    compiled = {name: jax.jit(getattr(made, name)) for name in ("loss_fn", "output_fn", "write_fn")}
    return model.module, made._replace(**compiled), params


def batch(rows, length=6, target_length=4):
    made = {
        "input_ids": np.zeros((len(rows), length), np.int32),
        "attention_mask": np.zeros((len(rows), length), bool),
        "decoder_label": np.zeros((len(rows), target_length), np.int32),
        "decoder_mask": np.zeros((len(rows), target_length), bool),
        "mask": np.ones(len(rows), bool),
    }
    for i, (source, target) in enumerate(rows):
        made["input_ids"][i, : len(source)], made["attention_mask"][i, : len(source)] = source, True
        made["decoder_label"][i, : len(target)], made["decoder_mask"][i, : len(target)] = target, True
    return made


ROWS = [([2, 7, 8, 3], [9, 10, 3]), ([2, 11, 3], [12, 3]), ([2, 5, 6, 7, 8, 3], [13, 14, 15, 3])]
SUPPORT = [([2, 16, 3], [17, 18, 3]), ([2, 19, 20, 3], [21, 3])]


def log_likelihood(module, params, before, written):
    """By hand: log p of some tokens after others, one unpadded sequence at a time."""
    ids = np.array([[*before, *written]])
    log_p = scipy.special.log_softmax(jax.jit(module.apply)({"params": params}, ids, np.ones_like(ids)).logits[0], -1)
    return float(sum(log_p[len(before) + i - 1, token] for i, token in enumerate(written)))


def test_nats_are_minus_the_log_likelihood_of_a_decoder():
    module, made, params = functions()
    written = made.output_fn(params, batch(ROWS), KEY)
    expected = [-log_likelihood(module, params, *row) for row in ROWS]
    np.testing.assert_allclose(written.nats, expected, rtol=1e-5)
    assert written.tokens.tolist() == [3, 2, 4]


def test_nats_are_minus_the_log_likelihood_of_an_encoder_and_decoder():
    module, made, params = functions("encoder_decoder")
    written = made.output_fn(params, batch(ROWS), KEY)
    for (source, target), nats in zip(ROWS, written.nats, strict=True):
        ids, before = np.array([source]), np.array([[0, *target[:-1]]])
        logits = jax.jit(module.apply)({"params": params}, ids, decoder_input_ids=before).logits[0]
        expected = -scipy.special.log_softmax(logits, -1)[np.arange(len(target)), target].sum()
        np.testing.assert_allclose(nats, expected, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_padding_changes_nothing(architecture):
    _, made, params = functions(architecture)
    short, long = batch(ROWS), batch(ROWS, length=11, target_length=7)
    np.testing.assert_allclose(
        made.output_fn(params, short, KEY).nats, made.output_fn(params, long, KEY).nats, rtol=1e-5
    )
    padded = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:1]]), short)
    padded["mask"][-1] = False
    np.testing.assert_allclose(made.loss_fn(params, padded, KEY)[0], made.loss_fn(params, short, KEY)[0], rtol=1e-6)


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_exact_is_what_greedy_decoding_writes(architecture):
    _, made, params = functions(architecture)
    written = made.write_fn(params, batch(ROWS, target_length=5), KEY)
    own = [row[: row.index(END) + 1] if END in row else row for row in np.asarray(written.ids).tolist()]
    again = batch([(source, target) for (source, _), target in zip(ROWS, own, strict=True)], target_length=5)
    assert made.output_fn(params, again, KEY).exact.all()
    again["decoder_label"][:, 0] = (again["decoder_label"][:, 0] + 1) % V
    assert not made.output_fn(params, again, KEY).exact.any()


def context(rows, channel=False):
    return [token for source, target in rows for token in ((*target, *source) if channel else (*source, *target))]


def test_metaicl_reads_the_support_set_before_each_query():
    module, made, params = functions()
    learner = metaicl(made.loss_fn, join=made.join_fn, output_fn=made.output_fn)
    meta_params = learner.init(params, KEY)
    adapted = learner.adapt(meta_params, batch(SUPPORT), KEY)
    expected = [-log_likelihood(module, params, [*context(SUPPORT), *source], target) for source, target in ROWS]
    np.testing.assert_allclose(learner.predict(adapted, batch(ROWS), KEY).nats, expected, rtol=1e-5)
    loss, _ = learner.loss(meta_params, Episode(batch(SUPPORT), batch(ROWS)), KEY)
    np.testing.assert_allclose(loss, sum(expected) / 9, rtol=1e-5)


def test_its_channel_form_writes_the_source_after_the_target():
    module, made, params = functions(channel=True)
    learner = metaicl(made.loss_fn, join=made.join_fn, output_fn=made.output_fn)
    adapted = learner.adapt(learner.init(params, KEY), batch(SUPPORT), KEY)
    expected = [
        -log_likelihood(module, params, [*context(SUPPORT, channel=True), *target], source) for source, target in ROWS
    ]
    np.testing.assert_allclose(learner.predict(adapted, batch(ROWS), KEY).nats, expected, rtol=1e-5)


def test_padded_support_items_are_not_read():
    _, made, params = functions()
    learner = metaicl(made.loss_fn, join=made.join_fn, output_fn=made.output_fn)
    padded = batch([*SUPPORT, ([2, 4, 3], [4, 3])])
    padded["mask"][-1] = False
    one, other = (
        learner.predict(learner.adapt({"params": params}, support, KEY), batch(ROWS), KEY).nats
        for support in (batch(SUPPORT), padded)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["gpt2", "qwen2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "mistral", "gemma2"))]
)
def test_a_context_read_once_equals_one_read_for_each_query(name):
    """Positions learned and rotary, windows in all or some layers; values and gradients, in float64."""
    with jax.enable_x64(True):
        model = tiny(name)
        module = model.module.clone(dtype=jnp.float64)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.params)
        made = text_to_text(module, lambda key: params, end_id=END, max_new_tokens=5)
        support, query = batch(SUPPORT), batch(ROWS)
        joined = made.join_fn(support, query)
        examples = [jnp.broadcast_to(joined[part], (len(ROWS), joined[part].shape[1])) for part in CONTEXT]
        whole = dict(query)
        for part, before in zip(READ, examples, strict=True):
            whole[part] = jnp.concatenate([before, query[part]], axis=1)
        both = jax.jit(jax.value_and_grad(made.loss_fn, has_aux=True))
        once, each = both(params, joined, KEY), both(params, whole, KEY)
        chex.assert_trees_all_close(once, each, rtol=1e-9, atol=1e-12)


def test_metaicl_refuses_an_inner_loop():
    _, made, params = functions()
    learner = metaicl(made.loss_fn, join=made.join_fn, output_fn=made.output_fn)
    with pytest.raises(ValueError, match="no inner loop: inner_steps"):
        learner.loss({"params": params}, Episode(batch(SUPPORT), batch(ROWS)), KEY, inner_steps=2)


def test_its_gradient_is_the_mean_over_tasks():
    with jax.enable_x64(True):
        _, made, params = functions(compute_dtype=jnp.float64)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        learner = metaicl(made.loss_fn, join=made.join_fn)
        tasks = [Episode(batch(SUPPORT), batch(ROWS)), Episode(batch(SUPPORT[::-1]), batch(ROWS[::-1]))]
        both = jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)
        grads, metrics = jax.jit(learner.grad)({"params": params}, both, KEY)
        of_one = jax.jit(jax.grad(lambda params, task: learner.loss({"params": params}, task, KEY)[0]))
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *(of_one(params, task) for task in tasks))
        chex.assert_trees_all_close(grads["params"], mean, rtol=1e-9, atol=1e-12)
        assert metrics["task_loss"].shape == (2,)


def test_scores_leave_padding_out():
    _, made, params = functions()
    episode = Episode(batch(SUPPORT), batch(ROWS))
    written = made.output_fn(params, episode.query, KEY)
    np.testing.assert_allclose(NATS.of(written, episode), written.nats.sum() / 9, rtol=1e-6)
    episode.query["mask"][1:] = False
    np.testing.assert_allclose(NATS.of(written, episode), written.nats[0] / 3, rtol=1e-6)
    assert EXACT.of(written._replace(exact=jnp.array([True, False, False])), episode) == 1


def test_what_a_target_begins_with_is_no_choice_of_the_model_but_has_a_likelihood():
    _, made, params = functions("encoder_decoder", begin=(9,))
    first = made.write_fn(params, batch([ROWS[0]]), KEY)
    row = [9, *np.asarray(first.ids[0]).tolist()]
    row = row[: row.index(END) + 1] if END in row else row
    written = made.output_fn(params, batch([(ROWS[0][0], row)], target_length=len(row)), KEY)
    assert written.exact.all()
    assert written.tokens.tolist() == [len(row)]
    other = made.output_fn(params, batch([(ROWS[0][0], [10, *row[1:]])], target_length=len(row)), KEY)
    assert other.nats[0] != written.nats[0]
