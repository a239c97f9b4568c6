"""Pointing to an answer: the functions of an encoder whose head gives the two ends of a span.

The first position of a window stands for "the answer is not here", and so for questions that the text does not answer.

References:
    Devlin, Chang, Lee, Toutanova. BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding.
    NAACL 2019 (sections 4.2 and 4.3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fewshot_jax.applications.application import Functions, Score
from fewshot_jax.applications.text_to_text import exact_share
from fewshot_jax.models.adapters import NO_ADAPTER, Adapter
from fewshot_jax.models.transformer import Transformer, with_dropout
from fewshot_jax.types import Aux, Batch, Key, Params


class Span(NamedTuple):
    """What a model makes of ``B`` questions.

    Attributes:
        nats: ``[B]``, see `judge_spans`.
        window, start, end: ``[B]``, where the answer stands: the window and the positions of the first and last token
            in it; three zeros for no answer.
        exact: ``[B]`` bool: that is the span of the answer, or rightly no answer.
        ids: ``[B, 3]``, the three together, where they are to become texts; None elsewhere.
    """

    nats: jax.Array
    window: jax.Array
    start: jax.Array
    end: jax.Array
    exact: jax.Array
    ids: jax.Array | None = None


def check_windows(batch: Batch) -> None:
    """Check shapes; see `data.spans.window_batch`, here of one task."""
    chex.assert_rank([batch["input_ids"], batch["start"], batch["mask"]], [3, 2, 1])
    chex.assert_equal_shape([batch[name] for name in ("input_ids", "attention_mask", "context_mask")])
    chex.assert_equal_shape([batch["start"], batch["end"]])
    chex.assert_equal_shape([batch["answerable"], batch["mask"]])
    chex.assert_equal_shape_prefix([batch["input_ids"], batch["start"]], 2)
    chex.assert_equal_shape_prefix([batch["input_ids"], batch["mask"]], 1)


def span_logits(
    module: Transformer, params: Params, batch: Batch, dropout: Key | None = None
) -> tuple[jax.Array, jax.Array]:
    """Logits ``[B, W, L]`` of the start and of the end of the answer, minus infinity where it cannot be.

    Args:
        module: an encoder with a head of kind "span".
        params: of the module.
        batch: see `check_windows`.
        dropout: key of the dropout; None for none.
    """
    check_windows(batch)
    options = with_dropout(dropout)
    shape = batch["input_ids"].shape
    ids, mask, context = (
        batch[name].reshape(-1, shape[-1]) for name in ("input_ids", "attention_mask", "context_mask")
    )
    if module.shape.last.token_types > 1:  # the second of two texts, and the token that ends it
        options["token_type_ids"] = ((jnp.cumsum(context, axis=1) > 0) & mask.astype(bool)).astype(jnp.int32)
    output: Any = module.apply({"params": params}, ids, mask, **options)
    if output.start_logits is None:
        raise ValueError("this model has no head that points to a span")
    possible = context.astype(bool) | (jnp.arange(shape[-1]) == 0)[None]
    start, end = (jnp.where(possible, logits, -jnp.inf) for logits in (output.start_logits, output.end_logits))
    return start.reshape(shape), end.reshape(shape)


def best_span(
    start: jax.Array, end: jax.Array, context_mask: jax.Array, *, longest: int, threshold: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The most probable span of each question over all its windows: ``window, start, end``, each ``[B]``.

    The score of a span is the sum of its two logits. There is no answer, and all three are zero, unless the best
    span's exceeds that of the first position, the smallest over the windows, by the threshold (Devlin et al.,
    section 4.3, where logits are compared across windows too).

    Args:
        start, end: logits ``[B, W, L]``.
        context_mask: ``[B, W, L]``, where a span may be; no window has it at position 0.
        longest: most tokens of a span.
        threshold: in logits; a larger one answers fewer questions.
    """
    length, context = start.shape[-1], context_mask.astype(bool)
    ends = jnp.pad(jnp.where(context, end, -jnp.inf), ((0, 0), (0, 0), (0, longest - 1)), constant_values=-jnp.inf)
    wide = ends[..., jnp.arange(length)[:, None] + jnp.arange(longest)[None]]  # [B, W, L, longest]
    scores = (jnp.where(context, start, -jnp.inf)[..., None] + wide).reshape(len(start), -1)
    window, place = jnp.divmod(scores.argmax(1), length * longest)
    first, more = jnp.divmod(place, longest)
    nothing = jnp.where(context.any(-1), start[..., 0] + end[..., 0], jnp.inf).min(1)
    found = scores.max(1) > nothing + threshold
    return tuple(jnp.where(found, value, 0) for value in (window, first, first + more))  # type: ignore[return-value]


