"""The text encoder starts and computes as it always did, so that its runs, old and new, go on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fewshot_jax.models.heads import TextFeatures
from fewshot_jax.models.huggingface.fresh import new_module
from fewshot_jax.models.huggingface.pretrained import leaves_of
from fewshot_jax.models.text_encoder import TextEncoder
from tests.models.text_encoder_cases import CASES, FILE, SIZES, VOCABULARY, described, saved_probabilities

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_initial_parameters_features_and_gradient_are_those_recorded(case):
    now, then = described(case), GOLDEN[case]
    layout = {path: leaf[0] for path, leaf in then["leaves"].items()}
    assert {path: leaf[0] for path, leaf in now["leaves"].items()} == layout, (
        "the names in checkpoints and in patterns of configs"
    )
    for path, (_, *sums) in then["leaves"].items():
        np.testing.assert_allclose(now["leaves"][path][1:], sums, rtol=1e-5, atol=1e-5, err_msg=path)
    tolerance = 2e-2 if "bfloat16" in case else 2e-5
    assert now["loss"] == pytest.approx(then["loss"], rel=tolerance, abs=tolerance)
    assert now["gradient"] == pytest.approx(then["gradient"], rel=tolerance)


def test_a_classifier_that_was_saved_before_predicts_the_same(tmp_path):
    found = saved_probabilities(GOLDEN["pre"]["leaves"], tmp_path / "model")
    np.testing.assert_allclose(found, GOLDEN["probabilities"], rtol=0, atol=1e-6)


def test_a_pretrained_model_keeps_its_own_names_under_transformer():
    module = new_module("encoder", vocab_size=VOCABULARY, **SIZES)[1]
    model = TextFeatures(TextEncoder(module))
    ids = jnp.ones((1, 2), jnp.int32)
    params = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), ids, ids)["params"], sep="/")
    encoder = {path for path in params if path.startswith("encoder/")}
    assert encoder == {f"encoder/transformer/{path}" for path in leaves_of(module)}
    assert "encoder/transformer/encoder/blocks/attention/query/kernel" in encoder
