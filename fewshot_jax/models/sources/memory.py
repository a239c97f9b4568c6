"""What it takes to adapt a model by LoRA, read from the compiled program; no weights are read or made."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.models.huggingface.pretrained import initial_params
from fewshot_jax.models.lora import A, B, lora
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Params

RANK, TEXTS, TOKENS = 8, 4, 128  # of the program that is measured


def tokens_of(module: Transformer) -> int:
    """Return the tokens of a text in the program: fewer than `TOKENS` where the model has fewer positions."""
    stacks = (module.shape.encoder, module.shape.decoder)
    return min([TOKENS, *(stack.max_length for stack in stacks if stack and stack.max_length)])


def bytes_to_adapt(module: Transformer) -> int:
    """Bytes that one gradient step on LoRA of rank 8 takes: 4 texts of 128 tokens, float32 weights, Adam's two moments.

    Queries and values of all layers have LoRA; the loss is that of the model's own output, whatever it is. The
    figure holds for the device that jax computes on here.

    Args:
        module: of the model.
    """
    adapter = lora(rank=RANK)
    with adapter.active():
        shapes = jax.eval_shape(functools.partial(initial_params, module), jax.random.key(0))
    flat = flatten_dict(shapes)
    small = {path: leaf for path, leaf in flat.items() if path[-1] in (A, B)}
    trained, frozen = unflatten_dict(small), unflatten_dict({path: flat[path] for path in flat.keys() - small.keys()})
    ids = jax.ShapeDtypeStruct((TEXTS, tokens_of(module)), jnp.int32)
    apply = adapter.bind(module)
    both = module.shape.encoder is not None and module.shape.decoder is not None

    def loss(trained: Params, frozen: Params, ids: jax.Array) -> jax.Array:
        more: dict[str, Any] = {"decoder_input_ids": ids} if both else {}
        out = apply(trained, frozen, ids, jnp.ones_like(ids), **more)
        values = out.last_hidden_state if out.logits is None else jax.nn.log_softmax(out.logits)[..., 0]
        return jnp.mean(values**2)

    compiled = jax.jit(jax.grad(loss)).lower(trained, frozen, ids).compile()
    memory: Any = compiled.memory_analysis()
    moments = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in small.values())
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes + moments
