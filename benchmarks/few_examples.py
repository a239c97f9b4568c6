"""From 16 examples in each of 10 classes to a model: how good, and how long it takes.

    python benchmarks/few_examples.py --clinc150 DATA/clinc150

Each draw takes 10 of the 50 intents that the encoder of the package has not seen (the test intents of the first
ProtAugment split) and 16 training texts of each, runs 'fewshot-jax adapt default' and 'fewshot-jax predict' as a user
would, and compares what was claimed by cross-validation with the accuracy on all 30 test texts of each intent, of the
saved model and of both candidates. --start takes another encoder in the place of 'default'.

Times are those of whole processes, with the compilation cache as it is (--cold: with an empty one). Texts per second
are of `predict` on --texts texts of at most 16 tokens, after a first call. Results go into
benchmarks/results/few_examples.json.
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import table

import fewshot_jax as fsj
from fewshot_jax.models.sources.names import short_name
from fewshot_jax.versions import versions

ROOT = Path(__file__).parents[1]
CLASSES, SHOTS = 10, 16
MODELS = {"adapted": "adapted", "simple": "TF-IDF + logistic regression"}


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)


def draw(clinc150: Path, number: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Examples and test texts of one draw."""
    chooser = random.Random(number)
    intents = json.loads((clinc150 / "protaugment_class_splits.json").read_text(encoding="utf-8"))["01"]["test"]
    chosen = chooser.sample(sorted(intents), CLASSES)
    train, test = read(clinc150 / "train.jsonl"), read(clinc150 / "test.jsonl")
    examples = [row for one in chosen for row in chooser.sample([row for row in train if row["label"] == one], SHOTS)]
    return examples, [row for row in test if row["label"] in chosen]


def command(*arguments: object, **environment: str) -> tuple[str, float]:
    """The output of a command, and its seconds."""
    started = time.perf_counter()
    given = [sys.executable, "-m", "fewshot_jax", *map(str, arguments)]
    done = subprocess.run(given, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout, time.perf_counter() - started


def one_draw(clinc150: Path, number: int, folder: Path, cache: str, start: str) -> dict:
    examples, test = draw(clinc150, number)
    write(folder / "examples.csv", examples)
    environment = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    given = ["adapt", start, "--data", folder / "examples.csv", "--json", "--quiet"]
    out, seconds = command(*given, "--output", folder / "model", **environment)
    found = json.loads(out)
    accuracy = {}
    for name, row in MODELS.items():
        command(*given, "--output", folder / name, "--save", name, "--folds", 2, **environment)
        labels = [one.label for one in fsj.load(folder / name).predict([row["text"] for row in test])]
        accuracy[row] = float(np.mean([given == row["label"] for given, row in zip(labels, test, strict=True)]))
    return {
        "claimed": {name: scores["accuracy"] for name, scores in found["scores"].items()},
        "test": accuracy,
        "saved": found["saved"],
        "inner loop": found["inner loop"],
        "seconds": seconds,
    }


def texts_per_second(model: Path, texts: list[str], count: int) -> list[float]:
    loaded = fsj.load(model)
    many = (texts * (count // len(texts) + 1))[:count]
    loaded.predict(many)
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        loaded.predict(many)
        rates.append(count / (time.perf_counter() - started))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinc150", type=Path, required=True)
    parser.add_argument("--start", default="default", help="what is adapted: 'default', or a Hugging Face directory")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--texts", type=int, default=10_000, help="labelled to measure texts per second")
    parser.add_argument("--cold", action="store_true", help="an empty compilation cache for each draw")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/few_examples.json")
    parser.add_argument("--write", type=Path, help="write the examples of the first draw there, as a CSV file, and end")
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(arguments.write, draw(arguments.clinc150, 0)[0])
        return
    draws, rates = [], {}
    for number in range(arguments.draws):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            draws.append(one_draw(arguments.clinc150, number, folder, name if arguments.cold else "", arguments.start))
            print(json.dumps(draws[-1]), file=sys.stderr, flush=True)
            if not rates:
                texts = [row["text"] for row in draw(arguments.clinc150, number)[1]]
                short = [text for text in texts if len(text.split()) <= 12]  # at most 16 tokens, with few exceptions
                rates = {row: texts_per_second(folder / name, short, arguments.texts) for name, row in MODELS.items()}
    result = {
        "start": short_name(arguments.start),
        "draws": draws,
        "texts per second": rates,
        "cold": arguments.cold,
        "versions": versions(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    rows = []
    for name in MODELS.values():
        claimed = [100 * one["claimed"][name]["mean"] for one in draws]
        test = [100 * one["test"][name] for one in draws]
        rate = statistics.median(rates[name])
        rows.append([name, f"{np.mean(claimed):.1f}", f"{np.mean(test):.1f}", f"{rate:,.0f}"])
    names = list(MODELS.values())
    saved = [MODELS.get(one["saved"], one["saved"]) for one in draws]
    rows.append(
        [
            "the saved one",
            f"{100 * np.mean([one['claimed'][name]['mean'] for one, name in zip(draws, saved, strict=True)]):.1f}",
            f"{100 * np.mean([one['test'][name] for one, name in zip(draws, saved, strict=True)]):.1f}",
            "",
        ]
    )
    wrong = sum(
        one["test"][name] < max(one["test"][other] for other in names) for one, name in zip(draws, saved, strict=True)
    )
    print(table(["mean over draws", "cross-validated (%)", "test (%)", "texts/s"], rows))
    print(f"the saved model was not the better one on the test texts in {wrong} of {len(draws)} draws")
    seconds = [one["seconds"] for one in draws]
    print(f"adapt takes {statistics.median(seconds):.0f} s (median of {len(seconds)}; {max(seconds):.0f} s at most)")


if __name__ == "__main__":
    main()
