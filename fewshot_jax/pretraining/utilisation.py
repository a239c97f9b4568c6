"""How much of a device's arithmetic a training step uses: model-FLOP utilisation (MFU).

``MFU = model FLOPs of a step / (seconds of a step * peak FLOPs a second)``. Model FLOPs are those that the
mathematics asks for, not what a program does: six for each parameter of a matrix product and token (two forward,
four backward), and ``12 * layers * heads * K * L`` a token for attention to ``L`` tokens, whether or not a mask
hides some of them.

References:
    Chowdhery et al. PaLM: Scaling Language Modeling with Pathways. JMLR 2023 (appendix B).
"""

import functools
import time

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape
from fewshot_jax.types import Params

# Dense bfloat16 (float16 where there is none) FLOPs a second by the start of jax's device_kind: the makers' data
# sheets. The first that fits counts.
_PEAKS = {
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A10": 125e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}
_SIZE, _REPEATS = 2048, 3


def peak_flops(devices: int) -> float:
    """FLOPs a second of so many devices; of a kind that is not in the table, the rate of a large matrix product.

    Simulated devices of a CPU share its cores, so they count as one.
    """
    kind = jax.devices()[0].device_kind
    known = next((peak for name, peak in _PEAKS.items() if kind.startswith(name)), None)
    if known is not None:
        return devices * known
    return _measured() * (1 if jax.default_backend() == "cpu" else devices)


@functools.cache
def _measured() -> float:
    """FLOPs a second of one float32 matrix product on the default device, the best of a few."""
    matrix = jnp.ones((_SIZE, _SIZE))
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * _SIZE**3 / best


def training_flops(
    shape: ModelShape, params: Params, *, sequences: int, input: int, target: int = 0, predicted: int = 0
) -> float:
    """Model FLOPs of a training step.

    Args:
        shape: of the model.
        params: its parameters, or their shapes.
        sequences: in a batch.
        input: tokens of a sequence that the first stack reads.
        target: tokens that the decoder of two stacks reads.
        predicted: tokens that the head reads; 0 for all.
    """
    last = target or input
    predicted = predicted or last
    per_sequence = 0.0
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.endswith("kernel"):
            of_memory = path.startswith("encoder/") or "cross_attention/key" in path or "cross_attention/value" in path
            tokens = predicted if path.startswith("head/") else input if of_memory else last
            per_sequence += 6.0 * leaf.size * tokens
        elif path == "token_embedding/embedding" and shape.head is not None and shape.head.tied:
            per_sequence += 6.0 * leaf.size * predicted

    def attention(stack: StackShape, queries: int, keys: int) -> float:
        return 12.0 * stack.layers * stack.block.heads * stack.block.features_of_head * queries * keys

    if shape.encoder is not None:
        per_sequence += attention(shape.encoder, input, input)
    if shape.decoder is not None:
        per_sequence += attention(shape.decoder, last, last)
        if shape.encoder is not None:
            per_sequence += attention(shape.decoder, last, input)
    return sequences * per_sequence
