"""Models of transformers with torch, beside which ours are held; for tests with the marker ``parity``."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from fewshot_jax.models.huggingface.families import FAMILIES
from tests.models.huggingface.tiny import CONFIGS, LENGTH, VOCABULARY


def torch_model(name, kind):
    """A model with weights in which no bias or scale keeps its initial zero or one."""
    model_type, fields = CONFIGS[name]
    labels = {"num_labels": 3} if kind == "classification" else {"num_labels": 2}
    config = transformers.CONFIG_MAPPING[model_type](**fields, **labels)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, FAMILIES[model_type].architectures[kind])(config).eval()
    with torch.no_grad():
        for leaf in model.parameters():
            if leaf.requires_grad:  # Marian's positions are constants
                leaf.add_(torch.randn_like(leaf) * 0.3)
        for key, buffer in model.named_buffers():
            if key == "final_logits_bias":
                buffer.add_(torch.randn_like(buffer))
    return model


def batch(model):
    """Ids and masks ``[3, L]`` with padding on the right; every row ends in an end-of-sequence token."""
    rng = np.random.default_rng(0)
    ids, real = rng.integers(3, VOCABULARY, (3, LENGTH)), np.array([LENGTH, 5, 8])
    ids[np.arange(3), real - 1] = model.config.eos_token_id or 2
    mask = (np.arange(LENGTH) < real[:, None]).astype(np.int64)
    pad = model.config.pad_token_id or 0
    return np.where(mask, ids, pad), mask


def saved(model, directory):
    model.save_pretrained(directory)
    return directory


def inputs_of(model, kind):
    ids, mask = batch(model)
    given = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder and kind in (None, "causal_lm"):
        given["decoder_input_ids"] = np.random.default_rng(1).integers(3, VOCABULARY, (3, 7))
    if kind != "classification" and getattr(model.config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = (np.arange(LENGTH) > 3).astype(np.int64)[None].repeat(3, 0)
    return given


def run(pretrained, given):
    return jax.jit(pretrained.module.apply)({"params": pretrained.params}, **jax.tree.map(jnp.asarray, given))


def same(ours, theirs, mask=None):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    if mask is not None and ours.shape[:2] == mask.shape:
        ours, theirs = ours[mask.astype(bool)], theirs[mask.astype(bool)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()), rtol=0)
