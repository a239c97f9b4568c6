"""Vectors of texts as the features of a classification."""

from collections.abc import Callable
from typing import cast

import chex
import jax
import jax.numpy as jnp

from fewshot_jax.applications.classification import Features
from fewshot_jax.config import ModelConfig
from fewshot_jax.models.adapters import NO_ADAPTER, Adapter
from fewshot_jax.models.heads import TextFeatures
from fewshot_jax.models.pooling import VectorShape
from fewshot_jax.models.text_encoder import TextEncoder
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Batch, Key, Params


def check_texts(batch: Batch) -> None:
    """Check the shapes of a batch: ``input_ids, attention_mask [B, L]``, and ``label, mask [B]`` where it has them."""
    chex.assert_rank([batch["input_ids"], batch["attention_mask"]], 2)
    chex.assert_equal_shape([batch["input_ids"], batch["attention_mask"]])
    labels = [batch[name] for name in ("label", "mask") if name in batch]
    chex.assert_rank(labels, 1)
    chex.assert_equal_shape_prefix([batch["input_ids"], *labels], 1)


def features_of_texts(
    model: TextFeatures,
    *,
    deterministic: bool = True,
    adapter: Adapter = NO_ADAPTER,
    pretrained: Callable[[Key], Params] | None = None,
    dense: Params | None = None,
) -> Features:
    """A text model as the features of a classification.

    Args:
        model: texts to feature vectors ``[B, D]``.
        deterministic: no dropout.
        adapter: what is added to the encoder, such as LoRA.
        pretrained: ``rng -> parameters`` of a pretrained encoder's transformer; None for initial ones.
        dense: parameters of the dense layers of a pretrained model's vectors; None or {} for initial ones, or for none.
    """
    adapted = adapter.active

    def init(rng: Key) -> Params:
        ids = jnp.zeros((1, 2), jnp.int32)
        ngrams = jnp.zeros((1, model.ngram_width)) if model.ngram_width else None
        with adapted():
            params = model.init(rng, ids, jnp.ones_like(ids), ngrams)["params"]
        if dense:
            params = {**params, "vectors": jax.tree.map(jnp.array, dense)}  # a copy, as of the other weights
        return params if pretrained is None else {**params, "encoder": {"transformer": pretrained(rng)}}

    def apply(params: Params, batch: Batch, rng: Key) -> jax.Array:
        check_texts(batch)
        with adapted():
            vectors = model.apply(
                {"params": params["features"]},
                batch["input_ids"],
                batch["attention_mask"],
                batch.get("ngrams"),
                context=params.get("context"),
                deterministic=deterministic,
                rngs={} if deterministic else {"dropout": rng},
            )
        return cast(jax.Array, vectors)

    return Features(init, apply, model.width, jnp.zeros(model.context_width))


def text_features(config: ModelConfig, module: Transformer, vectors: VectorShape | None = None) -> TextFeatures:
    """Put what makes one vector of a text on a transformer without a head; None for the mean of its hidden states."""
    return TextFeatures(
        TextEncoder(module),
        initial_scale=config.feature_scale,
        ngram_width=config.ngram_width,
        vectors=VectorShape() if vectors is None else vectors,
    )
