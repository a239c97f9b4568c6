"""The recipes of docs/extending.md: each adds what it says, by the files and lines that it shows and no others."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fewshot_jax as fsj
from fewshot_jax.config_file import from_dict
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN, merged

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^<!-- (file|new|entry): (.+?) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {
    kind: [(said, code) for mark, said, code in _BLOCK.findall(PAGE) if mark == kind]
    for kind in ("file", "new", "entry")
}


def test_a_learner_and_a_source_from_outside_the_package_train(tmp_path, monkeypatch):
    for name, code in BLOCKS["file"]:
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sections = [yaml.safe_load(code) for code in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
    values = merged(RUN, outer={"steps": 2, "tasks": 2}, episodes={"within_group": False})
    values |= {"data": {}, "learner": {}}
    for section in sections:
        values = merged(values, **section)
    fsj.train(from_dict(values), tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    assert run.result()["steps"] == 2
    assert sum(map(len, run.labels().values())) == 15, "the classes of the source's options"


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the new files and the entries of the page, and nothing else."""
    home = tmp_path_factory.mktemp("extended")
    package = home / "fewshot_jax"
    shutil.copytree(ROOT / "fewshot_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in BLOCKS["new"]:
        assert not (package / name).exists()
        (package / name).write_text(code, encoding="utf-8")
    for said, code in BLOCKS["entry"]:
        table, name = said.split(" in ")
        imports = [line for line in code.splitlines() if line.startswith("from ")]
        lines = [line for line in code.splitlines() if line not in imports]
        text = (package / name).read_text(encoding="utf-8")
        begin = re.search(rf"^{table}\b.*= \{{.*$", text, re.MULTILINE)
        parts = (text[: begin.start()], *imports, begin[0], *lines, text[begin.end() + 1 :])
        (package / name).write_text("\n".join(parts), encoding="utf-8")
    return home


def test_each_recipe_is_one_file_one_record_and_one_line():
    assert len(BLOCKS["new"]) == 4
    tables = [said for said, _ in BLOCKS["entry"]]
    assert sum("config/" in said for said in tables) == 3, "a family has no record in the config"
    assert len(tables) == 3 + 4


PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
import fewshot_jax as fsj
from fewshot_jax.applications.table import build_application
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict
from fewshot_jax.evaluation.baselines import baselines_of
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params
from fewshot_jax.training.holdout import parts_of
from transformers import CamembertConfig

labelled, written = map(from_dict, json.load(open("configs.json")))
assert sum(map(len, build_application(labelled).labels().values())) == 16

assert main(["data", "validate", "articles.csv"]) == 0
fsj.train(written, "written", quiet=True)
application = build_application(written)
found = baselines_of(application, "test")(1, 2, 2)
assert all("chrF" in scores for scores in found.values()), found
assert [part.tested for part in parts_of(written, by="domain", folds=3)] != []

sizes = dict(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
config = CamembertConfig(max_position_embeddings=16, pad_token_id=1, **sizes)
module = build(config, "masked_lm", jnp.float32)
params = initial_params(module, jax.random.key(0))
fsj.save_pretrained("camembert", Pretrained(config=config, module=module, params=params, head="masked_lm"))
loaded = fsj.load_pretrained("camembert")
assert loaded.config.architectures == ["CamembertForMaskedLM"]
jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
print("all four")
"""


def test_the_recipes_inside_the_package_work(extended, tmp_path):
    labelled = {**RUN, "data": {"source": "commands", "options": {"verbs": 16}}}
    labelled["episodes"] = {**RUN["episodes"], "within_group": False}
    articles = [f"{paper},{paper} says w{i} w{i + 1},w{i}" for paper in "abc" for i in range(6)]
    (tmp_path / "articles.csv").write_text("\n".join(["task,article,summary", *articles]) + "\n", encoding="utf-8")
    written = {
        "application": "summarisation",
        "data": {"source": "files", "path": "articles.csv", "fractions": [0.34, 0.33, 0.33]},
        "tokenizer": {"kind": "word", "max_length": 8, "buckets": [8], "target_max_length": 4, "target_buckets": [4]},
        "model": {"width": 8, "layers": 1, "heads": 2, "mlp_width": 8},
        "learner": {"name": "fo_anil"},
        "inner": {"params": "mlp", "steps": 1},
        "outer": {"steps": 2, "tasks": 2},
        "episodes": {"shots": 1, "queries": 2},
        "evaluation": {"shots": [1], "queries": 2, "validation_episodes": 2, "tasks": 2, "at_end": False},
        "baselines": {"fine_tuning": False, "multi_task": False},
    }
    (tmp_path / "configs.json").write_text(json.dumps([labelled, written]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all four"
    assert RunDirectory(tmp_path / "written").result()["steps"] == 2
    assert "articles.csv: summarisation" in done.stdout, "what validate detects by its columns"
