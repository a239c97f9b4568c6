"""Greedy and beam search give the tokens of transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.text_to_text import text_to_text
from fewshot_jax.models.generation import filtered, generate
from fewshot_jax.models.huggingface.families import FAMILIES
from tests.models.huggingface.tiny import CONFIGS, VOCABULARY

torch = pytest.importorskip("torch")
from tests.models.huggingface.torch_models import saved, torch_model  # noqa: E402

pytestmark = pytest.mark.parity

NEW = 9
NAMES = [name for name, (kind, _) in CONFIGS.items() if "causal_lm" in FAMILIES[kind].heads]


def prompts(left):
    rng = np.random.default_rng(3)
    ids, real = rng.integers(3, VOCABULARY, (4, 7)), np.array([7, 3, 5, 1])
    mask = np.arange(7) < real[:, None]
    ids, mask = np.where(mask, ids, 0), mask.astype(np.int64)
    if left:
        ids = np.stack([np.roll(row, 7 - n) for row, n in zip(ids, real, strict=True)])
        mask = mask[:, ::-1].copy()
    return ids, mask


def theirs(model, ids, mask, **options):
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2, **options}
    if model.config.model_type == "marian":  # as the generation_config.json of each of its models says
        options["bad_words_ids"] = [[model.config.pad_token_id]]
    model.generation_config.forced_eos_token_id = model.config.forced_eos_token_id = None
    config = type(model.generation_config)(
        decoder_start_token_id=model.config.decoder_start_token_id if model.config.is_encoder_decoder else None,
        **options,
    )
    with torch.no_grad():
        out = model.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), generation_config=config)
    out = out.numpy()[:, 1 if model.config.is_encoder_decoder else ids.shape[1] :]
    out = np.pad(out, ((0, 0), (0, NEW - out.shape[1])))
    ended = np.cumsum(np.isin(out, options["eos_token_id"]), axis=1) > 0
    after = np.pad(ended, ((0, 0), (1, 0)))[:, :NEW]
    return np.where(after, 0, out)  # beam search fills with the end where the padding token is 0


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(name, beams, tmp_path):
    model = torch_model(name, "causal_lm")
    pretrained = fsj.load_pretrained(saved(model, tmp_path))
    ids, mask = prompts(left=not model.config.is_encoder_decoder)
    run = jax.jit(functools.partial(generate, pretrained.module, max_new_tokens=NEW, eos_id=2, beams=beams))
    ours = run(pretrained.params, jnp.asarray(ids), jnp.asarray(mask))
    np.testing.assert_array_equal(ours.ids, theirs(model, ids, mask, num_beams=beams))


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["m2m-100", "bart"])
def test_a_forced_first_token_is_that_of_transformers(name, beams, tmp_path):
    model = torch_model(name, "causal_lm")
    pretrained = fsj.load_pretrained(saved(model, tmp_path))
    ids, mask = prompts(left=False)
    options = {"length_penalty": 2.0} if beams > 1 else {}
    ours = generate(
        pretrained.module,
        pretrained.params,
        jnp.asarray(ids),
        jnp.asarray(mask),
        max_new_tokens=NEW - 1,
        eos_id=2,
        begin=(7,),
        beams=beams,
        **options,
    )
    expected = theirs(model, ids, mask, num_beams=beams, forced_bos_token_id=7, **options)
    assert (expected[:, 0] == 7).all()
    np.testing.assert_array_equal(ours.ids, expected[:, 1:])


def test_the_loss_of_a_translation_is_that_of_transformers(tmp_path):
    model = torch_model("m2m-100", "causal_lm")
    pretrained = fsj.load_pretrained(saved(model, tmp_path))
    ids, mask = prompts(left=False)
    labels = np.array([[7, 9, 4, 2], [7, 2, 0, 0], [7, 11, 2, 0], [7, 5, 2, 0]])
    real = np.arange(4) < np.array([4, 2, 3, 3])[:, None]
    functions = text_to_text(pretrained.module, None, end_id=2, max_new_tokens=4, begin=(7,))
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_label": labels,
        "decoder_mask": real,
        "mask": np.ones(4, bool),
    }
    ours, _ = functions.loss_fn(pretrained.params, jax.tree.map(jnp.asarray, batch), None)
    with torch.no_grad():
        out = model(torch.tensor(ids), torch.tensor(mask), labels=torch.tensor(np.where(real, labels, -100)))
    np.testing.assert_allclose(ours, out.loss.item(), rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 2.0])
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_the_length_penalty_is_that_of_transformers(name, penalty, tmp_path):
    model = torch_model(name, "causal_lm")
    pretrained = fsj.load_pretrained(saved(model, tmp_path))
    ids, mask = prompts(left=not model.config.is_encoder_decoder)
    ours = generate(
        pretrained.module,
        pretrained.params,
        jnp.asarray(ids),
        jnp.asarray(mask),
        max_new_tokens=NEW,
        eos_id=(2, 5),
        beams=4,
        length_penalty=penalty,
    )
    expected = theirs(model, ids, mask, num_beams=4, length_penalty=penalty, eos_token_id=[2, 5])
    np.testing.assert_array_equal(ours.ids, expected)


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 8, "top_p": 0.7, "temperature": 0.5}])
def test_what_is_sampled_from_is_what_transformers_samples_from(options):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    scores = torch.tensor(logits)
    warpers = {"temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
    for name, warper in warpers.items():
        if name in options:
            scores = warper(options[name])(None, scores)
    np.testing.assert_allclose(filtered(jnp.asarray(logits), **options), scores.numpy(), rtol=1e-6)
