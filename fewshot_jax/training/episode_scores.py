"""The score of every row in every episode of an evaluation, kept so that runs can be compared episode by episode."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import write_text
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.statistics import finite_or_none

EPISODE_SCORES = "episode_scores.json"  # in the directory of a run
EpisodeScores = Mapping[str, Mapping[int, np.ndarray]]  # row -> shots -> [episodes]


def write_episode_scores(path: Path, scores: EpisodeScores, *, score: str, step: int) -> None:
    """Write scores whole or not at all; null for what is not finite.

    Args:
        path: of the file.
        scores: of each row at each number of shots, ``[episodes]``.
        score: its name.
        step: the checkpoint's.
    """

    def plain(values: np.ndarray) -> list[float | None]:
        return [finite_or_none(value) for value in np.asarray(values, np.float64).tolist()]

    rows = {row: {str(shots): plain(values) for shots, values in of.items()} for row, of in scores.items()}
    content = {"score": score, "checkpoint_step": step, "rows": rows}
    write_text(path, strict_json.dumps(content) + "\n")


def read_episode_scores(run_path: str | Path) -> dict[str, dict[int, np.ndarray]]:
    """The scores of a run's last evaluation: row -> shots -> ``[episodes]`` float64, NaN for what was not finite.

    Args:
        run_path: directory of the run.

    Raises:
        UserError: the run was not evaluated, or the file is not whole.
    """
    return _content(Path(run_path)).scores


def scored_step(run_path: str | Path) -> int:
    """The step of the checkpoint whose scores a run keeps.

    Args and errors as of `read_episode_scores`.
    """
    return _content(Path(run_path)).step


class _Content(NamedTuple):
    step: int
    scores: dict[str, dict[int, np.ndarray]]


def _content(run_path: Path) -> _Content:
    path = run_path / EPISODE_SCORES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = {
            row: {int(shots): np.array(values, np.float64) for shots, values in of.items()}
            for row, of in content["rows"].items()
        }
        if isinstance(content["checkpoint_step"], int) and all(
            v.ndim == 1 for of in scores.values() for v in of.values()
        ):
            return _Content(content["checkpoint_step"], scores)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; 'fewshot-jax evaluate {run_path}' writes it") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        pass
    raise UserError(f"{path}: holds no scores of episodes; 'fewshot-jax evaluate {run_path}' writes it anew")
