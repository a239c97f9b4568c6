"""Validation score against time of several runs, and what each reached on its test episodes.

    python benchmarks/accuracy_against_time.py runs/omniglot_* --output benchmarks/results/omniglot.json

Reads what `fewshot-jax train` left in the run directories; trains nothing. Writes the JSON and a picture beside it.
"""

import argparse
import json
from pathlib import Path

from fewshot_jax.runs.metrics import read_metrics
from fewshot_jax.training.run_directory import RunDirectory


def curve(run: RunDirectory) -> list[tuple[float, float]]:
    """``(minutes, validation score)`` of each validation."""
    rows = read_metrics(run.metrics)
    seconds = {row["step"]: row["seconds"] for row in rows if "seconds" in row}
    metric = next(name for row in rows for name in row if name.startswith("validation_"))
    return [(seconds[row["step"]] / 60, row[metric]) for row in rows if metric in row]


def picture(results: dict, output: Path) -> None:
    """Draw the curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, one in results.items():
        axes.plot(*zip(*one["curve"], strict=True), marker="o", ms=3, label=name)
    axes.set(xlabel="minutes of training and validation", ylabel=f"validation {one['evaluation']['score']}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(output, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="JSON; the picture has the same name with .png")
    arguments = parser.parse_args()
    results = {}
    for path in arguments.runs:
        run = RunDirectory(path)
        evaluation, result = run.evaluation(), run.result()
        if evaluation is None or result is None:
            parser.error(f"{path}: is not a finished and evaluated run")
        results[path.name] = {"curve": curve(run), "minutes": result["seconds"] / 60, "evaluation": evaluation}
        rows = evaluation[evaluation["score"].replace(" ", "_")]
        print(f"{path.name}: {result['seconds'] / 60:.1f} minutes")
        for name, row in rows.items():
            print(
                f"  {name:24s}",
                "  ".join(f"{shots}: {one['mean']:.4f} ± {one['half_width']:.4f}" for shots, one in row.items()),
            )
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture(results, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
