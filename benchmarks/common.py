"""What every benchmark shares: its problems, timing, tables and JSON."""

import argparse
import json
import platform
import re
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

import fewshot_jax as fsj
from fewshot_jax.algorithms.partition import leaf_path, merge, split
from fewshot_jax.atomic_write import write_text
from fewshot_jax.config import ModelConfig
from fewshot_jax.models.language_head import HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.lora import lora
from fewshot_jax.models.mlp import MLP
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.text_encoder import text_encoder
from fewshot_jax.models.transformer import ModelShape, Transformer
from fewshot_jax.versions import versions

MIB = 2**20


class Problem(NamedTuple):
    """A model, tasks for it and an inner loop.

    Attributes:
        loss_fn: of one task.
        params: a nested dict; what the inner loop adapts.
        episodes: ``[T, ...]``.
        forward_flops: operations of the matrix products of a forward pass over the support sets of all tasks.
    """

    loss_fn: Callable[..., Any]
    params: Any
    episodes: fsj.Episode
    forward_flops: float
    frozen: Any = None


def with_lora(problem: Problem, *, rank: int = 8, targets: str = "query|value") -> Problem:
    """The same classifier with LoRA and the head as inner parameters, everything else frozen.

    ``B`` does not start at zero, so that the comparison of meta-gradients sees every term.
    """
    loss_fn = problem.loss_fn

    def with_path(params: Any, batch: Any, rng: Any, *, frozen: Any) -> Any:
        with lora(rank=rank, targets=targets).active():
            return loss_fn(merge(params, frozen), batch, rng)

    leaves = {}
    for name, value in jax.tree_util.tree_leaves_with_path(problem.params):
        path = leaf_path(name)
        if re.search(rf"({targets})/kernel$", path):
            inputs, outputs = value.shape[1], int(np.prod(value.shape[2:]))
            rng = np.random.default_rng(zlib.crc32(path.encode()))
            make = lambda *shape, rng=rng: (0.05 * rng.normal(size=shape)).astype(np.float32)  # noqa: E731
            leaves[path.replace("kernel", "lora_a")] = make(value.shape[0], inputs, rank)
            leaves[path.replace("kernel", "lora_b")] = make(value.shape[0], rank, outputs)
    flat = {**flatten_dict(problem.params, sep="/"), **leaves}
    inner, frozen = split(unflatten_dict(flat, sep="/"), "lora_|head")
    return Problem(with_path, inner, problem.episodes, problem.forward_flops, frozen)


