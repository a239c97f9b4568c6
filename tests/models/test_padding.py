"""Padding between two tokens changes nothing: distances and positions count real tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.applications.text_to_text import judge_targets, logits_of_targets
from fewshot_jax.models.generation import generate
from tests.models.huggingface.tiny import VOCABULARY, tiny

LENGTH, BEFORE, GAP, TARGET = 11, 6, 5, 5
ENCODERS = ["bert", "roberta", "mpnet", "electra", "deberta", "deberta-new", "distilbert", "modernbert"]
ONE_STACK = [*ENCODERS, "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2"]
WINDOWED = ["mistral", "qwen2", "gemma2"]
IDS = np.random.default_rng(0).integers(3, VOCABULARY, (2, LENGTH)).astype(np.int32)


def with_gap(x, fill, before=BEFORE):
    """A row with slots for padding after its first tokens; after none of them: padding on the left."""
    gap = np.full((*x.shape[:1], GAP), fill, x.dtype)
    return np.concatenate([x[:, :before], gap, x[:, before:]], axis=1)


def without_gap(x, before=BEFORE):
    x = np.asarray(x)
    return np.concatenate([x[:, :before], x[:, before + GAP :]], axis=1)


def hidden_states(pretrained, ids, mask, **more):
    return pretrained.module.apply({"params": pretrained.params}, ids, mask, **more).last_hidden_state


@pytest.mark.parametrize("name", ONE_STACK)
def test_padding_before_or_between_tokens_changes_no_hidden_state(name):
    pretrained = tiny(name, None)
    learned = pretrained.module.shape.last.max_length is not None and name not in ("roberta", "mpnet")
    states = jax.jit(functools.partial(hidden_states, pretrained))
    expected = states(IDS, None)
    for before in (0, BEFORE):
        mask = with_gap(np.ones_like(IDS), 0, before)
        padded = with_gap(IDS, pretrained.config.pad_token_id or 0, before)
        more = {"position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0)} if learned else {}
        found = states(padded, mask, **more)
        np.testing.assert_allclose(without_gap(found, before), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["t5", "t5-gated"])
def test_padding_between_tokens_changes_no_hidden_state_of_either_stack(name):
    pretrained = tiny(name, "causal_lm")
    mask, padded = with_gap(np.ones_like(IDS), 0), with_gap(IDS, 0)
    apply = jax.jit(lambda *args: pretrained.module.apply({"params": pretrained.params}, *args[:2], **args[2]))
    found = apply(padded, mask, {"decoder_input_ids": padded, "decoder_attention_mask": mask})
    expected = apply(IDS, None, {"decoder_input_ids": IDS})
    np.testing.assert_allclose(without_gap(found.logits), expected.logits, atol=2e-5)


@pytest.mark.parametrize("name", WINDOWED)
def test_targets_have_the_likelihood_by_which_they_are_generated(name):
    """Where a window is shorter than the padding between source and target."""
    pretrained = tiny(name)
    source = np.pad(IDS[:, :BEFORE], ((0, 0), (0, GAP)))
    mask = np.arange(BEFORE + GAP)[None] < np.array([[BEFORE], [3]])
    write = jax.jit(functools.partial(generate, pretrained.module, max_new_tokens=TARGET))
    written = write(pretrained.params, source, mask)
    batch = {
        "input_ids": source,
        "attention_mask": mask,
        "decoder_label": written.ids,
        "decoder_mask": jnp.ones_like(written.ids),
        "mask": jnp.ones(2, bool),
    }
    judge = jax.jit(lambda params: judge_targets(logits_of_targets(pretrained.module, params, batch), batch))
    judged = judge(pretrained.params)
    np.testing.assert_allclose(-judged.nats, written.score, rtol=1e-5)
    assert judged.exact.all()


def test_padding_of_a_prompt_takes_no_learned_positions():
    pretrained = tiny("gpt2")  # of 32 positions
    mask = np.pad(np.ones_like(IDS), ((0, 0), (0, 20)))
    padded = np.pad(IDS, ((0, 0), (0, 20)))
    call = functools.partial(generate, pretrained.module, pretrained.params, max_new_tokens=8)
    expected = jax.jit(call)(IDS)
    for found in (call(padded, mask), jax.jit(call)(padded, mask)):
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)


def test_padding_takes_no_positions_of_a_model_that_counts_tokens():
    pretrained = tiny("roberta", None)  # of 32 positions
    ids = np.pad(IDS[:, :6], ((0, 0), (0, 30)), constant_values=pretrained.config.pad_token_id)
    mask = ids != pretrained.config.pad_token_id
    found = hidden_states(pretrained, ids, mask)[:, :6]
    np.testing.assert_allclose(found, hidden_states(pretrained, IDS[:, :6], None), atol=2e-5)
    with pytest.raises(ValueError, match=r"33 tokens are longer than the model's 32 positions"):
        hidden_states(pretrained, jnp.full((1, 33), 5), None)
    with pytest.raises(ValueError, match=r"36 tokens are longer than the model's 32 positions"):
        jax.eval_shape(functools.partial(hidden_states, pretrained), ids, mask)


def test_a_prompt_that_leaves_too_few_learned_positions_is_refused():
    pretrained = tiny("gpt2")
    call = functools.partial(generate, pretrained.module, pretrained.params, IDS)
    with pytest.raises(ValueError, match="max_new_tokens=23 after 11 tokens: the model has 32 positions"):
        call(max_new_tokens=23)
    assert np.isfinite(call(max_new_tokens=22).score).all()  # the last token is not read
    traced = jax.jit(lambda mask: call(mask, max_new_tokens=23))(np.ones_like(IDS))
    assert np.isnan(traced.score).all()
