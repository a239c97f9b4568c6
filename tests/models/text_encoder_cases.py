"""Small text encoders of our own, and what describes one: its initial parameters, a loss and its gradient.

text_encoder_golden.json holds the numbers of the separate encoder module that the package had before its text encoder
became a `Transformer`: a new run starts as it did then, and a run of that time goes on.
``python -m tests.models.text_encoder_cases`` writes the file again, for a change that is meant to start otherwise.
"""

import contextlib
import json
import tempfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.adaptation.classifier import load
from fewshot_jax.adaptation.saving import save_model
from fewshot_jax.applications.text_features import text_features
from fewshot_jax.config import Config, ModelConfig, TokenizerConfig
from fewshot_jax.data.tokenization import save_tokenizer, train_tokenizer
from fewshot_jax.models.lora import lora
from fewshot_jax.models.text_encoder import text_encoder

FILE = Path(__file__).with_name("text_encoder_golden.json")
VOCABULARY, MAX_LENGTH = 20, 9
SIZES = {"width": 8, "layers": 3, "heads": 2, "mlp_width": 12}
CASES = {
    "pre": {"norm": "pre"},
    "post": {"norm": "post"},
    "pre, context, n-grams": {"norm": "pre", "context_width": 3, "ngram_width": 4},
    "post, context, n-grams": {"norm": "post", "context_width": 3, "ngram_width": 4},
    "pre, LoRA, dropout": {"norm": "pre", "lora_rank": 2, "dropout": 0.5},
    "post, LoRA, dropout": {"norm": "post", "lora_rank": 2, "dropout": 0.5},
    "pre, bfloat16": {"norm": "pre", "compute_dtype": "bfloat16"},
}


def model_of(config):
    """The module of a case."""
    return text_features(config, text_encoder(config, vocab_size=VOCABULARY, max_length=MAX_LENGTH).transformer)


def batch_of(config):
    """Arguments of the module: ids, mask, and n-grams where it reads some."""
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(1, VOCABULARY, (3, 7)), np.arange(7)[None] < np.array([[7], [4], [1]])
    ngrams = rng.normal(size=(3, config.ngram_width)) if config.ngram_width else None
    return jnp.asarray(ids), jnp.asarray(mask), None if ngrams is None else jnp.asarray(ngrams, jnp.float32)


def described(case):
    """Of each leaf its shape and two sums of the initial numbers; a loss, and the norm of its gradient."""
    config = ModelConfig(**SIZES, **CASES[case])
    model, batch = model_of(config), batch_of(config)
    given = jnp.linspace(-1, 1, config.context_width) if config.context_width else None
    noise = {"deterministic": False, "rngs": {"dropout": jax.random.key(7)}} if config.dropout else {}
    with lora(rank=config.lora_rank).active() if config.lora_rank else contextlib.nullcontext():
        params = jax.jit(model.init)(jax.random.key(3), *batch)["params"]

        def loss(params, context):
            return jnp.sin(3 * model.apply({"params": params}, *batch, context=context, **noise)).sum()

        value, grads = jax.jit(jax.value_and_grad(loss))(params, given)
    return {
        "leaves": {
            path: [list(leaf.shape), float(leaf.sum()), float(jnp.abs(leaf).sum())]
            for path, leaf in sorted(flatten_dict(params, sep="/").items())
        },
        "loss": float(value),
        "gradient": float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))),
    }


def saved_probabilities(leaves, directory):
    """What a classifier predicts that is saved with the given names and shapes, and numbers that follow from these."""

    def filled(path, shape):
        return np.random.default_rng(zlib.crc32(path.encode())).normal(0, 0.4, shape).astype(np.float32)

    features = {path: filled(path, shape) for path, (shape, *_) in leaves.items()}
    adapted = {
        "features": unflatten_dict(features, sep="/"),
        "head": {"kernel": filled("head/kernel", (SIZES["width"], 2)), "bias": filled("head/bias", (2,))},
    }
    texts = ["please book two red tickets now", "then cancel my long lunch order", "print this"]
    tokenizer = train_tokenizer([*texts, "dogs"], kind="word", min_frequency=1)
    assert tokenizer.get_vocab_size() == VOCABULARY
    config = Config(
        model=ModelConfig(**SIZES, norm="pre"),
        tokenizer=TokenizerConfig(max_length=MAX_LENGTH, buckets=(MAX_LENGTH,)),
    )
    record = {"labels": ["one", "other"], "temperature": 1.0}
    save_model(directory, adapted, config, record, lambda path: save_tokenizer(tokenizer, path))
    return load(directory).predict_proba(texts).tolist()


def written(golden):
    """The numbers as JSON, a leaf a line."""
    cases = [f' "probabilities": {json.dumps(golden["probabilities"])}']
    for case, numbers in ((case, golden[case]) for case in CASES):
        leaves = ",\n".join(f"   {json.dumps(path)}: {json.dumps(leaf)}" for path, leaf in numbers["leaves"].items())
        rest = f'"loss": {numbers["loss"]},\n  "gradient": {numbers["gradient"]}'
        cases.append(f' {json.dumps(case)}: {{\n  "leaves": {{\n{leaves}\n  }},\n  {rest}\n }}')
    return "{\n" + ",\n".join(cases) + "\n}\n"


if __name__ == "__main__":
    found = {case: described(case) for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        found["probabilities"] = saved_probabilities(found["pre"]["leaves"], Path(folder) / "model")
    FILE.write_text(written(found), encoding="utf-8")