def named(tree: Any) -> dict[str, np.ndarray]:
    """Parameters by name as PyTorch would hold them: a matrix for each layer."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name, value = leaf_path(path), np.asarray(leaf)
        layers = [(name, value)]
        if "/blocks/" in name:
            layers = [(name.replace("/blocks/", f"/blocks/{i}/"), one) for i, one in enumerate(value)]
        for one, array in layers:
            if one.endswith(("query/kernel", "key/kernel", "value/kernel")):
                array = array.reshape(array.shape[0], -1)
            elif one.endswith("out/kernel"):
                array = array.reshape(-1, array.shape[-1])
            elif one.endswith("bias"):
                array = array.reshape(-1)
            arrays[one] = array
    return arrays


def inner_optimizer(name: str) -> optax.GradientTransformation:
    """SGD or Adam, the latter with the ``eps_root`` that a meta-gradient needs."""
    return {"sgd": optax.sgd(0.01), "adam": optax.adam(1e-3, eps_root=1e-8)}[name]


def _block_flops(tokens: int, length: int, width: int, layers: int) -> float:
    return 2.0 * tokens * layers * (12 * width**2 + 2 * length * width)


def decoder(*, layers: int, width: int, length: int, tasks: int, sequences: int, vocab: int = 256) -> Problem:
    """A causal language model: as many query as support sequences."""
    block = BlockShape(width=width, heads=max(1, width // 32), mlp_width=4 * width)
    stack = StackShape(
        block=block, layers=layers, causal=True, max_length=length, embedding_deviation=1.0, final_norm=True
    )
    head = HeadShape(kind="causal_lm", tied=False, bias=False)
    module = Transformer(ModelShape(vocab_size=vocab, decoder=stack, head=head))
    ids = jax.random.randint(jax.random.key(0), (2, tasks, sequences, length), 1, vocab)

    def loss_fn(params: Any, batch: Any, rng: Any) -> Any:
        logits = module.apply({"params": params}, batch["ids"]).logits
        nats = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["ids"][:, 1:])
        return nats.mean(), {}

    params = module.init(jax.random.key(1), ids[0, 0])["params"]
    tokens = tasks * sequences * length
    flops = _block_flops(tokens, length, width, layers) + 2.0 * tokens * width * vocab
    return Problem(loss_fn, params, fsj.Episode({"ids": ids[0]}, {"ids": ids[1]}), flops)


def classifier(
    *, layers: int, width: int, length: int, tasks: int, items: int, ways: int = 5, vocab: int = 1000
) -> Problem:
    """A BERT-like encoder (post-LayerNorm), the mean of its hidden states, a linear head; ``items`` texts a side."""
    sizes = ModelConfig(width=width, layers=layers, heads=max(1, width // 64), mlp_width=4 * width, norm="post")
    module = text_encoder(sizes, vocab_size=vocab, max_length=length)
    rng = np.random.default_rng(0)

    def side() -> dict[str, np.ndarray]:
        return {
            "ids": rng.integers(1, vocab, (tasks, items, length)).astype(np.int32),
            "label": np.tile(np.arange(items, dtype=np.int32) % ways, (tasks, 1)),
        }

    def loss_fn(params: Any, batch: Any, rng: Any) -> Any:
        hidden = module.apply({"params": params["encoder"]}, batch["ids"], jnp.ones_like(batch["ids"]))
        logits = hidden.mean(1) @ params["head"]["kernel"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    ids = jnp.ones((1, length), jnp.int32)
    params = {
        "encoder": module.init(jax.random.key(1), ids, ids)["params"],
        "head": {"kernel": 0.02 * jax.random.normal(jax.random.key(2), (width, ways))},
    }
    flops = _block_flops(tasks * items * length, length, width, layers)
    return Problem(loss_fn, params, fsj.Episode(side(), side()), flops)


def sinusoids(*, tasks: int, items: int, hidden: int = 40) -> Problem:
    """The regression of Finn et al. (ICML 2017, section 5.1): 1-40-40-1, sinusoids of random amplitude and phase."""
    module = MLP((hidden, hidden, 1))
    rng = np.random.default_rng(0)
    amplitude, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, np.pi, (tasks, 1, 1))

    def side() -> dict[str, np.ndarray]:
        x = rng.uniform(-5, 5, (tasks, items, 1))
        return {"x": x.astype(np.float32), "y": (amplitude * np.sin(x - phase)).astype(np.float32)}

    def loss_fn(params: Any, batch: Any, rng: Any) -> Any:
        return jnp.mean((module.apply({"params": params}, batch["x"]) - batch["y"]) ** 2), {}

    params = module.init(jax.random.key(1), jnp.ones((1, 1)))["params"]
    return Problem(loss_fn, params, fsj.Episode(side(), side()), 2.0 * tasks * items * (2 * hidden + hidden**2))


def compile_gradient(problem: Problem, learner: fsj.MetaLearner) -> tuple[Any, Callable[[], Any]]:
    """The compiled ``learner.grad``, and a call of it on the problem that waits for the result."""
    arguments = ({"params": problem.params}, jax.tree.map(jnp.asarray, problem.episodes), jax.random.key(2))
    keywords = {} if problem.frozen is None else {"frozen": jax.tree.map(jnp.asarray, problem.frozen)}
    compiled = jax.jit(learner.grad).lower(*arguments, **keywords).compile()
    return compiled, lambda: jax.block_until_ready(compiled(*arguments, **keywords))


def interleaved(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns so that a slow moment of the machine hits all."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def relative_error(given: Any, expected: Any) -> float:
    """Norm of the difference over the norm, over all leaves, in float64."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True)
    ]
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(b**2) for _, b in pairs)))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns: text to the left, numbers to the right."""

    def show(value: Any) -> str:
        return f"{value:,.2f}" if isinstance(value, float) else "-" if value is None else str(value)

    cells = [list(map(show, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in (list(head), *cells)
    )


def device() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    return {"device": str(jax.devices()[0]), "devices": jax.device_count(), "cores": os.cpu_count(), **versions()}


def arguments(description: str, name: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each, taking turns")
    parser.add_argument("--output", type=Path, default=Path(f"{name}.json"), help="where the JSON goes")
    return parser


def write(path: Path, options: argparse.Namespace, results: Any, **more: Any) -> None:
    """Write the results with device, versions, sizes and whatever else belongs to them."""
    sizes = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**device(), "python": platform.python_version(), **more, "options": sizes, "results": results}
    write_text(path, json.dumps(record, indent=2) + "\n")
    print(f"\n{json.dumps(device())}\nwritten to {path}")


MODELS: dict[str, Callable[..., Problem]] = {"classifier": classifier, "sinusoids": sinusoids, "decoder": decoder}
