"""The model and the loss of pretraining."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fewshot_jax.config.pretraining import Objective, PretrainConfig
from fewshot_jax.data.pretraining.masking import TokenBatch
from fewshot_jax.data.pretraining.objectives import Vocabulary
from fewshot_jax.errors import UserError, require
from fewshot_jax.models.huggingface.fresh import LANGUAGE_MODEL, new_model
from fewshot_jax.models.huggingface.load import load_pretrained
from fewshot_jax.models.huggingface.pretrained import Pretrained
from fewshot_jax.models.huggingface.text_tokenizer import check_rows, padding_alone
from fewshot_jax.models.transformer import Architecture, Transformer, with_dropout
from fewshot_jax.parallel.mesh import host_values, shard_tasks
from fewshot_jax.runs.step import Metrics, StepGradient
from fewshot_jax.types import MetaParams, Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARCHITECTURES: dict[Objective, Architecture] = {
    "causal_lm": "decoder",
    "masked_lm": "encoder",
    "span_corruption": "encoder_decoder",
}


def build_model(config: PretrainConfig, vocabulary: Vocabulary, tokenizer: "PreTrainedTokenizerBase") -> Pretrained:
    """The model before the first step: a new one, or the one that is trained further.

    Raises:
        UserError: the given model cannot be read, is of another architecture, or has fewer tokens or positions
            than the tokenizer or `batch.length` needs.
    """
    model, architecture = config.model, ARCHITECTURES[config.objective]
    if model.pretrained is None:
        made = new_model(
            architecture,
            vocab_size=vocabulary.size,
            width=model.width,
            layers=model.layers,
            heads=model.heads,
            mlp_width=model.mlp_width,
            pad_id=vocabulary.pad,
            bos_id=vocabulary.end if vocabulary.start is None else vocabulary.start,
            eos_id=vocabulary.end,
            dropout=model.dropout,
            compute_dtype=model.compute_dtype,
            seed=config.seed,
        )
        # Positions have no limit, but readers of the config may go by its word.
        if hasattr(made.config, "max_position_embeddings"):
            made.config.max_position_embeddings = max(made.config.max_position_embeddings, config.batch.length)
        return made
    where = f"model.pretrained={model.pretrained}"
    pretrained = load_pretrained(
        model.pretrained, head=LANGUAGE_MODEL[architecture], compute_dtype=model.compute_dtype, seed=config.seed
    )
    shape = pretrained.module.shape
    if shape.architecture != architecture:
        fitting = next(objective for objective, name in ARCHITECTURES.items() if name == shape.architecture)
        raise UserError(
            f"{where}: this {pretrained.config.model_type} is no {architecture}, which objective={config.objective} "
            f"needs; set objective to {fitting}, or take another model"
        )
    check_rows(tokenizer.get_vocab(), shape.vocab_size, where, padding=padding_alone(tokenizer))
    longest = min((s.max_length for s in (shape.encoder, shape.decoder) if s and s.max_length), default=None)
    require(
        longest is None or config.batch.length <= longest,
        f"batch.length={config.batch.length}: the model of model.pretrained has {longest} positions; lower it",
    )
    return pretrained


TokenLoss = Callable[[Params, Any, jax.Array | None], tuple[jax.Array, jax.Array]]


def token_loss(module: Transformer) -> TokenLoss:
    """``(params, batch, key or None) -> (sum of the losses in nats, number of predicted tokens)``.

    The batch is what `data.pretraining.masking` makes; with a key there is dropout. Where few tokens are
    predicted, logits are computed of those alone.
    """
    body = Transformer(dataclasses.replace(module.shape, head=None), module.dtype)

    def loss(params: Params, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        more = with_dropout(key)
        if "decoder_input_ids" in batch:
            more["decoder_input_ids"] = batch["decoder_input_ids"]
        else:
            segment = batch["segment"]
            more |= {"attention_mask": segment > 0, "position_ids": batch["position"], "segment_ids": segment}
        output: Any = body.apply({"params": params}, batch["input_ids"], **more)
        x_BLD = output.last_hidden_state
        if "predicted" in batch:
            x_BLD = jnp.take_along_axis(x_BLD, batch["predicted"][:, :, None], axis=1)
        logits: Any = module.apply({"params": params}, x_BLD, method="token_logits")
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"])
        return jnp.sum(jnp.where(batch["weight"], nats, 0.0)), jnp.sum(batch["weight"])

    return loss


def language_model_grad(module: Transformer, *, dropout: bool) -> StepGradient:
    """The gradient of the mean loss of a batch's predicted tokens, with that ``loss``, for `guarded_step`."""
    loss_of = token_loss(module)

    def grad(meta_params: MetaParams, batch: Any, key: jax.Array, progress: jax.Array) -> tuple[MetaParams, Metrics]:
        def mean(params: Params) -> jax.Array:
            total, count = loss_of(params, batch, key if dropout else None)
            return total / jnp.maximum(count, 1)

        loss, grads = jax.value_and_grad(mean)(meta_params["params"])
        return {"params": grads}, {"loss": loss}

    return grad


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats per token, which stays finite."""
    return float(np.exp(min(loss, 700.0)))


def held_out_loss(
    module: Transformer, batches: Sequence[TokenBatch], mesh: Mesh
) -> Callable[[MetaParams], dict[str, float]]:
    """``meta_params -> validation_loss`` (nats per predicted token, all tokens alike) ``and validation_perplexity``."""
    loss_of = token_loss(module)
    compiled = jax.jit(lambda params, batch: loss_of(params, batch, None))

    def validate(meta_params: MetaParams) -> dict[str, float]:
        sums = [host_values(compiled(meta_params["params"], shard_tasks(batch, mesh))) for batch in batches]
        total, count = np.sum(np.asarray(sums, np.float64), axis=0)
        loss = float(total / max(count, 1))
        return {"validation_loss": loss, "validation_perplexity": perplexity(loss)}

    return validate
