"""Few-shot text classification.

One feature extractor serves every learner: gradient-based ones put a linear
head on it that starts at zero in each episode, metric-based ones compare its
vectors. The head is not among the meta-parameters, so a learner meta-trained
with five ways adapts to any number of classes.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.metric import ABSENT, masked_cross_entropy
from fewshot_jax.algorithms.proto_maml import prototype_head
from fewshot_jax.models.heads import TextFeatures, zero_head
from fewshot_jax.models.lora import lora
from fewshot_jax.types import Aux, Batch, Key, Params


def check_batch(batch: Batch, *, labelled: bool) -> None:
    """Check the shapes of a batch: ``input_ids, attention_mask [B, L]``, ``label, mask [B]``."""
    chex.assert_rank([batch["input_ids"], batch["attention_mask"]], 2)
    chex.assert_equal_shape([batch["input_ids"], batch["attention_mask"]])
    if labelled:
        chex.assert_rank([batch["label"], batch["mask"]], 1)
        chex.assert_equal_shape_prefix([batch["input_ids"], batch["label"], batch["mask"]], 1)


class TextClassification:
    """The functions of the application for one model and number of classes.

    Args:
        model: texts to feature vectors ``[B, D]``.
        ways: number of classes ``N`` of the head.
        deterministic: no dropout in ``loss_fn`` and ``embed_fn``.
        lora_rank: of the low-rank path beside the attention's queries and values; 0 for none.
    """

    def __init__(self, model: TextFeatures, *, ways: int, deterministic: bool = True, lora_rank: int = 0):
        self.model, self.ways, self.deterministic = model, ways, deterministic
        self._lora: Callable[[], Any] = functools.partial(lora, rank=lora_rank) if lora_rank else nullcontext

    def init_params(self, rng: Key) -> Params:
        """Fresh parameters ``{"features": ...}``; the head is not among them."""
        ids = jnp.zeros((1, 2), jnp.int32)
        ngrams = jnp.zeros((1, self.model.ngram_width)) if self.model.ngram_width else None
        with self._lora():
            return {"features": self.model.init(rng, ids, jnp.ones_like(ids), ngrams)["params"]}

    def embed_fn(self, params: Params, batch: Batch, rng: Key) -> jax.Array:
        """Feature vectors ``[B, D]``; ``params["context"]``, where a learner put one, is read."""
        check_batch(batch, labelled=False)
        with self._lora():
            features = self.model.apply(
                {"params": params["features"]},
                batch["input_ids"],
                batch["attention_mask"],
                batch.get("ngrams"),
                context=params.get("context"),
                deterministic=self.deterministic,
                rngs={} if self.deterministic else {"dropout": rng},
            )
        return cast(jax.Array, features)

    def zero_context(self) -> jax.Array:
        """The context that a task starts from."""
        return jnp.zeros(self.model.encoder.context_width)

    def prototype_start(self, params: Params, support: Batch, rng: Key) -> Params:
        """The starting point of an episode with the prototype classifier as head."""
        return {**params, "head": prototype_head(self.embed_fn(params, support, rng), support, self.ways)}

    def zero_start(self, params: Params, support: Batch, rng: Key) -> Params:
        """The starting point of an episode: the meta-parameters and a zero head.

        ``kernel [D, N]``, and a constant ``offset [N]`` that keeps classes without
        support items (an episode with fewer ways than the head) out of the softmax.
        """
        del rng
        dtype = params["features"]["log_scale"].dtype
        present = jnp.zeros(self.ways, bool).at[support["label"]].max(support["mask"].astype(bool))
        offset = jnp.where(present, 0, ABSENT).astype(dtype)
        return {**params, "head": {**zero_head(self.model.width, self.ways, dtype), "offset": offset}}

    def output_fn(self, params: Params, batch: Batch, rng: Key) -> jax.Array:
        """Logits ``[B, N]``, of a head with a ``bias`` or with an ``offset`` that stays."""
        head = params["head"]
        shift = head["bias"] if "bias" in head else jax.lax.stop_gradient(head["offset"])
        return self.embed_fn(params, batch, rng) @ head["kernel"] + shift[None, :]

    def loss_fn(self, params: Params, batch: Batch, rng: Key) -> tuple[jax.Array, Aux]:
        """Mean cross-entropy in nats over the real items, with ``accuracy``."""
        check_batch(batch, labelled=True)
        return masked_cross_entropy(self.output_fn(params, batch, rng), batch["label"], batch["mask"])
