"""Every benchmark runs in small, says what it ran on, and refuses results that do not agree."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name, path, *arguments):
    """Run a benchmark in a process of its own, as a user does; its printed output and its JSON."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--output", str(path), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    assert record["device"]
    assert record["jax"]
    assert record["options"]["quick"]
    return done.stdout, record["results"]


def test_strategies(tmp_path):
    printed, rows = run("strategies", tmp_path / "out.json", "--picture", str(tmp_path / "front.png"))
    assert [row["strategy"] for row in rows] == ["first order", "reverse", "mixed (default)"]
    assert rows[0]["time_ratio"] == 1
    assert rows[2]["relative_error"] < 2e-5
    # 3 passes a step and a query of 3, both over as many texts; second order and its recomputation on top.
    assert [round(row["forward_passes"]) for row in rows] == [9, 21, 25]
    assert rows[2]["temporary_bytes"] < rows[1]["temporary_bytes"]
    assert "time ratio" in printed
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_scaling(tmp_path):
    _, rows = run("scaling", tmp_path / "out.json")
    assert [(row["varied"], row[row["varied"]]) for row in rows] == [("steps", 1), ("devices", 2)]
    assert all(row["temporary_bytes"] > 0 for row in rows)


def test_compile_time(tmp_path):
    _, rows = run("compile_time", tmp_path / "out.json")
    assert [(row["layers"], row["cache"]) for row in rows] == [(1, "cold"), (1, "cached")]
    assert all(row["first_step_seconds"] > row["compile_seconds"] > 0 for row in rows)


def test_episode_sampling(tmp_path):
    printed, rows = run("episode_sampling", tmp_path / "out.json")
    assert [row["done"] for row in rows] == ["drawn", "gathered", "n-grams", "augmented"]
    for row in rows:
        items = row["ways"] * (row["shots"] + row["queries"])
        assert row["examples_per_second"] == pytest.approx(items * row["episodes_per_second"])
    assert "examples / s" in printed


def script(name):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fewrel_marks_the_entities_and_keeps_the_test_relations_apart(tmp_path):
    tokens = ["Anna", "Berg", "was", "born", "in", "Oslo", "."]
    union = [
        {"relation_id": i, "relation": f"r{i}", "tokens": tokens, "head_pos": [0, 1], "tail_pos": [5]}
        for i in (1, 56, 57, 64, 65, 80)
    ]
    (tmp_path / "union80.jsonl").write_text("".join(json.dumps(item) + "\n" for item in union))
    held_out = {"P19": [{"tokens": tokens, "h": ["oslo", "Q1", [[5], [6]]], "t": ["anna berg", "Q2", [[1, 0]]]}]}
    (tmp_path / "val_wiki.json").write_text(json.dumps(held_out))
    classes = script("fewrel").convert(tmp_path, tmp_path / "out")
    assert classes == {"train": ["r1", "r56"], "validation": ["r57", "r64"], "test": ["P19"]}
    rows = [json.loads(line) for line in (tmp_path / "out" / "fewrel.jsonl").read_text().splitlines()]
    assert rows[0] == {"text": "@ Anna Berg @ was born in # Oslo # .", "label": "r1"}
    assert rows[-1] == {"text": "# Anna Berg # was born in @ Oslo @ .", "label": "P19"}
    assert {row["label"] for row in rows} == {"r1", "r56", "r57", "r64", "P19"}


def test_text_learners_have_one_encoder_and_one_budget():
    module = script("text_learners")
    for data, variants in module.VARIANTS.items():
        configs = {
            name: module.config_of(data, Path("somewhere"), variant, name)
            for variant in variants
            for name in (*module.LEARNERS, *module.SHORT)
        }
        first = next(iter(configs.values()))
        for name, config in configs.items():
            assert config.learner.name == name
            same = ("width", "layers", "heads", "mlp_width", "ngram_width")
            assert all(getattr(config.model, field) == getattr(first.model, field) for field in same)
            assert config.outer.tasks == first.outer.tasks
            assert config.outer.steps == (module.SHORT_STEPS if name in module.SHORT else module.STEPS)
            assert (config.episodes.ways, config.episodes.shots) == (first.episodes.ways, first.episodes.shots)


def test_text_learners_make_a_table(tmp_path):
    module = script("text_learners")
    names = ("clinc150/split 01", "clinc150/split 02", "fewrel/seed 0")
    results = {}
    for number, name in enumerate(names):
        row = {shots: {"mean": 0.5 + 0.1 * number, "half_width": 0.03} for shots in "15"}
        results[f"{name}/maml"] = {"accuracy": {"maml": row, "TF-IDF centroid": row}}
        results[f"{name}/multi_task"] = {"accuracy": {"multi_task": row, "TF-IDF centroid": row}}
    lines = module.table(results).splitlines()
    # The mean of 50 and 60 with the half-width of the mean of two independent ones, 3 / sqrt(2).
    assert re.split(r" *\| *", lines[2])[1:-1] == [
        "maml",
        "55.0 ± 2.1",
        "55.0 ± 2.1",
        "",
        "",
        "70.0 ± 3.0",
        "70.0 ± 3.0",
    ]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["maml", "TF-IDF centroid"]


@pytest.mark.parity
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "higher", "torchopt")),
    reason="needs the extra 'peers'",
)
def test_peers(tmp_path):
    _, results = run("peers", tmp_path / "out.json")
    for rows in results.values():
        assert {"torch", "torch.func vmap", "higher", "torchopt"} < {row["library"] for row in rows}
        assert all(row["relative_error"] < 1e-4 for row in rows)
