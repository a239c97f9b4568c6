"""Three stages of each application: meta-learning beside pretraining, joint training, fine-tuning, in-context learning.

    python benchmarks/stages.py dialogue question_answering translation --seeds 0 1 2 3 4
    python benchmarks/stages.py quickstart --set data.texts_per_class=30 evaluation.shots=[1,5,16] \\
        evaluation.episodes=200 baselines.steps=5 baselines.rates=[0.003,0.01,0.03,0.1]
    python benchmarks/stages.py lafand_mt multi30k sgd xquad --data FOLDER --seeds 0

For each config (configs/dialogue.yaml and its like) and seed, up to three runs, whose tables are joined, since all
judge the same test episodes:

    learner     the config's own, from scratch on generated tasks, from pretraining on real ones; with its baselines
    pretrained  on generated tasks: joint training that starts from pretraining, and fine-tuning of both
    metaicl     meta-training to use the context, where the model is a decoder; for text classification a decoder
                that scores the names of the classes, pretrained on the raw texts
    channel     the same in the channel form, for text classification

Pretraining (--pretrain) is a language model of the config's sizes on the raw texts of the training tasks: generated
ones, or FOLDER/NAME/corpus.jsonl of prepare_tasks.py. A seed changes the tasks of training, validation and test, the
initial parameters and the order of all. A run that is finished is not trained again, and one that was stopped goes
on. Each evaluation goes into --output as soon as it is there; the tables are printed from that file.

A figure is the mean over seeds of the mean over a seed's test episodes, with the 95% interval by Student's t over
seeds (over episodes where there is one seed). A gain is the learner's score minus that of another row on the same
episodes, again over seeds: for nats, less is better. --set gives settings to all runs, as in --set outer.steps=100.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import yaml
from common import table

import fewshot_jax as fsj
from fewshot_jax.atomic_write import write_text
from fewshot_jax.config import LearnerConfig
from fewshot_jax.config.pretraining import Objective, PretrainConfig
from fewshot_jax.config_file import from_dict, read_config, to_dict
from fewshot_jax.evaluation.statistics import Estimate, estimate
from fewshot_jax.training.loop import multi_task_of

ROOT = Path(__file__).parents[1]
IN_CONTEXT = "pretrained, in context"  # a row of the runs of metaicl, where they start from pretraining
REAL = ("lafand_mt", "multi30k", "sgd", "xquad")  # configs of files
LEARNER, PRETRAINED, METAICL, CHANNEL = "learner", "pretrained", "metaicl", "channel"
VARIANTS = (LEARNER, PRETRAINED, METAICL, CHANNEL)
OBJECTIVES: dict[str, Objective] = {
    "decoder": "causal_lm",
    "encoder": "masked_lm",
    "encoder_decoder": "span_corruption",
}


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def config_of(name: str, seed: int, settings: list[str], data: Path | None) -> fsj.Config:
    """The config of that name with some of its fields replaced."""
    values = to_dict(fsj.read_config(ROOT / "configs" / f"{name}.yaml"))
    values["seed"] = seed
    if data is not None:
        values["data"]["path"] = str(data / name)
    for setting in settings:
        field, _, value = setting.partition("=")
        section, _, field = field.partition(".")
        values[section][field] = yaml.safe_load(value)
    return from_dict(values)


def classifies(config: fsj.Config) -> bool:
    return config.application == "text_classification"


def has_head(config: fsj.Config) -> bool:
    return classifies(config) and config.model.classifier == "head"


def pretrained(config: fsj.Config, given: Path, where: Path) -> fsj.Config:
    """The same config starting from a model of its sizes, pretrained on the texts of its training tasks."""
    base = read_config(given, PretrainConfig)
    if config.data.source == "generated":
        corpus = dataclasses.replace(base.corpus, source="generated", name=config.application, split_seed=config.seed)
    else:
        corpus = dataclasses.replace(base.corpus, path=f"{config.data.path}/corpus.jsonl")
    sizes = {name: getattr(config.model, name) for name in ("width", "layers", "heads", "mlp_width")}
    words = {"kind": config.tokenizer.kind, "vocab_size": config.tokenizer.vocab_size}
    stage = dataclasses.replace(
        base,
        seed=config.seed,
        objective="masked_lm" if has_head(config) else OBJECTIVES[config.model.architecture],
        corpus=corpus,
        tokenizer=dataclasses.replace(base.tokenizer, **words),
        model=dataclasses.replace(base.model, **sizes),
    )
    fsj.pretrain(stage, where)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=str(where)))


def joint(config: fsj.Config) -> fsj.Config:
    """Joint training as that of the baseline, with its rows."""
    baselines = dataclasses.replace(config.baselines, multi_task=False)
    return dataclasses.replace(multi_task_of(config), evaluation=config.evaluation, baselines=baselines)


def in_context(config: fsj.Config, *, channel: bool = False) -> fsj.Config:
    """Meta-training to use the context, without rows of training beside; of classes, their names are scored."""
    if classifies(config):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, classifier="label_names"))
    return dataclasses.replace(
        config,
        learner=LearnerConfig(name="metaicl", task_chunk=config.learner.task_chunk, channel=channel),
        baselines=dataclasses.replace(config.baselines, multi_task=False, fine_tuning=False),
    )


def run(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train, evaluate and add to the results."""
    config = config_of(name, seed, arguments.set, arguments.data)
    generated = config.data.source == "generated"
    variants = {LEARNER: config}
    if generated:
        variants[PRETRAINED] = joint(config)
    if config.model.architecture == "decoder":
        variants[METAICL] = in_context(config)
    if classifies(config):
        variants[CHANNEL] = in_context(config, channel=True)
    for variant in arguments.only or variants:
        key = f"{name}/{variant}/seed {seed}"
        if variant not in variants:
            continue
        if (known := load(arguments.output).get(key)) is not None:
            if known["set"] != arguments.set:
                raise SystemExit(f"{key}: is there with --set {known['set']}; give another --output")
            continue
        print(key, file=sys.stderr, flush=True)
        chosen = variants[variant]
        where = arguments.runs / name / f"seed_{seed}"
        if variant == PRETRAINED or not generated or (classifies(config) and variant != LEARNER):
            texts = where / ("texts" if has_head(chosen) or not classifies(chosen) else "texts_causal")
            chosen = pretrained(chosen, arguments.pretrain, texts)
        evaluation = fsj.train(chosen, where / variant)
        seconds = json.loads((where / variant / "result.json").read_text(encoding="utf-8"))["seconds"]
        result = {**evaluation.to_json(), "seconds": seconds, "set": arguments.set}
        result.pop("confusion", None)  # of many classes, which differ by seed
        results = {**load(arguments.output), key: result}
        write_text(arguments.output, json.dumps(dict(sorted(results.items())), indent=1) + "\n")


