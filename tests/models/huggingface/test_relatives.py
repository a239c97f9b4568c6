"""A family that cannot be read is answered with the closest one that can."""

import json

import pytest

import fewshot_jax as fsj
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.relatives import _EXAMPLES, _RELATIVES, closest_family

KNOWN = FAMILIES.keys()


@pytest.mark.parametrize(
    ("unknown", "closest"),
    [
        *[("albert", "bert"), ("longformer", "roberta"), ("xlm", "xlm-roberta"), ("deberta", "deberta-v2")],
        *[("opt", "gpt2"), ("phi3", "llama"), ("mbart", "bart"), ("mixtral", "mistral"), ("umt5", "mt5")],
        *[("qwen4", "qwen3"), ("qwen2_new_moe", "qwen2"), ("mistral-9", "mistral")],  # another version of a name
        *[("xlm_roberta", "xlm-roberta"), ("Bert", "bert"), ("disttilbert", "distilbert")],  # another spelling
        *[("whisper", None), ("bark", None), ("hubert", None), ("t5x", None), ("", None)],
    ],
)
def test_the_closest_family_is_that_of_the_architecture_or_else_of_the_name(unknown, closest):
    assert closest_family(unknown, KNOWN) == closest


def test_every_relative_can_be_read():
    for family in _RELATIVES:
        assert family in KNOWN
        assert family in _EXAMPLES
    others = [name for names in _RELATIVES.values() for name in names.split()]
    assert len(set(others)) == len(others)
    assert not KNOWN & set(others)


def test_the_message_names_the_closest_family_a_model_of_it_and_all_families(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "xlm", "auto_map": {"AutoModel": "own.Model"}}))
    with pytest.raises(fsj.UserError) as error:
        fsj.load_pretrained(tmp_path)
    assert str(error.value) == (
        f"{file}: model_type 'xlm' is not supported; closest: 'xlm-roberta' (such as FacebookAI/xlm-roberta-base); "
        f"take a model of one of the families {', '.join(FAMILIES)}. Code that comes with a checkpoint is never run"
    )
