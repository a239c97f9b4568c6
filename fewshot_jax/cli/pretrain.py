"""``fewshot-jax pretrain CONFIG --run-dir RUN``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fewshot_jax.cli.arguments import ProcessArguments, parse_run, print_json, quietly, resumable
from fewshot_jax.config.pretraining import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Arguments(ProcessArguments):
    """Train a language model on raw texts; RUN/model is the result, as transformers reads it.

    On an existing run directory of the same config, the run goes on where it stopped.

    Attributes:
        config: YAML file; any of its fields can be overridden, as in --corpus.path texts.jsonl.
        run_dir: directory for the config, the packed texts, checkpoints, metrics and model of the run.
        quiet: print the result alone, no progress and no notes.
        wandb: project on Weights & Biases that gets the metrics too (needs the package wandb).
        json: print the result as JSON.
        settings: the fields of the config.
    """

    config: tyro.conf.Positional[Path]
    run_dir: Path
    quiet: bool = False
    wandb: str | None = None
    json: bool = False
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(default_factory=PretrainConfig)


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    parsed = parse_run(Arguments, "pretrain", arguments, PretrainConfig)
    from fewshot_jax.parallel.processes import is_first
    from fewshot_jax.pretraining.pretrain import pretrain

    parsed.join()
    with resumable(), quietly(parsed.quiet):
        result = pretrain(parsed.settings, parsed.run_dir, quiet=parsed.quiet, wandb=parsed.wandb)
    if not is_first():
        return
    if parsed.json:
        print_json(result)
        return
    speed, mfu = result.get("tokens_per_second"), result.get("mfu")
    measured = "" if speed is None or mfu is None else f"; {speed:,.0f} tokens/s, {mfu:.1%} model-FLOP utilisation"
    loss, perplexity = result.get("validation_loss"), result.get("validation_perplexity")
    judged = (
        "its loss on held-out documents is not finite"
        if loss is None or perplexity is None
        else f"{loss:.3f} nats per token on held-out documents (perplexity {perplexity:.1f})"
    )
    print(f"{parsed.run_dir / 'model'}: {judged} at step {result.get('best_step')}{measured}")
