"""What an answer is made to begin with, and tokens that are never written."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from fewshot_jax.models.generation import generate
from tests.models.huggingface.tiny import tiny

IDS, MASK = jnp.array([[5, 6, 7, 2], [9, 2, 0, 0]]), jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]])
NEVER = 0  # of a Marian model: its padding, which is also its start


def after(model, written):
    """Log-probabilities of the next token of each row, by one pass over all that was written."""
    read = jnp.concatenate([jnp.full((2, 1), model.module.shape.start_id), written], axis=1)
    out = model.module.apply({"params": model.params}, IDS, MASK, decoder_input_ids=read)
    return scipy.special.log_softmax(np.asarray(out.logits[:, -1], np.float64), axis=-1)


def test_tokens_follow_what_an_answer_begins_with():
    model = tiny("marian")
    found = generate(model.module, model.params, IDS, MASK, max_new_tokens=3, begin=(7, 4))
    written, score = jnp.tile(jnp.array([[7, 4]]), (2, 1)), np.zeros(2)
    for step in range(3):
        log_p = after(model, written)
        log_p[:, NEVER] = -np.inf
        token = log_p.argmax(-1)
        np.testing.assert_array_equal(found.ids[:, step], token)
        score += log_p.max(-1)
        written = jnp.concatenate([written, token[:, None]], axis=1)
    np.testing.assert_allclose(found.score, score, rtol=1e-5)  # of the tokens that were chosen


@pytest.mark.parametrize("beams", [1, 3])
def test_a_token_that_is_never_written_is_not_written_though_it_is_the_most_probable(beams):
    model = tiny("marian")
    assert model.module.shape.never_ids == (NEVER,)
    head = {**model.params["head"], "bias": model.params["head"]["bias"].at[NEVER].set(50.0)}
    params = {**model.params, "head": head}
    call = {"max_new_tokens": 5, "beams": beams}
    assert not (generate(model.module, params, IDS, MASK, pad_id=1, **call).ids == NEVER).any()
    free = dataclasses.replace(model.module, shape=dataclasses.replace(model.module.shape, never_ids=()))
    assert (generate(free, params, IDS, MASK, pad_id=1, **call).ids == NEVER).all()


def test_an_answer_of_a_decoder_begins_where_the_prompt_ends():
    model = tiny("llama")
    with pytest.raises(ValueError, match="one stack; put these tokens at the end of the prompts"):
        generate(model.module, model.params, IDS, MASK, max_new_tokens=2, begin=(4,))


def test_what_an_answer_begins_with_takes_positions():
    model = tiny("marian")
    with pytest.raises(ValueError, match="max_new_tokens=30 after 4 tokens: the model has 32 positions"):
        generate(model.module, model.params, IDS, MASK, max_new_tokens=30, begin=(4, 5, 6))