def judge_spans(start: jax.Array, end: jax.Array, batch: Batch, *, longest: int, threshold: float = 0.0) -> Span:
    """What logits ``[B, W, L]`` say of the questions.

    The nats of a question are the cross-entropy of the start plus that of the end, each over the context's tokens
    and the first position, in the mean over its windows: of those without the answer the first position is the
    target, and those in which it is cut do not count.
    """
    fixed = jax.lax.stop_gradient((start, end))
    window, first, last = best_span(*fixed, batch["context_mask"], longest=longest, threshold=threshold)
    label = jnp.stack([batch["start"], batch["end"]])
    real = label[0] >= 0
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(jnp.stack([start, end]), jnp.maximum(label, 0))
    nats = jnp.where(real, cross_entropy.sum(0), 0).sum(1) / jnp.maximum(real.sum(1), 1)
    here = jnp.take_along_axis(label, window[None, :, None], axis=2)[..., 0]
    right = (here[0] == first) & (here[1] == last)
    exact = jnp.where(first > 0, right, ~batch["answerable"].astype(bool))
    return Span(nats, window, first, last, exact)


def mean_question_nats(nats: jax.Array, batch: Batch) -> jax.Array:
    """Nats per question over the real items that have a window to judge."""
    weight = batch["mask"].astype(bool) & (batch["start"] >= 0).any(1)
    return jnp.where(weight, nats, 0).sum() / jnp.maximum(weight.sum(), 1)


NATS = Score(
    "nats per question",
    lambda span, episode: mean_question_nats(span.nats, episode.query),
    larger_is_better=False,
    percent=False,
)


def spans(
    module: Transformer,
    init_params: Callable[[Key], Params],
    *,
    longest: int,
    threshold: float = 0.0,
    dropout: bool = False,
    adapter: Adapter = NO_ADAPTER,
) -> Functions:
    """The functions of a model that points to answers.

    Args:
        module: an encoder with a head of kind "span".
        init_params: ``rng -> params``.
        longest: most tokens of an answer.
        threshold: see `best_span`.
        dropout: in the loss.
        adapter: what is added to the model, such as LoRA.
    """
    adapted = adapter.active

    def judged(params: Params, batch: Batch, dropout_key: Key | None) -> Span:
        with adapted():
            start, end = span_logits(module, params, batch, dropout_key)
        return judge_spans(start, end, batch, longest=longest, threshold=threshold)

    def output_fn(params: Params, batch: Batch, rng: Key) -> Span:
        del rng
        return judged(params, batch, None)

    def write_fn(params: Params, batch: Batch, rng: Key) -> Span:
        span = output_fn(params, batch, rng)
        return span._replace(ids=jnp.stack([span.window, span.start, span.end], axis=-1))

    def loss_fn(params: Params, batch: Batch, rng: Key) -> tuple[jax.Array, Aux]:
        """Mean nats per question over the real items, with ``exact_match``."""
        span = judged(params, batch, rng if dropout else None)
        return mean_question_nats(span.nats, batch), {"exact_match": exact_share(span.exact, batch["mask"])}

    return Functions(
        init_params=init_params, loss_fn=loss_fn, output_fn=output_fn, joint_loss_fn=loss_fn, write_fn=write_fn
    )
