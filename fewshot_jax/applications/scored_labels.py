"""Classification by a model that writes: the score of a class is the likelihood of its name."""

import jax
import jax.numpy as jnp

from fewshot_jax.algorithms.metric import ABSENT
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.text_to_text import READ, WRITTEN, Written
from fewshot_jax.types import Batch, Key, Params

CHOICES = ("choice_label", "choice_mask")  # ``[B, N, M]``, the names of an episode's classes, once for each item


def each_choice(batch: Batch) -> Batch:
    """The items of a batch with each of the ``N`` names as its target, ``[B N, ...]``: those of item 0 first."""
    items, names = batch[CHOICES[0]].shape[:2]
    repeated = {name: jnp.repeat(batch[name], names, axis=0) for name in (*READ, "mask")}
    targets = {name: batch[choice].reshape(items * names, -1) for name, choice in zip(WRITTEN, CHOICES, strict=True)}
    return {**repeated, **targets}


def scored_labels(functions: Functions, *, ways: int, per_token: bool = True) -> Functions:
    """Classification by the functions of a model that writes: logits of the classes from the names' likelihoods.

    Args:
        functions: of `text_to_text`.
        ways: names beside each item.
        per_token: divide a log-likelihood by the number of its tokens.
    """
    written_fn, join_one = functions.output_fn, functions.join_fn

    def join(support: Batch, query: Batch) -> Batch:
        assert join_one is not None
        return {**join_one(support, query), "choices": join_one(support, each_choice(query))}

    def output_fn(params: Params, batch: Batch, rng: Key) -> jax.Array:
        """Logits ``[B, N]``: nats, of a name or of the text, per token."""
        choices = batch["choices"] if "choices" in batch else each_choice(batch)
        written: Written = written_fn(params, choices, rng)
        score = -written.nats / jnp.maximum(written.tokens, 1) if per_token else -written.nats
        logits = score.reshape(-1, ways)
        return jnp.where(batch[CHOICES[1]].any(-1), logits, ABSENT)

    return functions._replace(output_fn=output_fn, write_fn=None, join_fn=None if join_one is None else join, ways=ways)
