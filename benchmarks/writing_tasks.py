"""Applications that write, on their generated tasks: meta-learning beside fine-tuning, joint training and context.

    python benchmarks/writing_tasks.py dialogue question_answering translation --seeds 0 1 2 3 4 --runs RUNS

Trains the config of each application (configs/dialogue.yaml and its like) with each seed; a seed changes the tasks
of training, validation and test, the initial parameters and the order of all. A run that is finished is not trained
again, and one that was stopped goes on. Each evaluation goes into benchmarks/results/writing_tasks.json as soon as it
is there; the tables are printed from that file.

A figure is the mean over seeds of the mean over a seed's test episodes, with the 95% interval by Student's t over
seeds. A gain is the learner's score minus that of another row on the same episodes, again over seeds: for nats, less
is better. --set gives settings to all runs, as in --set outer.steps=100; --learner takes another learner, whose
results stand under its name.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml
from common import table

import fewshot_jax as fsj
from fewshot_jax.config_file import from_dict, to_dict
from fewshot_jax.evaluation.statistics import estimate

ROOT = Path(__file__).parents[1]


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def config_of(application: str, seed: int, settings: list[str]) -> fsj.Config:
    """The config of an application with some of its fields replaced."""
    values = to_dict(fsj.read_config(ROOT / "configs" / f"{application}.yaml"))
    values["seed"] = seed
    for setting in settings:
        field, _, value = setting.partition("=")
        section, _, name = field.partition(".")
        values[section][name] = yaml.safe_load(value)
    return from_dict(values)


def run(application: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train, evaluate and add to the results."""
    settings = list(arguments.set)
    if arguments.learner is not None:
        settings += [f"learner.name={arguments.learner}", "learner.gradient=auto"]
    config = config_of(application, seed, settings)
    name = f"{application}/{config.learner.name}/seed {seed}"
    if name in load(arguments.output):
        return
    print(name, file=sys.stderr, flush=True)
    where = arguments.runs / name.replace(" ", "_")
    evaluation = fsj.train(config, where)
    seconds = json.loads((where / "result.json").read_text(encoding="utf-8"))["seconds"]
    results = {**load(arguments.output), name: {**evaluation.to_json(), "seconds": seconds}}
    arguments.output.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")


def scores_of(result: dict) -> dict[str, tuple[dict, dict]]:
    """For each score of an evaluation: its rows, and the gains over them."""
    own = {result["score"]: (result[result["score"].replace(" ", "_")], result["gain"])}
    return own | {name: (one["scores"], one["gain"]) for name, one in result["more"].items()}


def over_seeds(rows: list[dict], row: str, shots: str, *, sign: bool = False) -> str:
    """The mean over seeds and its interval."""
    values = [one[row][shots]["mean"] for one in rows if row in one]
    return estimate(values).text(percent=False, sign=sign) if values else ""


def print_tables(results: dict) -> None:
    """A table of scores and a table of gains for each application and learner."""
    groups = sorted({name.rpartition("/")[0] for name in results})
    for group in groups:
        runs = [result for name, result in results.items() if name.rpartition("/")[0] == group]
        print(f"\n{group}: {len(runs)} seeds, {runs[0]['episodes']} episodes each")
        for score, (rows, gains) in scores_of(runs[0]).items():
            shots = list(next(iter(rows.values())))
            of_runs = [scores_of(result)[score] for result in runs]
            head = [score, *(f"K={k}" for k in shots)]
            body = [[row, *(over_seeds([one[0] for one in of_runs], row, k) for k in shots)] for row in rows]
            learner = runs[0]["learner"]
            body += [
                [f"{learner} - {row}", *(over_seeds([one[1] for one in of_runs], row, k, sign=True) for k in shots)]
                for row in gains
            ]
            print(table(head, body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("applications", nargs="*", help="configs without .yaml; none to print what is there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/writing_tasks"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/writing_tasks.json")
    parser.add_argument("--learner", help="another learner than the config's")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all runs, such as outer.steps=100")
    arguments = parser.parse_args()
    for application in arguments.applications:
        for seed in arguments.seeds:
            run(application, seed, arguments)
    print_tables(load(arguments.output))


if __name__ == "__main__":
    main()
