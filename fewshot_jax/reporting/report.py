"""A report of runs: one HTML file that loads nothing, and its pictures beside it."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_jax.atomic_write import atomic_files, cannot_write
from fewshot_jax.errors import require
from fewshot_jax.models.sources.names import short_name
from fewshot_jax.reporting import class_sections, sections
from fewshot_jax.reporting.comparison import comparison
from fewshot_jax.reporting.page import Section, missing, page, paragraph
from fewshot_jax.reporting.probe import probe
from fewshot_jax.reporting.record import RunRecord, read_run
from fewshot_jax.reporting.rerun import rerun
from fewshot_jax.runs.directory import check_writable

EPISODES = 60
PAGE = "report.html"


class Report(NamedTuple):
    """What was written.

    Attributes:
        page: the HTML file.
        pictures: the PNG files beside it.
        numbers: behind the pictures: ``{"runs": {name: {section: numbers}}, "comparison": {score: numbers}}``.
    """

    page: Path
    pictures: tuple[Path, ...]
    numbers: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {"report": str(self.page), "pictures": [str(path) for path in self.pictures], **self.numbers}


def report(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    episodes: int = EPISODES,
    force: bool = False,
    quiet: bool = False,
) -> Report:
    """Write the report of some runs.

    Args:
        runs: their directories; a run may be unfinished, or not evaluated yet.
        output: a directory, which gets ``report.html``, or a path that ends in ``.html``; pictures go beside it.
        episodes: of each measurement that the report makes itself; 0 for none.
        force: write over an earlier report.
        quiet: no progress.

    Returns:
        The `Report`. Its files are written together, or not at all.

    Raises:
        UserError: there is no run, a directory is none, or the output exists or cannot be written.
    """
    require(bool(runs), "report needs a run: fewshot-jax report RUN --output DIR")
    require(episodes >= 0, f"--episodes {episodes}: expected zero or more")
    target = _target(Path(output))
    require(force or not target.exists(), f"{target}: already exists; give another --output, or --force to replace it")
    check_writable(target.parent, flag="--output")
    records = [read_run(path, name) for path, name in zip(runs, _names(runs), strict=True)]
    chapters: dict[str, dict[str, Section]] = {"All runs": comparison(records)} if len(records) > 1 else {}
    for record in records:
        if not quiet:
            print(f"reporting on {record.run.path}", file=sys.stderr, flush=True)
        chapters[f"Run {record.name}"] = _of_run(record, episodes)
    title = f"Few-shot run{'s' if len(records) > 1 else ''} {', '.join(record.name for record in records)}"
    files = _pictures(chapters, target, several=len(records) > 1)
    content = page(title, [paragraph(_summary(record)) for record in records], chapters)
    taken = [path for path in files if path.exists()]
    require(
        force or not taken, f"{taken and taken[0]}: already exists; give another --output, or --force to replace it"
    )
    _write({target: content.encode("utf-8", "replace"), **files})
    return Report(target, tuple(files), _numbers(chapters, records))


def _target(output: Path) -> Path:
    if output.suffix.lower() in (".html", ".htm"):
        require(not output.is_dir(), f"{output}: is a directory; give --output another name")
        return output
    require(not output.exists() or output.is_dir(), f"{output}: is no directory, and does not end in .html")
    return output / PAGE


def _names(runs: Sequence[str | Path]) -> list[str]:
    """The names of the directories; the paths below their common folder where those coincide."""
    paths = [Path(path).resolve() for path in runs]
    require(len(set(paths)) == len(paths), "report: a run is given twice; give each once")
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath(paths)
    return [os.path.relpath(path, above) for path in paths]


def _summary(record: RunRecord) -> str:
    config = record.config
    start = "a new model" if config.model.pretrained is None else short_name(config.model.pretrained)
    state = "finished" if record.result is not None else "unfinished"
    return f"{record.name}: {record.learner} for {config.application.replace('_', ' ')}, from {start}, {state}."


def _of_run(record: RunRecord, episodes: int) -> dict[str, Section]:
    """The sections of one run, by the names that their numbers have."""
    measured = probe(record, episodes=episodes)
    unread = Section("Files that cannot be read", [missing(note) for note in record.notes])
    return {
        **({"unread": unread} if record.notes else {}),
        "shots": sections.shots(record),
        "learning_curves": sections.learning(record),
        "inner_steps": sections.inner_steps(record, measured),
        "episodes": sections.episode_sections(record, measured),
        "confusion": class_sections.confusion(record, measured),
        "calibration": class_sections.calibration(record, measured),
        "features": class_sections.features(record, measured),
        "rerun": rerun(record),
    }


def _pictures(chapters: Mapping[str, Mapping[str, Section]], target: Path, *, several: bool) -> dict[Path, bytes]:
    """The files of the pictures, named after the page where that has a name of its own, and after their run."""
    stem = "" if target.name == PAGE else f"{target.stem}_"
    files: dict[Path, bytes] = {}
    for number, (heading, of_chapter) in enumerate(chapters.items()):
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", heading.removeprefix("Run ")).strip("_.")
        before = f"{number}_{plain}_" if several and number else ""
        for section in of_chapter.values():
            for picture in section.pictures:
                files[target.with_name(f"{stem}{before}{picture.name}.png")] = picture.png
    return files


def _numbers(chapters: Mapping[str, Mapping[str, Section]], records: Sequence[RunRecord]) -> dict[str, Any]:
    def of(heading: str) -> dict[str, Any]:
        return {name: one.numbers for name, one in chapters[heading].items() if one.numbers is not None}

    runs = {record.name: of(f"Run {record.name}") for record in records}
    return {"runs": runs, **({"comparison": of("All runs")} if len(records) > 1 else {})}


def _write(files: Mapping[Path, bytes]) -> None:
    """Write all files, or none, in one folder; the page, which comes first, is replaced last."""
    page = next(iter(files))
    try:
        with atomic_files(page.parent, last=page.name) as partial:
            for path, content in files.items():
                (partial / path.name).write_bytes(content)
    except OSError as error:
        raise cannot_write(page, error, "--output") from None
