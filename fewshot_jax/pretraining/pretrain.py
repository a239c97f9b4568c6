"""Pretraining: from a config and raw texts to a language model."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.config_file import read_config, to_dict
from fewshot_jax.data.pretraining.masking import TokenBatch
from fewshot_jax.data.pretraining.objectives import Questions, questions, vocabulary_of
from fewshot_jax.data.pretraining.pipeline import held_out_batches, read_ahead, training_batches
from fewshot_jax.errors import require
from fewshot_jax.models.huggingface.pretrained import Pretrained
from fewshot_jax.models.huggingface.save import save_pretrained
from fewshot_jax.models.sources.names import find_files
from fewshot_jax.parallel.processes import first_alone, is_first
from fewshot_jax.pretraining.corpus import (
    Corpus,
    Documents,
    documents_of,
    load_text_tokenizer,
    make_tokenizer,
    pack_corpus,
    read_corpus,
)
from fewshot_jax.pretraining.directory import PretrainingDirectory, resolve_paths
from fewshot_jax.pretraining.language_model import build_model, held_out_loss, language_model_grad, perplexity
from fewshot_jax.pretraining.utilisation import peak_flops, training_flops
from fewshot_jax.runs.checkpoints import Checkpoints
from fewshot_jax.runs.fit import Fit, even_mesh, fit
from fewshot_jax.runs.interruption import held
from fewshot_jax.runs.learning_curve import loss_curve
from fewshot_jax.runs.metrics import Speed, read_metrics
from fewshot_jax.runs.optimizer import clipped_adamw, learning_rate
from fewshot_jax.runs.state import first_state, run_keys
from fewshot_jax.runs.weights_and_biases import check_installed
from fewshot_jax.versions import versions


class HeldOutLoss(NamedTuple):
    """The checkpoint of the lowest loss on held-out documents is the best."""

    metric: str = "validation_loss"
    larger_is_better: bool = False


def pretrain(
    config: PretrainConfig | str | Path, run_dir: str | Path, *, quiet: bool = False, wandb: str | None = None
) -> dict[str, Any]:
    """Train a language model on raw texts; on an existing run directory of the same config, go on with it.

    Args:
        config: a `PretrainConfig`, or the path of a YAML file.
        run_dir: where the run's files go; see `pretraining.directory`. ``RUN/model`` is the trained model, for
            `load_pretrained` and for transformers.
        quiet: no progress.
        wandb: project on Weights & Biases that gets the metrics too; None for none.

    Returns:
        The contents of ``result.json``: ``validation_loss`` (nats per token) and ``validation_perplexity`` of the
        best checkpoint, ``best_step``, ``tokens_per_second``, ``mfu``, ``packing_efficiency`` and more.

    Raises:
        UserError: the texts, the tokenizer or the model cannot be used, the directory cannot be written, or the
            loss stopped being finite, or another process trains in the directory; the message names place and
            remedy.
        Terminated: the process was told to end (SIGTERM), and a checkpoint is saved.
    """
    if wandb is not None:
        check_installed(wandb)
    config = resolve_paths(config if isinstance(config, PretrainConfig) else read_config(config, PretrainConfig))
    if config.model.pretrained is not None:
        find_files(config.model.pretrained, weights=False)  # before a directory is made
    run = PretrainingDirectory(run_dir)
    with held(run, config):
        return _pretrain(config, run, quiet or not is_first(), wandb)


def _pretrain(config: PretrainConfig, run: PretrainingDirectory, quiet: bool, wandb: str | None) -> dict[str, Any]:
    if run.resumable() and (result := run.result()) is not None:
        if not quiet:
            print(f"{run.path}: the training of this run is finished", file=sys.stderr)
        return result
    documents: Documents | None = None
    if fresh := not run.resumable():
        with first_alone() as here:
            if here:
                documents = documents_of(config)
                run.start(config)
                make_tokenizer(config, documents, run)
    tokenizer = load_text_tokenizer(run.tokenizer, "tokenizer.path")
    where = config.tokenizer.path or config.model.pretrained or str(run.tokenizer)
    vocabulary = vocabulary_of(tokenizer, where)
    pretrained = build_model(config, vocabulary, tokenizer)
    vocabulary = vocabulary.within(pretrained.module.shape.vocab_size)
    # To the host, where the parameters before training do not take the device's memory.
    pretrained = dataclasses.replace(pretrained, params=jax.device_get(pretrained.params))
    start = pretrained.module.shape.start_id
    asked = questions(config, vocabulary, decoder_start=vocabulary.pad if start is None else start, where=where)
    corpus: Corpus | None = None
    if fresh:
        with first_alone():
            if documents is not None:
                corpus = pack_corpus(config, documents, tokenizer, asked, run, quiet=quiet)
                del documents
    if corpus is None:
        corpus = read_corpus(asked, run)
    result = _train(_Job(config, pretrained, corpus, asked), run, quiet=quiet, wandb=wandb)
    run.write("result.json", result)
    return result


class _Job(NamedTuple):
    """What a pretraining is made of."""

    config: PretrainConfig
    pretrained: Pretrained
    corpus: Corpus
    asked: Questions

    def initial_params(self) -> dict[str, Any]:
        """Return the parameters before training, a copy: the first step donates them."""
        return {"params": jax.tree.map(jnp.array, self.pretrained.params)}

    def held_out(self) -> Sequence[TokenBatch]:
        """Return the batches of held-out documents.

        Raises:
            UserError: no token of them is predicted.
        """
        config = self.config
        batches = held_out_batches(
            self.corpus.validation,
            self.asked.ask,
            sequences=config.batch.sequences,
            batches=config.evaluation.batches,
            seed=config.seed,
        )
        require(
            any(batch["weight"].any() for batch in batches),
            "the held-out documents are too short to predict a token of; give more text, raise "
            "corpus.validation_share, or lower batch.length",
        )
        return batches

    @property
    def tokens(self) -> float:
        """Real tokens of a batch, in the mean."""
        return self.config.batch.sequences * self.asked.packing.length * self.corpus.train.efficiency

    def flops(self) -> float:
        """Return the operations of a training step."""
        return training_flops(
            self.pretrained.module.shape,
            self.pretrained.params,
            sequences=self.config.batch.sequences,
            input=self.asked.input,
            target=self.asked.target,
            predicted=self.asked.predicted,
        )


def _train(job: _Job, run: PretrainingDirectory, *, quiet: bool, wandb: str | None) -> dict[str, Any]:
    """Train, draw the learning curve, write the model; return the result to be written."""
    fitted = _fit_of(job, quiet=quiet)
    result = fit(fitted, run, quiet=quiet, wandb=wandb)
    if is_first():
        loss_curve(run.metrics, run.learning_curve)
    checkpoints = Checkpoints(run.checkpoints, HeldOutLoss(), read_only=True)
    try:
        params = checkpoints.restore_local(result["best_step"], job.initial_params())["params"]
    finally:
        checkpoints.close()
    with first_alone() as here:
        if here:
            save_pretrained(run.model, dataclasses.replace(job.pretrained, params=params, path=run.tokenizer))
    rows = read_metrics(run.metrics)
    means = {
        name: float(np.mean(values)) if (values := [row[name] for row in rows if row.get(name) is not None]) else None
        for name in ("tokens_per_second", "mfu", "input_share")
    }
    loss = result["validation_loss"]  # the checkpoint's own: the log may have lost the line
    return {
        **result,
        "validation_perplexity": None if loss is None else perplexity(loss),
        **means,
        "peak_flops": peak_flops(fitted.mesh.size),
        "packing_efficiency": job.corpus.train.efficiency,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(job.pretrained.params)),
    }


def _fit_of(job: _Job, *, quiet: bool) -> Fit:
    """Describe a pretraining to `fit`."""
    config, module = job.config, job.pretrained.module
    batch, steps = config.batch, config.optimizer.steps
    mesh = even_mesh(batch.sequences, "batch.sequences", config.parallel, quiet=quiet)
    optimizer = clipped_adamw(config.optimizer)
    windows = training_batches(job.corpus.train, job.asked.ask, sequences=batch.sequences, seed=config.seed)
    flops, peak = job.flops(), peak_flops(mesh.size)

    def timing(speed: Speed | None, rate: float) -> dict[str, float | None]:
        return {
            "tokens_per_second": speed and job.tokens / speed.seconds,
            "mfu": speed and flops / speed.seconds / peak,
            "input_share": speed and speed.input_share,
            "packing_efficiency": job.corpus.train.efficiency,
        }

    return Fit(
        state=lambda: first_state(job.initial_params(), optimizer, run_keys(config.seed).train),
        grad=language_model_grad(module, dropout=config.model.dropout > 0),
        optimizer=optimizer,
        batches=lambda wanted: read_ahead(windows, wanted, workers=batch.workers),
        mesh=mesh,
        parallel=config.parallel,
        recovery=config.recovery,
        steps=steps,
        every=config.evaluation.every,
        rates=np.asarray(learning_rate(config.optimizer)(np.arange(steps))),
        validate=held_out_loss(module, job.held_out(), mesh),
        criterion=HeldOutLoss(),
        record={"config": to_dict(config), "versions": versions()},
        cause=_not_finite,
        remedy="Lower optimizer.rate or raise optimizer.warmup, and start again in another --run-dir",
        items=job.tokens,
        unit="tokens",
        title="pretraining",
        timing=timing,
    )


def _not_finite(metrics: dict[str, Any]) -> str:
    """Say what is not finite."""
    return f"{'the gradient' if np.isfinite(metrics['loss']) else 'the loss'} is not finite"
