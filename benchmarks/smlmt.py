"""Meta-training without labels: SMLMT tasks from books, tested on the intents of CLINC150.

    python benchmarks/smlmt.py --books DATA/books/FILE --clinc150 DATA/clinc150 --runs RUNS

A class is a word of the books, its texts the sentences in which that word is masked (Bansal et al., EMNLP 2020).
A learner is trained on these classes alone, its checkpoint chosen on the validation intents, and tested on 600
episodes of the 50 test intents of the first ProtAugment split: once as trained on books, once on the 50 training
intents instead, with the same model, steps and episodes. Both data sets are read as one (data.sets), whose classes a
file divides. Results go into benchmarks/results/smlmt.json, from which the table is printed.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from common import table

import fewshot_jax as fsj
from fewshot_jax.atomic_write import write_text
from fewshot_jax.data.smlmt import smlmt_records
from fewshot_jax.data.sources import raw_texts

ROOT = Path(__file__).parents[1]
FILES = ("train.jsonl", "val.jsonl", "test.jsonl")


def prepare(books: Path, clinc150: Path, output: Path, words: int) -> None:
    """Write books.jsonl, clinc150.jsonl and classes.json, which has a division for each source of training."""
    output.mkdir(parents=True, exist_ok=True)
    records = smlmt_records(raw_texts(books, "text"), max_words=words, max_length=24)
    lines = [json.dumps({"text": one.text, "label": one.label}, ensure_ascii=False) for one in records]
    (output / "books.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    intents = "".join((clinc150 / name).read_text(encoding="utf-8") for name in FILES)
    (output / "clinc150.jsonl").write_text(intents, encoding="utf-8")
    split = json.loads((clinc150 / "protaugment_class_splits.json").read_text(encoding="utf-8"))["01"]
    of = {name: [f"clinc150/{label}" for label in split[name]] for name in split}
    train, validation, test = of["train"], of["valid"], of["test"]
    masked = [f"books/{word}" for word in sorted({one.label for one in records})]
    divisions = {
        name: {"train": classes, "validation": validation, "test": test}
        for name, classes in {"books": masked, "clinc150": train, "both": masked + train}.items()
    }
    (output / "classes.json").write_text(json.dumps(divisions, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, help="raw texts: a file or a folder; without it, print what is there")
    parser.add_argument("--clinc150", type=Path)
    parser.add_argument("--words", type=int, default=1000, help="classes made of the books")
    parser.add_argument("--steps", type=int, default=400, help="outer steps")
    parser.add_argument("--learners", nargs="+", default=["protonet"])
    parser.add_argument("--runs", type=Path, default=Path("runs/smlmt"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/smlmt.json")
    arguments = parser.parse_args()
    results = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else {}
    if arguments.books is not None:
        if arguments.clinc150 is None:
            parser.error("--clinc150: give its folder, on whose intents the runs are tested")
        folder = arguments.runs / "data"
        if not (folder / "classes.json").exists():
            prepare(arguments.books, arguments.clinc150, folder, arguments.words)
        for learner in arguments.learners:
            for source in ("books", "clinc150"):
                name = f"{learner}, trained on {source}"
                settings = {"steps": arguments.steps, "words": arguments.words}
                if name in results:
                    if results[name]["settings"] != settings:
                        parser.error(f"{name}: is there with {results[name]['settings']}; give another --output")
                    continue
                base = fsj.read_config(ROOT / "configs/clinc150_protonet.yaml")
                config = dataclasses.replace(
                    base,
                    data=dataclasses.replace(
                        base.data,
                        path=str(folder),
                        files=(),
                        sets=("books.jsonl", "clinc150.jsonl"),
                        class_split="classes.json",
                        class_split_name=source,
                    ),
                    episodes=dataclasses.replace(
                        base.episodes,  # a masked word is told by others, which must keep their meaning
                        token_remap=0.0 if source == "books" else base.episodes.token_remap,
                    ),
                    learner=dataclasses.replace(base.learner, name=learner),
                    outer=dataclasses.replace(base.outer, steps=arguments.steps),
                    evaluation=dataclasses.replace(base.evaluation, every=100, validation_episodes=100),
                    baselines=dataclasses.replace(base.baselines, multi_task=False, fine_tuning=False),
                )
                evaluation = fsj.train(config, arguments.runs / name.replace(" ", "_"))
                results[name] = {**evaluation.to_json(), "settings": settings}
                results[name].pop("confusion", None)
                write_text(arguments.output, json.dumps(results, indent=1) + "\n")
    body = {}
    for name, result in results.items():
        for row, of in result["accuracy"].items():
            shown = name if row == result["learner"] else f"{row}, {name.split(', ')[1]}" if "untrained" in row else row
            cells = [f"{100 * one['mean']:.1f} ± {100 * one['half_width']:.1f}" for one in of.values()]
            if row == "TF-IDF centroid":  # fitted on the texts of the training classes
                shown = f"{row}, fitted on {name.split(' ')[-1]}"
            body[shown] = [shown, *cells]
    if body:
        print(table(["accuracy (%), 5 ways", *(f"{k}-shot" for k in of)], list(body.values())))


if __name__ == "__main__":
    main()
