"""Rotary positions of a GGUF file as ``rope_parameters`` of a config."""

import math
from typing import Any

import numpy as np

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import AGAIN, GGUFFile, quote
from fewshot_jax.models.gguf.metadata import integer, number, text
from fewshot_jax.models.gguf.stored_tensor import read_tensor
from fewshot_jax.models.positions import Rotary

FACTORS = "rope_freqs.weight"  # divides the frequencies; llama.cpp writes Llama 3's scaling so
_LOW, _HIGH = 1.0, 4.0  # of Llama 3.1 to 3.3


def rope_parameters(file: GGUFFile, prefix: str, features: int) -> dict[str, Any]:
    """The parameters of rotary positions.

    Args:
        file: whose metadata and factors are read.
        prefix: of the metadata's keys, the architecture.
        features: of an attention head, ``K``.

    Raises:
        UserError: the scaling is of a kind that is not here.
    """
    theta = number(file, f"{prefix}.rope.freq_base", 10_000.0)
    factor = number(file, f"{prefix}.rope.scaling.factor", number(file, f"{prefix}.rope.scale_linear", 1.0))
    kind = text(file, f"{prefix}.rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise UserError(
            f"{file.path}: {prefix}.rope.scaling.type={quote(kind)} is not supported, only none and linear. Take "
            "another model"
        )
    if FACTORS in file.tensors:
        return _of_factors(file, prefix, theta, features)
    if kind == "linear" and factor not in (0.0, 1.0):
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    return {"rope_type": "default", "rope_theta": theta}


def _of_factors(file: GGUFFile, prefix: str, theta: float, features: int) -> dict[str, Any]:
    """Llama 3's parameters where they give the file's factors, otherwise the factors themselves."""
    factors = read_tensor(file.tensors[FACTORS]).astype(np.float64).reshape(-1)
    if len(factors) != features // 2 or not (np.isfinite(factors) & (factors > 0)).all():
        raise UserError(f"{file.path}: {FACTORS}: expected {features // 2} positive numbers. {AGAIN}")
    plain, most = Rotary(theta=theta).frequencies(features).astype(np.float64), float(factors.max())
    for i in np.flatnonzero((factors > 1.0001) & (factors < most * 0.9999)):
        share = (1 / factors[i] - 1 / most) / (1 - 1 / most)
        original = round(2 * math.pi * (_LOW + share * (_HIGH - _LOW)) / plain[i])
        rotary = Rotary(theta=theta, kind="llama3", factor=most, low=_LOW, high=_HIGH, original=original)
        if np.allclose(rotary.frequencies(features) * factors, plain, rtol=1e-5, atol=0):
            return {
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": most,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": original,
            }
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "attention_factor": 1.0,
        "short_factor": factors.tolist(),
        "long_factor": factors.tolist(),
        "original_max_position_embeddings": integer(file, f"{prefix}.context_length"),
    }
