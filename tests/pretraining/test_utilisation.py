"""Model FLOPs, against what XLA's matrix products add up to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.models.huggingface.fresh import new_model
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.planning.matmul_cost import matmul_flops
from fewshot_jax.pretraining import utilisation
from fewshot_jax.pretraining.utilisation import peak_flops, training_flops

SIZES = {"vocab_size": 96, "width": 32, "layers": 3, "heads": 2, "mlp_width": 48}


def counted(module, params, ids, **more):
    """FLOPs of the matrix products of a forward pass."""
    program = jax.jit(lambda params: module.apply({"params": params}, ids, **more).logits)
    return matmul_flops(program.lower(params).compile().as_text())


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_model_flops_are_three_forward_passes(architecture):
    model = new_model(architecture, **SIZES)
    ids = jnp.zeros((2, 24), jnp.int32)
    flops = training_flops(model.module.shape, model.params, sequences=2, input=24)
    assert flops == pytest.approx(3 * counted(model.module, model.params, ids), rel=0.02)


def test_model_flops_of_two_stacks():
    model = new_model("encoder_decoder", **SIZES)
    ids, target = jnp.zeros((2, 24), jnp.int32), jnp.zeros((2, 10), jnp.int32)
    flops = training_flops(model.module.shape, model.params, sequences=2, input=24, target=10)
    assert flops == pytest.approx(3 * counted(model.module, model.params, ids, decoder_input_ids=target), rel=0.02)


def test_model_flops_of_a_decoder_are_palm_s():
    """Appendix B: (6 N + 12 L H Q T) FLOPs a token, N without the embedding but for its use as the output layer."""
    model = new_model("decoder", **SIZES)
    matrices = sum(leaf.size for leaf in jax.tree.leaves(model.params) if leaf.ndim > 2)
    per_token = 6 * (matrices + 96 * 32) + 12 * 3 * 2 * 16 * 24
    assert training_flops(model.module.shape, model.params, sequences=5, input=24) == 5 * 24 * per_token


def test_a_head_that_reads_fewer_tokens_costs_less():
    model = new_model("encoder", **SIZES)
    body = Transformer(dataclasses.replace(model.module.shape, head=None))
    ids, predicted = jnp.zeros((2, 24), jnp.int32), 4

    def forward(params):
        x_BLD = body.apply({"params": params}, ids).last_hidden_state[:, :predicted]
        return model.module.apply({"params": params}, x_BLD, method="token_logits")

    counted = matmul_flops(jax.jit(forward).lower(model.params).compile().as_text())
    flops = training_flops(model.module.shape, model.params, sequences=2, input=24, predicted=predicted)
    assert flops == pytest.approx(3 * counted, rel=0.02)


def test_the_peak_of_a_known_accelerator_is_its_data_sheet_s(monkeypatch):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(utilisation.jax, "devices", lambda: [Device()])
    assert peak_flops(4) == 4 * 989e12


def test_the_peak_of_a_processor_is_measured_once():
    peak = peak_flops(8)
    assert np.isfinite(peak) and peak > 1e8
    assert peak_flops(1) == peak, "simulated devices share the cores"
