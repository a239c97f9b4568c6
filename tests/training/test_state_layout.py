"""A run of an earlier version goes on: its checkpoints have the same leaves, its data the same fingerprint."""

import hashlib
import json
from pathlib import Path

import jax
import pytest

from fewshot_jax.applications.table import build_application
from fewshot_jax.training.experiment import Experiment
from tests.small_run import RUN, config_of, merged

# What version 0.1.0 wrote before runs had an `Experiment`: for each config its state and the hash of its data.
GOLDEN = json.loads(Path(__file__).with_name("state_layout_golden.json").read_text(encoding="utf-8"))
PAIRS = {
    "tokenizer": {"kind": "word", "max_length": 32, "buckets": [32], "target_max_length": 8, "target_buckets": [8]},
    "episodes": {"shots": 2, "queries": 2},
    "evaluation": {"shots": [1], "queries": 2},
}
SIZES = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 16}
CASES = {
    "protonet, n-grams": merged(RUN, model={"ngram_width": 8}),
    "maml, post, LoRA": merged(
        RUN, model={"norm": "post", "lora_rank": 2}, learner={"name": "maml"}, outer={"params": "lora_|log_scale"}
    ),
    "cavia": merged(RUN, model={"context_width": 3}, learner={"name": "cavia"}),
    "maml++": merged(RUN, learner={"name": "maml_plus_plus"}),
    "multi-task": merged(RUN, learner={"name": "multi_task"}),
    "names of classes": merged(
        RUN,
        model={"classifier": "label_names"},
        learner={"name": "metaicl"},
        tokenizer={"target_max_length": 6, "target_buckets": [6]},
    ),
    "translation": {"application": "translation", **PAIRS, "model": {**SIZES, "architecture": "decoder"}},
    "spans": {"application": "question_answering", **PAIRS, "model": {**SIZES, "architecture": "encoder"}},
    "regression": {"application": "regression", "model": {"width": 8, "layers": 1}},
}


def leaves_of(state):
    """Each leaf of a state: its path, shape and dtype."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_the_state_and_the_data_of_a_run_are_those_of_earlier_versions(case):
    application = build_application(config_of(CASES[case]))
    leaves = leaves_of(Experiment(application).shapes)
    assert {"leaves": len(leaves), "state": digest(leaves), "data": digest(application.fingerprint())} == GOLDEN[case]
