"""Bottleneck adapters: two small dense layers after others, without editing the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import flax.linen as nn
import jax

from fewshot_jax.models.adapters import Adapter, checked_pattern
from fewshot_jax.models.dense import changed

_active = jax.make_user_context(None)  # a part of jit's cache key


def bottleneck(*, width: int, targets: str = "attention/out|mlp/down") -> Adapter:
    """Put two small dense layers after some dense layers of a model.

    The output ``y`` of each layer whose path matches becomes ``y + gelu(y D + d) U + u``. ``U`` and ``u`` start
    at zero, so a new adapter changes nothing. The leaves lie beside the layer's kernel:
    ``bottleneck_down [out, width]``, ``bottleneck_up [width, out]`` and their biases.

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
    pattern = checked_pattern(targets, "targets")

    def change(module: nn.Module, x: jax.Array, y: jax.Array, param: Callable[..., jax.Array]) -> jax.Array:
        def dense(name: str, x: jax.Array, start: Callable[..., jax.Array], outputs: int) -> jax.Array:
            kernel = param(f"bottleneck_{name}", start, (x.shape[-1], outputs))
            bias = param(f"bottleneck_{name}_bias", nn.initializers.zeros, (outputs,))
            return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + bias.shape)

        hidden = nn.gelu(dense("down", y, nn.initializers.lecun_normal(), width))
        return y + dense("up", hidden, nn.initializers.zeros, y.shape[-1])

    @contextmanager
    def active() -> Iterator[None]:
        with _active((width, targets)), changed(pattern, change):
            yield

    return Adapter(f"bottleneck(width={width}, targets={targets!r})", "bottleneck_", active)
