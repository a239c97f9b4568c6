"""Documents that share a row: each is computed as if it were alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.data.pretraining.masking import MaskTokens, mask_tokens, next_tokens
from fewshot_jax.data.pretraining.packing import Packing, pack
from fewshot_jax.models.huggingface.fresh import new_model
from fewshot_jax.models.stack import StackShape, Tokens, empty_cache
from fewshot_jax.models.transformer import ModelShape, Transformer
from fewshot_jax.pretraining.language_model import token_loss

SIZES = {"vocab_size": 50, "width": 16, "layers": 2, "heads": 2, "mlp_width": 24}
DOCUMENTS = [[10, 11, 12, 13, 14], [15, 16, 17], [18, 19, 20, 21, 22, 23, 24]]


def apply(model, ids, **more):
    return model.module.apply({"params": model.params}, jnp.asarray(ids), **more)


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def model(request):
    return new_model(request.param, **SIZES, seed=1)


def packed():
    windows = pack(DOCUMENTS, Packing(24, 3, 2))
    rows = windows.rows(np.arange(1))
    assert rows["segment"].max() == len(DOCUMENTS)
    return rows


def alone(document):
    return np.array([[2, *document, 3]])


def test_a_document_has_the_same_logits_among_others_as_alone(model):
    rows = packed()
    together = apply(
        model, rows["input_ids"], position_ids=jnp.asarray(rows["position"]), segment_ids=jnp.asarray(rows["segment"])
    )
    for number, document in enumerate(DOCUMENTS, start=1):
        logits = together.logits[0][rows["segment"][0] == number]
        np.testing.assert_allclose(logits, apply(model, alone(document)).logits[0], atol=2e-6)


def test_the_packed_loss_of_each_token_is_that_of_its_document():
    model = new_model("decoder", **SIZES, seed=1)
    loss = token_loss(model.module)

    def per_document(ids):
        rows = {"input_ids": ids, "segment": np.ones_like(ids), "position": np.arange(ids.shape[1])[None]}
        return loss(model.params, next_tokens(rows), None)

    total, count = loss(model.params, jax.tree.map(jnp.asarray, next_tokens(packed())), None)
    sums = [per_document(alone(document)) for document in DOCUMENTS]
    assert int(count) == sum(int(n) for _, n in sums) == sum(len(document) + 1 for document in DOCUMENTS)
    np.testing.assert_allclose(total, sum(nats for nats, _ in sums), rtol=1e-6)


def test_the_loss_of_masked_tokens_is_that_of_all_logits():
    model = new_model("encoder", **SIZES, seed=1)
    rows = mask_tokens(packed(), np.random.default_rng(0), MaskTokens(4, (0, 1, 2, 3, 4), 50), 0.5)
    batch = jax.tree.map(jnp.asarray, rows)
    total, count = token_loss(model.module)(model.params, batch, None)
    out = apply(
        model,
        batch["input_ids"],
        position_ids=batch["position"],
        segment_ids=batch["segment"],
        attention_mask=batch["segment"] > 0,
    )
    log_p = jax.nn.log_softmax(out.logits)[0]
    asked = [(s, t) for s, t, w in np.stack([rows[n][0] for n in ("predicted", "target", "weight")], axis=1) if w]
    assert int(count) == len(asked) > 3
    np.testing.assert_allclose(total, -sum(log_p[slot, token] for slot, token in asked), rtol=1e-5)


def test_no_gradient_flows_between_documents(model):
    rows = packed()
    embedding = model.params["token_embedding"]["embedding"]

    def of_second(table):
        params = {**model.params, "token_embedding": {"embedding": table}}
        out = model.module.apply(
            {"params": params},
            jnp.asarray(rows["input_ids"]),
            position_ids=jnp.asarray(rows["position"]),
            segment_ids=jnp.asarray(rows["segment"]),
        )
        return jnp.sum(out.last_hidden_state[0][rows["segment"][0] == 2] ** 2)

    gradient = np.abs(jax.grad(of_second)(embedding)).sum(axis=1)
    assert (gradient[DOCUMENTS[1]] > 0).all()
    assert (gradient[DOCUMENTS[0] + DOCUMENTS[2]] == 0).all()


def test_one_segment_changes_nothing(model):
    ids = alone(DOCUMENTS[0])
    same = apply(model, ids, segment_ids=jnp.ones_like(ids))
    assert np.array_equal(same.logits, apply(model, ids).logits)


def test_learned_positions_restart_with_a_document():
    block = new_model("decoder", **SIZES).module.shape.decoder.block
    stack = StackShape(block=block, layers=1, causal=True, max_length=24)
    module = Transformer(ModelShape(vocab_size=50, decoder=stack))
    rows = packed()
    params = module.init(jax.random.key(0), jnp.zeros((1, 24), jnp.int32))
    call = functools.partial(module.apply, params)
    out = call(
        jnp.asarray(rows["input_ids"]),
        position_ids=jnp.asarray(rows["position"]),
        segment_ids=jnp.asarray(rows["segment"]),
    )
    third = out.last_hidden_state[0][rows["segment"][0] == 3]
    np.testing.assert_allclose(third, call(jnp.asarray(alone(DOCUMENTS[2]))).last_hidden_state[0], atol=2e-6)


def test_two_stacks_have_no_segments():
    model = new_model("encoder_decoder", **SIZES)
    ids = alone(DOCUMENTS[0])
    with pytest.raises(ValueError, match="segment_ids: a model with two stacks has none"):
        apply(model, ids, segment_ids=ids, decoder_input_ids=jnp.asarray(ids))


def test_a_cache_has_no_segments():
    model = new_model("decoder", **SIZES)
    shape = model.module.shape.decoder
    with pytest.raises(ValueError, match="a cache holds one text a row"):
        model.module.apply(
            {"params": model.params},
            method=lambda module: module.decoder(
                Tokens(jnp.zeros((1, 1, 16)), segment_BL=jnp.ones((1, 1), jnp.int32)),
                jnp.ones((1, 4), bool),
                cache=empty_cache(shape, 1, 4),
            ),
        )
