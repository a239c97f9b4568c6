"""Real texts as few-shot tasks: what is tested shares neither tasks nor texts with what is trained on.

    python benchmarks/prepare_tasks.py lafand_mt DATA/lafand_mt --output FOLDER/lafand_mt

writes train.jsonl, validation.jsonl and test.jsonl, for the config of that name, and corpus.jsonl, the texts of the
training tasks alone (``{"text"}``, sources and targets apart), for pretraining.

lafand_mt   a task is a pair of languages. Trained on seven pairs, validated on their development sentences, tested on
            English to Yoruba; of all, the pairs of at most 80 characters a side, which a small model reads whole.
            (Adelani et al., NAACL 2022)
multi30k    a task is the language that captions are translated into. Trained on German and French, tested on Czech,
            each with captions of its own. (Elliott et al., 2016)
xquad       a task is an article in a language, of at least 21 questions. Trained on 32 articles in English, Spanish,
            Hindi and Russian, validated on six others in German, tested on the last ones in Turkish. (Artetxe et al.,
            ACL 2020)
sgd         a task is a service. Validated and tested on dialogues of which no service is trained on, those of the test
            split not among the validation's either. (Rastogi et al., AAAI 2020)

Pairs of which a side recurs in a held-out split are left out.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
LONGEST = 80  # characters of a sentence of lafand_mt
FEWEST = 21  # questions of an article of xquad, for 16 shots and five queries
SPLITS = ("train", "validation", "test")


def lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


def lafand_mt(folder: Path) -> dict[str, Rows]:
    held_out = "en-yor"
    pairs = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != held_out)

    def rows(pair: str, part: str) -> Rows:
        found = [{**json.loads(line), "task": pair} for line in lines(folder / pair / f"{part}.jsonl.gz")]
        return [row for row in found if max(len(row["source"]), len(row["target"])) <= LONGEST]

    return {
        "train": [row for pair in pairs for row in rows(pair, "train")],
        "validation": [row for pair in pairs for row in rows(pair, "dev")],
        "test": rows(held_out, "train"),
    }


def multi30k(folder: Path) -> dict[str, Rows]:
    def rows(part: str, language: str) -> Rows:
        both = zip(*(lines(folder / f"{part}.{name}.gz") for name in ("en", language)), strict=True)
        return [
            {"source": english.strip(), "target": other.strip(), "task": f"en-{language}"} for english, other in both
        ]

    return {
        "train": [row for language in ("de", "fr") for row in rows("train", language)],
        "validation": [row for language in ("de", "fr") for row in rows("val", language)],
        "test": [row for part in ("test_2016_flickr", "test_2018_flickr") for row in rows(part, "cs")],
    }


def xquad(folder: Path) -> dict[str, Rows]:
    parts = {
        "train": (("en", "es", "hi", "ru"), slice(32)),
        "validation": (("de",), slice(32, 38)),
        "test": (("tr",), slice(38, None)),
    }
    return {
        split: [
            {"question": asked["question"], "context": paragraph["context"], "answers": asked["answers"], "task": task}
            for language in languages
            for article in json.loads((folder / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"][articles]
            if sum(len(paragraph["qas"]) for paragraph in article["paragraphs"]) >= FEWEST
            for task in [f"{language}: {article['title']}"]
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
        for split, (languages, articles) in parts.items()
    }


def sgd(folder: Path) -> dict[str, Rows]:
    rows, seen = {}, set[str]()
    for split, part in zip(SPLITS, ("train", "dev", "test"), strict=True):
        dialogues = [json.loads(line) for line in lines(folder / f"{part}.jsonl.gz")]
        rows[split] = [row for row in dialogues if not seen & set(row["services"])]
        seen |= {service for row in dialogues for service in row["services"]}
    return rows


READERS: dict[str, Callable[[Path], dict[str, Rows]]] = {
    reader.__name__: reader for reader in (lafand_mt, multi30k, xquad, sgd)
}


def sides(row: dict[str, Any]) -> set[str]:
    """Both texts of a pair, but for case and white space."""
    return {" ".join(row[side].casefold().split()) for side in ("source", "target")}


def texts_of(row: dict[str, Any]) -> list[str]:
    """What a row says, one text beside another."""
    if "turns" in row:
        return [turn["utterance"] for turn in row["turns"] if turn["utterance"]]
    return [row[field] for field in ("source", "target", "question", "context") if field in row]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(name: str, folder: Path, output: Path) -> dict[str, int]:
    """Write the files; returns the number of rows of each."""
    output.mkdir(parents=True, exist_ok=True)
    rows = READERS[name](folder)
    held_out = set[str]()
    for split in reversed(SPLITS):  # of pairs, what stands in a later split on either side
        if "source" in rows[split][0]:
            rows[split] = [row for row in rows[split] if not held_out & sides(row)]
            held_out |= {side for row in rows[split] for side in sides(row)}
    texts = dict.fromkeys(text for row in rows["train"] for text in texts_of(row))  # each once: a context has many
    files = {**rows, "corpus": [{"text": text} for text in texts]}
    for part, content in files.items():
        write(output / f"{part}.jsonl", content)
    return {part: len(content) for part, content in files.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(READERS))
    parser.add_argument("folder", type=Path, help="of the data set")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder}: no such folder")
    try:
        counts = prepare(arguments.name, arguments.folder, arguments.output)
    except FileNotFoundError as error:
        parser.error(f"{error.filename}: not there; give the folder of {arguments.name}")
    print(", ".join(f"{count:,} {part}" for part, count in counts.items()))
