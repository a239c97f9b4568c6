"""Several runs in one picture and one table."""

from collections.abc import Sequence
from typing import Any

from fewshot_jax.evaluation.statistics import Estimate, plain
from fewshot_jax.reporting.curves import over_shots
from fewshot_jax.reporting.figures import Picture
from fewshot_jax.reporting.page import Section, gallery, missing, paragraph
from fewshot_jax.reporting.record import Rows, RunRecord, is_chance
from fewshot_jax.reporting.sections import score_table
from fewshot_jax.training.rows import MULTI_TASK, PRETRAINED, UNTRAINED

_OF_A_RUN = (UNTRAINED, PRETRAINED, MULTI_TASK)  # what the baselines start from that depend on the run's model


def comparison(records: Sequence[RunRecord]) -> dict[str, Section]:
    """A section for each score that the runs were evaluated by, by its name, and one for those that were not."""
    evaluated = [record for record in records if record.rows()]
    by_score: dict[str, list[RunRecord]] = {}
    for record in evaluated:
        by_score.setdefault(record.score.name, []).append(record)
    sections = {score: _of_score(same, number) for number, (score, same) in enumerate(by_score.items())}
    left_out = [record.name for record in records if record not in evaluated]
    if left_out:
        words = f"Not evaluated yet, so not compared: {', '.join(left_out)}."
        sections["left out"] = Section("Runs without an evaluation", [missing(words)])
    return sections


def test_episodes(record: RunRecord) -> tuple[Any, ...]:
    """What decides the test episodes of a run: runs that agree in it were judged on the same ones."""
    config, evaluation = record.config, record.config.evaluation
    drawn = (config.episodes.within_group, config.episodes.label_names, config.episodes.domain_power)
    asked = (evaluation.ways, evaluation.queries, evaluation.uneven, evaluation.tasks)
    count = (record.evaluation or {}).get("episodes")
    return (config.application, config.seed, config.data, drawn, asked, count, record.fingerprint.get("test"))


def table_of_runs(records: Sequence[RunRecord]) -> tuple[Rows, list[str], dict[str, int]]:
    """The rows of several runs: learners first, then the baselines, once where they are the same for all.

    Returns:
        The rows, which of them are learners', and the number of the run that a row belongs to.
    """
    shared = len({test_episodes(record) for record in records}) == 1
    own: Rows = {}
    baselines: Rows = {}
    run_of: dict[str, int] = {}
    for number, record in enumerate(records):
        for name, row in record.rows().items():
            of_run = record.is_own(name) or name.split(",")[0] in _OF_A_RUN or not shared
            shown = f"{name} ({record.name})" if of_run else name
            table = own if record.is_own(name) else baselines
            table[shown] = {**row, **table.get(shown, {})}  # runs may have been judged at other numbers of shots
            if of_run:
                run_of[shown] = number
    last = {name: baselines.pop(name) for name in list(baselines) if is_chance(name)}
    return {**own, **baselines, **last}, list(own), run_of


def _of_score(records: Sequence[RunRecord], number: int) -> Section:
    first = records[0]
    rows, own, run_of = table_of_runs(records)
    picture = _picture(records, rows, own, run_of, "shots_of_all_runs" + (f"_{number + 1}" if number else ""))
    summary = (
        "The learner of each run, solid, beside its best baseline of the same colour and those that all runs share."
    )
    blocks = [paragraph(f"{summary} {'More' if first.score.larger_is_better else 'Less'} is better.")]
    if len({test_episodes(record) for record in records}) > 1:
        blocks.append(
            missing(
                "These runs were judged on different test episodes (data, seed, ways, queries or number of episodes "
                "differ): their scores cannot be compared with each other."
            )
        )
    blocks += [gallery([picture]), score_table(first, f"{first.unit}, test episodes", rows, first.score.percent, own)]
    numbers = {row: {str(k): plain(value) for k, value in of.items()} for row, of in rows.items()}
    return Section(f"{first.score.name.capitalize()} of all runs against shots", blocks, [picture], numbers)


def _picture(
    records: Sequence[RunRecord], rows: Rows, own: Sequence[str], run_of: dict[str, int], name: str
) -> Picture:
    """Of each run the learner itself and its best baseline, and the shared baselines."""
    first, drawn = records[0], {}
    for record in records:
        learner = f"{record.learner} ({record.name})"
        if learner in rows:
            drawn[learner] = rows[learner]
    for number in range(len(records)):
        baselines = {
            row: rows[row] for row, of in run_of.items() if of == number and row not in own and not is_chance(row)
        }
        if baselines:
            best = (max if first.score.larger_is_better else min)(baselines, key=lambda row: _level(baselines[row]))
            drawn[best] = baselines[best]
    drawn |= {row: of for row, of in rows.items() if row not in own and (row not in run_of or is_chance(row))}
    return over_shots(
        drawn,
        solid=own,
        colours={row: run_of.get(row, len(records) + place) for place, row in enumerate(drawn)},
        name=name,
        unit=f"{first.unit}, test episodes",
        scale=first.scale,
        classes=first.of_classes,
    )


def _level(row: dict[int, Estimate]) -> float:
    return sum(value.mean for value in row.values()) / len(row)
