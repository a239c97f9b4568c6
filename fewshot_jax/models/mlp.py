"""A multilayer perceptron, the smallest backbone."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with an activation between them: ``[..., D] -> [..., features[-1]]``.

    Attributes:
        features: the width of each layer, the last one being the outputs.
        activation: applied between layers, not after the last.
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.features):
            x = nn.Dense(width, name=f"dense_{index}")(x)
            if index < len(self.features) - 1:
                x = self.activation(x)
        return x
