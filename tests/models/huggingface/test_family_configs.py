"""Fields of a config that a family cannot follow are refused by their names; nothing is read."""

import json

import pytest

import fewshot_jax as fsj
from fewshot_jax.models.layer_kinds import LayerKind
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.positions import Rotary
from fewshot_jax.models.stack import StackShape
from tests.models.huggingface.tiny import tiny

CASES = {
    "gemma3": ({"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0 is not supported"),
    "gpt-neox": ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.4}}, "an even number of them"),
    "smollm3": ({"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries, expected one for each of the 3 layers"),
    "marian": ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False is not supported"),
    "marian-unscaled": ({"decoder_vocab_size": 41}, "decoder_vocab_size=41 is not supported, only 40"),
    "m2m-100": ({"tie_word_embeddings": False}, "tie_word_embeddings=False is not supported"),
    "llama": ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is not"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_field_that_a_family_cannot_follow_is_named(name, tmp_path):
    changes, message = CASES[name]
    fsj.save_pretrained(tmp_path, tiny(name, "causal_lm"))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(fsj.UserError, match=message):
        fsj.load_pretrained(tmp_path)


def test_layers_of_one_stack_rotate_the_same_share():
    kinds = (LayerKind(rotary=Rotary()), LayerKind(rotary=Rotary(share=0.5)))
    with pytest.raises(ValueError, match="rotate the same share"):
        StackShape(block=BlockShape(width=8, heads=2, mlp_width=8), layers=2, kinds=kinds, pattern=(0, 1))
    with pytest.raises(ValueError, match="parallel=True"):
        BlockShape(width=8, heads=2, mlp_width=8, order="post", parallel=True)
