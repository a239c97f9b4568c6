"""Learners on real texts: CLINC150, HuffPost and FewRel, 5-way 1-shot and 5-shot, one training for both.

    python benchmarks/text_learners.py --clinc150 DATA/clinc150 --huffpost DATA/huffpost --fewrel FOLDER --runs RUNS

Trains every learner with the encoder of configs/clinc150.yaml, huffpost.yaml and fewrel.yaml and one budget: as many
outer steps of as many tasks, the same episodes. CLINC150: two class splits; HuffPost and FewRel: two seeds. The
other learners of the family get one short run on CLINC150 (--learners, one by one) that shows whether they learn,
in a table of its own. FOLDER is written by benchmarks/fewrel.py. A run that is finished is not trained again, and
one that was stopped goes on.

Each evaluation (600 episodes, 95% intervals over episodes, floors on the same ones) goes into
benchmarks/results/text_learners.json as soon as it is there; the table is printed from that file, with the mean over
the splits or seeds that are there. Half-widths are those over episodes: what two splits or seeds differ by is not in
them, and seeds share their test classes. The constants below were reasoned or tried in short runs on CLINC150, not
searched for.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import fewshot_jax as fsj
from fewshot_jax.atomic_write import write_text
from fewshot_jax.config import WITHOUT_A_LOOP, Config

ROOT = Path(__file__).parents[1]

# What a learner needs beside its name. A loop over a zero head wants long feature vectors (feature_scale squared
# multiplies the inner rate), prototypes want short ones (it is their inverse temperature).
PROTOTYPES = {"model": {"feature_scale": 4.0}}
LEARNERS = {
    "maml": {},
    "anil": {"model": {"feature_scale": 40.0}, "inner": {"params": None}},
    "meta_sgd": {},
    "proto_maml": PROTOTYPES,
    "protonet": PROTOTYPES,
    "multi_task": {"episodes": {"token_remap": 0.0}},  # one head for all classes: a word must keep its meaning
}
SHORT = {
    "fomaml": {},
    "boil": {"inner": {"params": None, "rate": 0.01}, **PROTOTYPES},
    # Its outer step moves only what adapts, so all parameters do, by Adam as in its paper.
    "reptile": {"inner": {"params": None, "optimizer": "adam", "rate": 0.003, "steps": 5, "test_steps": 5}},
    "maml_plus_plus": {},
    "imaml": {"learner": {"proximal": 2.0}},
    "cavia": {"model": {"context_width": 16}, "inner": {"params": None}},
    "matching_network": {"learner": {"temperature": 0.1}},
    "r2d2": PROTOTYPES,
}
# Also with the inner loop that does best on validation episodes, as fine-tuning has it: where classes overlap, the
# second of two long steps overshoots.
TUNED = ("maml", "anil", "meta_sgd", "proto_maml")
STEPS, SHORT_STEPS = 200, 100
VARIANTS = {
    "clinc150": {"split 01": {"data": {"class_split_name": "01"}}, "split 02": {"data": {"class_split_name": "02"}}},
    "huffpost": {"seed 0": {}, "seed 1": {"seed": 1}},
    "fewrel": {"seed 0": {}, "seed 1": {"seed": 1}},
}


def changed(config: Config, sections: dict) -> Config:
    """The config with fields of some sections replaced."""
    parts = {
        name: dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in sections.items()
    }
    return dataclasses.replace(config, **parts)


def config_of(data: str, path: Path, variant: str, learner: str) -> Config:
    """The config of one run."""
    config = fsj.read_config(ROOT / "configs" / f"{data}.yaml")
    own = LEARNERS[learner] if learner in LEARNERS else SHORT[learner]
    named = {**own.get("learner", {}), "name": learner, "gradient": "auto"}
    sections = {
        **VARIANTS[data][variant],
        **own,
        "learner": named,
        "data": {**VARIANTS[data][variant].get("data", {}), "path": str(path)},
        "outer": {**own.get("outer", {}), "steps": SHORT_STEPS if learner in SHORT else STEPS},
        # The multi-task run of its own is the baseline of all.
        "baselines": {
            "multi_task": False,
            "fine_tuning": learner == "multi_task",
            "rates": (0.003, 0.01, 0.03),
            "steps": 10,
            "episodes": 40,
        },
    }
    if learner in LEARNERS:
        sections["evaluation"] = {"every": STEPS // 2, "validation_episodes": 60}
        if learner in TUNED:
            sections["evaluation"] |= {"tune_rates": (1.0, 0.3, 0.1), "tune_steps": (1, 2, 4)}
    if learner in WITHOUT_A_LOOP:
        sections["inner"] = {"params": None}
    return changed(config, sections)


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run(data: str, path: Path, variant: str, learner: str, arguments: argparse.Namespace) -> None:
    """Train, evaluate and add to the results."""
    name = f"{data}/{variant}/{learner}"
    if name in load(arguments.output):
        return
    print(name, file=sys.stderr, flush=True)
    where = arguments.runs / name.replace(" ", "_")
    evaluation = fsj.train(config_of(data, path, variant, learner), where)
    seconds = json.loads((where / "result.json").read_text(encoding="utf-8"))["seconds"]
    results = {**load(arguments.output), name: {**evaluation.to_json(), "seconds": seconds}}
    write_text(arguments.output, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def mean(estimates: list[dict[str, float]]) -> str:
    """The mean of independent estimates, in percent."""
    average = sum(one["mean"] for one in estimates) / len(estimates)
    half_width = math.sqrt(sum(one["half_width"] ** 2 for one in estimates)) / len(estimates)
    return f"{100 * average:.1f} ± {100 * half_width:.1f}"


def table(results: dict) -> str:
    """Markdown: a row for each learner and floor, columns for each data set and number of shots; short runs apart."""
    short = {name: one for name, one in results.items() if name.split("/")[2] in SHORT}
    full = {name: one for name, one in results.items() if name not in short}
    tables = [_table(full)] if full else []
    if short:
        tables += [f"{SHORT_STEPS} outer steps:", _table(short)]
    return "\n\n".join(tables)


def _table(results: dict) -> str:
    rows: dict[str, dict[str, list[dict[str, dict[str, float]]]]] = {}
    for name, evaluation in results.items():
        data, _, learner = name.split("/")
        for row, estimates in evaluation["accuracy"].items():
            own = row == learner or row.startswith(f"{learner}, ")
            if own or learner == "multi_task":  # the floors stand in the run of multi_task
                rows.setdefault(row, {}).setdefault(data, []).append(estimates)
    lines = ["| | " + " | ".join(f"{data} 1-shot | 5-shot" for data in VARIANTS) + " |", "|---" * 7 + "|"]
    order = {learner: place for place, learner in enumerate((*LEARNERS, *SHORT))}
    for row in sorted(rows, key=lambda row: (order.get(row.split(",")[0], len(order)), row)):
        if row == "multi_task":
            continue
        cells = [
            mean([one[shots] for one in rows[row][data]]) if data in rows[row] else ""
            for data in VARIANTS
            for shots in "15"
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for data in VARIANTS:
        parser.add_argument(f"--{data}", type=Path, help="its folder; without it the data set is left out")
    parser.add_argument("--runs", type=Path, required=True, help="where the run directories go")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "text_learners.json")
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=[*LEARNERS, *SHORT])
    parser.add_argument("--variants", nargs="+", type=int, default=[1, 2], choices=[1, 2], help="which splits or seeds")
    arguments = parser.parse_args()
    for number in arguments.variants:
        for learner in arguments.learners:
            for data, variants in VARIANTS.items():
                path = getattr(arguments, data)
                if path is not None:
                    run(data, path, list(variants)[number - 1], learner, arguments)
    print(table(load(arguments.output)))


if __name__ == "__main__":
    main()
