"""FewRel as labelled texts: the two entities of a sentence marked, classes split 56 / 8 / 16.

    python benchmarks/fewrel.py DATA/fewrel --output FOLDER

writes FOLDER/fewrel.jsonl ({"text", "label"}) and FOLDER/classes.json, for configs/fewrel.yaml. Training and
validation relations are those numbered 1 to 64 in union80.jsonl, the last eight for validation; the test relations
are the 16 of val_wiki.json. Relations 65 to 80 of union80.jsonl are the same 16 and are left out.

Entities are marked "@ head @" and "# tail #", as Zhou and Chen do (An Improved Baseline for Sentence-level Relation
Extraction, AACL 2022, section 3.1: the punctuation of a typed entity marker, here without the types).
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

TRAINED, VALIDATION = range(1, 57), range(57, 65)


def marked(tokens: list[str], head: Iterable[int], tail: Iterable[int]) -> str:
    """The sentence with both entities marked; positions are token numbers."""
    sides = {"@": sorted(head), "#": sorted(tail)}
    words = []
    for position, token in enumerate(tokens):
        words += [mark for mark, places in sides.items() if position == places[0]]
        words.append(token)
        words += [mark for mark, places in sides.items() if position == places[-1]]
    return " ".join(words)


def convert(folder: Path, output: Path) -> dict[str, list[str]]:
    """Write both files; returns the classes of each split."""
    rows, classes = [], {"train": {}, "validation": {}, "test": {}}  # dicts keep the order of first sight
    for line in (folder / "union80.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        split = next(
            (s for s, ids in (("train", TRAINED), ("validation", VALIDATION)) if item["relation_id"] in ids), None
        )
        if split:
            classes[split][item["relation"]] = None
            text = marked(item["tokens"], item["head_pos"], item["tail_pos"])
            rows.append({"text": text, "label": item["relation"]})
    for relation, items in json.loads((folder / "val_wiki.json").read_text(encoding="utf-8")).items():
        classes["test"][relation] = None
        for item in items:  # h and t: [name, id, [positions of each mention]]
            text = marked(item["tokens"], item["h"][2][0], item["t"][2][0])
            rows.append({"text": text, "label": relation})
    output.mkdir(parents=True, exist_ok=True)
    (output / "fewrel.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {split: list(names) for split, names in classes.items()}
    (output / "classes.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds union80.jsonl and val_wiki.json")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    for name in ("union80.jsonl", "val_wiki.json"):
        if not (arguments.folder / name).is_file():
            parser.error(f"{arguments.folder}: holds no {name}; give the folder of FewRel")
    for split, names in convert(arguments.folder, arguments.output).items():
        print(f"{split}: {len(names)} relations")
