"""A transformer block, and a stack of them as one scanned block."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fewshot_jax import block_policy
from fewshot_jax.models.attention import Attention, AttentionInputs, Cache
from fewshot_jax.models.layers import BlockShape, FeedForward, norm_of


class PerLayer(NamedTuple):
    """What differs from layer to layer of a stack, ``[layers]`` each; None where nothing differs.

    Attributes:
        attention: int32, which of several attention inputs the layer has.
        bare: bool, the layer's attention reads its input without a norm.
    """

    attention: jax.Array | None = None
    bare: jax.Array | None = None


class Block(nn.Module):
    """One transformer block; a scan body, so it returns ``(x, kept)``."""

    shape: BlockShape
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        per_layer: PerLayer,
        cache: Cache | None,
        inputs: tuple[AttentionInputs, ...],
        memory: tuple[jax.Array | None, jax.Array] | None,
        slot: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, Cache | None]:
        """Compute the block.

        Args:
            x_BLD: its input.
            per_layer: this layer's entries, scalars.
            cache: this layer's keys and values; None to keep none.
            inputs: of the attention of each kind of layer; a single one serves all layers.
            memory: an encoder's output ``[B, M, D]`` (None: the cache has its keys) and its mask ``[B, M]``.
            slot: index in the cache of the first position of ``x_BLD``.
            deterministic: no dropout.
        """
        shape = self.shape
        drop = nn.Dropout(shape.dropout, deterministic=deterministic)
        own_inputs, which = inputs[0], per_layer.attention
        if which is not None:
            own_inputs = jax.tree.map(lambda *of_kinds: jax.lax.select_n(which, *of_kinds), *inputs)

        block_input_BLD = x_BLD

        def around(x_BLD: jax.Array, name: str, layer: Callable[[jax.Array], jax.Array]) -> jax.Array:
            """A sub-layer with its norm and the residual sum."""
            norm = norm_of(shape, f"{name}_norm", self.dtype)
            if shape.order == "post":
                return norm(x_BLD + drop(layer(x_BLD)))
            given = norm(block_input_BLD if shape.parallel else x_BLD)
            if per_layer.bare is not None and name == "attention":
                given = jnp.where(per_layer.bare, x_BLD, given)
            y_BLD = layer(given)
            if shape.order == "sandwich":
                y_BLD = norm_of(shape, f"{name}_out_norm", self.dtype)(y_BLD)
            return x_BLD + drop(y_BLD)

        kept: list[jax.Array] = []

        def attention(x_BLD: jax.Array) -> jax.Array:
            own = None if cache is None else (cache.key, cache.value)
            y_BLD, now = Attention(shape, self.dtype, name="attention")(x_BLD, own_inputs, kept=own, slot=slot)
            kept.extend(now)
            return y_BLD

        def cross_attention(x_BLD: jax.Array) -> jax.Array:
            assert memory is not None
            other_BMD, mask_BM = memory
            own = None
            if (
                other_BMD is None
                and cache is not None
                and cache.cross_key is not None
                and cache.cross_value is not None
            ):
                own = cache.cross_key, cache.cross_value
            layer = Attention(shape, self.dtype, name="cross_attention")
            y_BLD, now = layer(x_BLD, AttentionInputs(mask_BM[:, None]), other_BMD=other_BMD, kept=own)
            kept.extend(now)
            return y_BLD

        x_BLD = around(x_BLD, "attention", attention)
        if shape.cross:
            x_BLD = around(x_BLD, "cross_attention", cross_attention)
        x_BLD = around(x_BLD, "mlp", FeedForward(shape, self.dtype, name="mlp"))
        return x_BLD, None if cache is None else Cache(*kept)


def block_stack(shape: BlockShape, layers: int, dtype: jnp.dtype = jnp.float32) -> nn.Module:
    """``layers`` blocks as one block scanned over stacked parameters, called ``"blocks"``.

    Compile time does not grow with depth, and each block keeps for its backward
    pass what `block_policy` says. Called as a `Block` is, `PerLayer` and `Cache` with an axis of layers.
    """
    policy = block_policy.current_policy()
    block = Block if policy is None else nn.remat(Block, policy=policy, prevent_cse=False, static_argnums=(7,))
    stack = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
        length=layers,
    )
    return stack(shape, dtype, name="blocks")
