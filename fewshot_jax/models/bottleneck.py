"""Bottleneck adapters: two small dense layers after others, without editing the model."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax

from fewshot_jax.models.adapters import Adapter, Addition, checked_pattern
from fewshot_jax.models.dense import Param


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Addition):
    """What `bottleneck` adds; its arguments."""

    width: int
    targets: str
    order: ClassVar[int] = 1
    leaves: ClassVar[str] = "bottleneck_(down|up)(_bias)?"

    def misfit(self, layer: str, leaf: str, shape: tuple[int, ...]) -> str | None:
        width = {"bottleneck_down": shape[-1:], "bottleneck_down_bias": shape[-1:], "bottleneck_up": shape[-2:-1]}
        if width.get(leaf, (self.width,)) != (self.width,):
            return f"shape {shape}, expected width {self.width}"
        return None if re.search(self.targets, layer) else "not one of its targets"

    def change(self, path: str, x: jax.Array, y: jax.Array, param: Param) -> jax.Array:
        if not re.search(self.targets, path):
            return y

        def dense(name: str, x: jax.Array, start: Callable[..., jax.Array], outputs: int) -> jax.Array:
            kernel = param(f"bottleneck_{name}", start, (x.shape[-1], outputs))
            bias = param(f"bottleneck_{name}_bias", nn.initializers.zeros, (outputs,))
            return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + bias.shape)

        hidden = nn.gelu(dense("down", y, nn.initializers.lecun_normal(), self.width))
        return y + dense("up", hidden, nn.initializers.zeros, y.shape[-1])


def bottleneck(*, width: int, targets: str = "attention/out|mlp/down") -> Adapter:
    """Put two small dense layers after some dense layers of a model.

    The output ``y`` of each layer whose path matches becomes ``y + gelu(y D + d) U + u``; with LoRA in the same
    layer, ``y`` has its change. ``U`` and ``u`` start at zero, so a new adapter changes nothing. The leaves lie
    beside the layer's kernel: ``bottleneck_down [out, width]``, ``bottleneck_up [width, out]`` and their biases.

    Args:
        width: of the bottleneck.
        targets: regular expression searched in the layer's path. By default the last layers of attention and
            feed-forward blocks, before their residual sum (Houlsby et al., figure 2); ``"mlp/down"`` for
            those after the feed-forward layers alone (Pfeiffer et al., EACL 2021).

    Raises:
        ValueError: a hyperparameter is out of range.

    References:
        Houlsby et al. Parameter-Efficient Transfer Learning for NLP. ICML 2019 (section 2.1).
    """
    if width < 1:
        raise ValueError(f"width={width}: expected at least 1")
    added = Bottleneck(width=width, targets=checked_pattern(targets, "targets"))
    return Adapter(f"bottleneck(width={width}, targets={targets!r})", (added,))