Rows = dict[str, dict[str, Estimate]]  # by row and number of shots


def rows_of(result: dict, score: str) -> Rows:
    """The rows of one score."""
    return estimates(result[score] if score in result else result["more"].get(score, {"scores": {}})["scores"])


def gains_of(result: dict, score: str) -> Rows:
    """The gains of one run over its own rows, paired by episode."""
    return estimates(result["gain"] if score in result else result["more"][score]["gain"])


def estimates(rows: dict) -> Rows:
    """Rows as they stand in the file, where null stands for what was not finite."""
    return {
        row: {k: Estimate(*(math.nan if v is None else v for v in value.values())) for k, value in of.items()}
        for row, of in rows.items()
    }


def joined(results: dict, name: str, seed: str, score: str) -> Rows:
    """The rows of all runs of one seed."""
    runs = {variant: results.get(f"{name}/{variant}/{seed}") for variant in VARIANTS}
    rows = rows_of(runs[LEARNER], score) if runs[LEARNER] else {}
    if runs[PRETRAINED]:
        for row, of in rows_of(runs[PRETRAINED], score).items():
            if row.startswith("pretrained, "):
                rows[row] = of
            elif row.startswith("multi-task, "):
                rows[f"pretrained, {row}"] = of
    for variant in (METAICL, CHANNEL):
        if runs[variant]:
            form = "" if variant == METAICL else ", channel"
            of = rows_of(runs[variant], score)
            rows[METAICL + form] = of[METAICL]
            if IN_CONTEXT in of:
                rows.setdefault(IN_CONTEXT + form, of[IN_CONTEXT])
    return rows


def over_seeds(values: list[Estimate]) -> Estimate:
    return values[0] if len(values) == 1 else estimate([one.mean for one in values])


def print_tables(results: dict) -> None:
    """For each config and score a table of all rows, and of the learner's gains."""
    names = dict.fromkeys(key.split("/")[0] for key in results)
    for name in names:
        seeds = sorted({key.split("/")[2] for key in results if key.startswith(f"{name}/{LEARNER}/")})
        if not seeds:
            continue
        first = results[f"{name}/{LEARNER}/{seeds[0]}"]
        count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        print(f"\n{name}: {count}, {first['episodes']} episodes each")
        for score in (first["score"].replace(" ", "_"), *first["more"]):
            of_seeds = [joined(results, name, seed, score) for seed in seeds]
            own, shots = first["learner"], list(next(iter(of_seeds[0].values())))
            paired = gains_of(first, score) if len(seeds) == 1 else {}  # by episode, then
            body, gains = [], []
            for row in dict.fromkeys(row for rows in of_seeds for row in rows):
                having = [rows for rows in of_seeds if row in rows]
                note = "" if len(having) == len(seeds) else f" ({len(having)} of {len(seeds)} seeds)"
                measured = [k for k in shots if k in having[0][row]]
                cells = {k: over_seeds([rows[row][k] for rows in having]).text(percent=False) for k in measured}
                body.append([row + note, *(cells.get(k, "-") for k in shots)])
                if row in paired:
                    gains.append([f"{own} - {row}", *(paired[row][k].text(percent=False, sign=True) for k in shots)])
                elif row != own and len(having) > 1:
                    differences = {k: [rows[own][k].mean - rows[row][k].mean for rows in having] for k in measured}
                    texts = {k: estimate(of).text(percent=False, sign=True) for k, of in differences.items()}
                    gains.append([f"{own} - {row}{note}", *(texts.get(k, "-") for k in shots)])
            print(table([score.replace("_", " "), *(f"K={k}" for k in shots)], body + gains))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="without .yaml; none to print what is there")
    parser.add_argument(
        "--data", type=Path, help="holds the files of prepare_tasks.py, in a folder of the config's name"
    )
    parser.add_argument("--pretrain", type=Path, default=ROOT / "configs/pretrain_tasks.yaml", help="its config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="some of the runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/stages"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/stages.json")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all runs, such as outer.steps=100")
    arguments = parser.parse_args()
    try:
        for name in arguments.configs:
            if config_of(name, 0, [], arguments.data).data.path is None and name in REAL:
                parser.error(f"{name}: give --data, the folder that holds the files of prepare_tasks.py")
            for seed in arguments.seeds:
                run(name, seed, arguments)
    except fsj.UserError as error:
        parser.error(str(error))
    print_tables(load(arguments.output))


if __name__ == "__main__":
    main()
