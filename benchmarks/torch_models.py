"""The models of the comparison in PyTorch, on the same weights: parameters by the names that jax gives them."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

Params = dict[str, torch.Tensor]


def _dense(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, p[f"{name}/kernel"].T, p[f"{name}/bias"])


def _norm(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], p[f"{name}/bias"], 1e-6)


def _projection(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    """``x W + b``, and what LoRA adds if the layer has it."""
    y = _dense(p, name, x)
    if f"{name}/lora_a" in p:
        y = y + (x @ p[f"{name}/lora_a"]) @ p[f"{name}/lora_b"]
    return y


def classifier_loss(p: Params, batch: dict[str, torch.Tensor], layers: int, heads: int) -> torch.Tensor:
    """The post-LayerNorm encoder, the mean of its hidden states, a linear head, cross-entropy."""
    ids = batch["ids"]
    x = functional.embedding(ids, p["encoder/token_embedding/embedding"])
    x = x + p["encoder/position_embedding/embedding"][: ids.shape[1]]
    x = _norm(p, "encoder/embedding_norm", x)
    items, length, width = x.shape
    for layer in range(layers):
        name = f"encoder/blocks/{layer}"
        q, k, v = (
            _projection(p, f"{name}/attention/{part}", x).view(items, length, heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        # Written out: the fused kernels cannot be differentiated twice.
        weights = torch.softmax(q @ k.transpose(-1, -2) * (width // heads) ** -0.5, -1)
        y = (weights @ v).transpose(1, 2).reshape(items, length, width)
        x = _norm(p, f"{name}/attention_norm", x + _projection(p, f"{name}/attention/out", y))
        hidden = functional.gelu(_dense(p, f"{name}/mlp/up", x), approximate="tanh")
        x = _norm(p, f"{name}/mlp_norm", x + _dense(p, f"{name}/mlp/down", hidden))
    return functional.cross_entropy(x.mean(1) @ p["head/kernel"], batch["label"])


def sinusoid_loss(p: Params, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Two hidden layers with ReLU, mean squared error."""
    x = torch.relu(_dense(p, "dense_0", batch["x"]))
    x = torch.relu(_dense(p, "dense_1", x))
    return functional.mse_loss(_dense(p, "dense_2", x), batch["y"])


def tensors(arrays: dict[str, np.ndarray], device: str) -> dict[str, torch.Tensor]:
    """Numpy to torch, integers to int64."""
    return {
        name: torch.as_tensor(array.astype(np.int64) if array.dtype.kind == "i" else array, device=device)
        for name, array in arrays.items()
    }


class Model(torch.nn.Module):
    """The parameters as a module, for the libraries that replace a module's parameters."""

    def __init__(self, params: dict[str, torch.Tensor], loss: Any):
        super().__init__()
        self.loss, self.names = loss, list(params)
        for name, value in params.items():
            self.register_parameter(name.replace("/", "__"), torch.nn.Parameter(value.clone()))

    def forward(self, batch: dict[str, torch.Tensor], frozen: Params) -> torch.Tensor:
        return self.loss({**frozen, **{name: getattr(self, name.replace("/", "__")) for name in self.names}}, batch)
