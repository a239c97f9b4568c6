"""Every benchmark runs in small, says what it ran on, and refuses results that do not agree."""

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_scaling(tmp_path):
    _, rows = run("scaling", tmp_path / "out.json")
    assert [(row["varied"], row[row["varied"]]) for row in rows] == [("steps", 1), ("devices", 2)]
    assert all(row["temporary_bytes"] > 0 for row in rows)


@pytest.mark.slow
def test_compile_time(tmp_path):
    _, rows = run("compile_time", tmp_path / "out.json")
    assert [(row["layers"], row["cache"]) for row in rows] == [(1, "cold"), (1, "cached")]
    assert all(row["first_step_seconds"] > row["compile_seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_tuning(tmp_path):
    printed, rows = run("tuning", tmp_path / "out.json")
    assert [row["way"] for row in rows] == ["anew", "traced", "grid"]
    assert all(row["points"] == 4 and row["relative_error"] < 1e-3 for row in rows)
    assert rows[2]["ratio"] == rows[2]["again_ratio"] == 1
    assert "ratio to grid" in printed


def test_episode_sampling(tmp_path):
    printed, rows = run("episode_sampling", tmp_path / "out.json")
    assert [row["done"] for row in rows] == ["drawn", "gathered", "n-grams", "augmented"]
    for row in rows:
        items = row["ways"] * (row["shots"] + row["queries"])
        assert row["examples_per_second"] == pytest.approx(items * row["episodes_per_second"])
    assert "examples / s" in printed


def script(name):
    """A benchmark as a module, which imports what stands beside it."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
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


def packed(path, rows):
    """Lines, or rows as JSON lines, in a file of gzip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def lafand_mt(folder):
    for pair in ("en-hau", "en-yor"):
        for part in ("train", "dev", "test"):
            rows = [{"source": f"{pair} {part} {i}", "target": f"x {pair} {part}"} for i in range(3)]
            if (pair, part) == ("en-hau", "train"):  # both stand in what is held out
                rows += [{"source": "EN-YOR  train 1", "target": "y"}, {"source": "new", "target": "z en-hau"}]
            if (pair, part) == ("en-hau", "dev"):
                rows += [{"source": "b", "target": "Z  en-hau"}]
            packed(folder / pair / f"{part}.jsonl.gz", [*rows, {"source": "a", "target": "x" * 90}])


def multi30k(folder):
    for part in ("train", "val", "test_2016_flickr", "test_2018_flickr"):
        for language in ("en", "de", "fr", "cs"):
            packed(folder / f"{part}.{language}.gz", [f"{language} {part} {i}" for i in range(2)])


def xquad(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for language in ("en", "es", "hi", "ru", "de", "tr"):
        articles = [
            {
                "title": f"article {number}",
                "paragraphs": [
                    {
                        "context": f"context {number}",
                        "qas": [
                            {"question": f"{language} {i}", "answers": [{"text": "context", "answer_start": 0}]}
                            for i in range(20 if number == 5 else 21)
                        ],
                    }
                ],
            }
            for number in range(48)
        ]
        (folder / f"xquad.{language}.json").write_text(json.dumps({"data": articles}))


def sgd(folder):
    services = {"train": [["a"], ["b"]], "dev": [["a"], ["c"], ["a", "c"]], "test": [["b"], ["d"], ["c"], ["d", "a"]]}
    for part, of in services.items():
        turns = [{"speaker": "USER", "utterance": part}]
        packed(folder / f"{part}.jsonl.gz", [{"services": names, "turns": turns} for names in of])


@pytest.mark.parametrize(
    ("make", "tasks"),
    [
        (lafand_mt, {"train": {"en-hau"}, "validation": {"en-hau"}, "test": {"en-yor"}}),
        (multi30k, {"train": {"en-de", "en-fr"}, "validation": {"en-de", "en-fr"}, "test": {"en-cs"}}),
        (
            xquad,
            {
                "train": {
                    f"{language}: article {i}" for language in ("en", "es", "hi", "ru") for i in range(32) if i != 5
                },
                "validation": {f"de: article {i}" for i in range(32, 38)},
                "test": {f"tr: article {i}" for i in range(38, 48)},
            },
        ),
        (sgd, {"train": {"a", "b"}, "validation": {"c"}, "test": {"d"}}),
    ],
)
def test_what_is_tested_shares_no_text_with_what_is_trained_on(make, tasks, tmp_path):
    make(tmp_path / "data")
    module, name = script("prepare_tasks"), make.__name__
    counts = module.prepare(name, tmp_path / "data", tmp_path / "out")
    rows = {
        split: [json.loads(line) for line in (tmp_path / "out" / f"{split}.jsonl").read_text().splitlines()]
        for split in (*tasks, "corpus")
    }
    assert counts == {split: len(part) for split, part in rows.items()} and all(counts.values())
    for split, names in tasks.items():
        assert {row.get("task", "+".join(row.get("services", []))) for row in rows[split]} == names
    corpus = {row["text"] for row in rows["corpus"]}
    assert corpus == {text for row in rows["train"] for text in module.texts_of(row)}
    held_out = {text for split in ("validation", "test") for row in rows[split] for text in module.texts_of(row)}
    assert not {" ".join(text.casefold().split()) for text in corpus} & {text.casefold() for text in held_out}
    assert all(len(row.get("target", "")) <= 80 for split in tasks for row in rows[split])


def test_the_runs_of_a_writing_task_share_what_they_are_compared_on():
    module = script("stages")
    for name in ("dialogue", "question_answering", "translation"):
        config = module.config_of(name, 3, ["outer.steps=7"], None)
        assert (config.seed, config.outer.steps, config.data.path) == (3, 7, None)
        for other in (module.joint(config), module.in_context(config)):
            assert (other.evaluation, other.episodes, other.outer) == (config.evaluation, config.episodes, config.outer)
            assert not other.baselines.multi_task
        joint = module.joint(config)
        assert joint.baselines.fine_tuning and joint.baselines.steps == config.baselines.steps <= 5
        assert (joint.inner.optimizer, joint.inner.steps) == ("adam", 5)  # as the table fine-tunes
    assert module.config_of("sgd", 0, [], Path("folder")).data.path == "folder/sgd"


def test_stages_make_a_table_over_seeds_and_runs(tmp_path, capsys):
    module = script("stages")

    def result(learner, rows):
        exact = {row: {"5": {"mean": mean, "half_width": 0.5}} for row, mean in rows.items()}
        return {
            "learner": learner,
            "score": "nats per token",
            "episodes": 9,
            "nats_per_token": exact,
            "more": {"exact_match": {"scores": exact, "gain": {}}},
        }

    results = {
        f"world/{variant}/seed {seed}": result(learner, {row: mean + seed / 10 for row, mean in rows.items()})
        for seed in (0, 1)
        for variant, learner, rows in (
            ("learner", "maml", {"maml": 0.8, "multi-task, fine-tuned": 0.5, "untrained, fine-tuned": 0.3}),
            (
                "pretrained",
                "multi_task",
                {"multi_task": 0.1, "pretrained, fine-tuned": 0.4, "multi-task, fine-tuned": 0.6},
            ),
        )
    }
    results["world/metaicl/seed 1"] = result("metaicl", {"metaicl": 0.7})
    module.print_tables(results)
    _, _, table = capsys.readouterr().out.partition("exact match")
    rows = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2].strip() for line in table.splitlines()[1:]}
    # Two seeds 0.1 apart: Student's t of one degree of freedom, 12.7, times 0.1 / 2.
    assert rows["maml"] == "0.850 ± 0.635" and rows["pretrained, multi-task, fine-tuned"] == "0.650 ± 0.635"
    assert rows["maml - pretrained, fine-tuned"] == "+0.400 ± 0.000"
    assert rows["metaicl (1 of 2 seeds)"] == "0.700 ± 0.500"  # over episodes
    assert "maml - metaicl (1 of 2 seeds)" not in rows


def test_masked_words_and_intents_are_divided_apart(tmp_path):
    module = script("smlmt")
    books, intents = tmp_path / "books.jsonl", tmp_path / "intents"
    words = [
        first + second for first in "bdfgklmn" for second in ("ara", "ete", "ini", "oro", "usu", "alo", "emi", "ito")
    ]
    rng = np.random.default_rng(0)
    text = " ".join(f"The {' '.join(rng.choice(words, 8, replace=False))}." for _ in range(600))
    books.write_text(json.dumps({"text": text}) + "\n")
    intents.mkdir()
    for name in module.FILES:
        (intents / name).write_text(json.dumps({"text": "hello", "label": "a"}) + "\n")
    split = {"01": {"train": ["a"], "valid": ["b"], "test": ["c"]}}
    (intents / "protaugment_class_splits.json").write_text(json.dumps(split))
    module.prepare(books, intents, tmp_path / "out", words=5)
    divisions = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert len(divisions["books"]["train"]) == 5 and divisions["clinc150"]["train"] == ["clinc150/a"]
    for division in divisions.values():
        assert (division["validation"], division["test"]) == (["clinc150/b"], ["clinc150/c"])
    assert len((tmp_path / "out" / "clinc150.jsonl").read_text().splitlines()) == 3
