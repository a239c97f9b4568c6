"""A study: trials of a config's fields, each a training run, until there are enough."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_jax.atomic_write import full_disk
from fewshot_jax.config import Config
from fewshot_jax.config_file import read_config, write_config
from fewshot_jax.errors import UserError, require
from fewshot_jax.search.objective import TrialObjective, train_trial
from fewshot_jax.search.results import COMPLETE, StudyResult, importance_of, trial_rows, write_trials
from fewshot_jax.search.samplers import Pruner, Sampler, check_sampler
from fewshot_jax.search.space import Space, parse_space, read_space, with_values
from fewshot_jax.search.study_files import StudyFiles
from fewshot_jax.search.trial_loop import Search, work
from fewshot_jax.search.workers import work_together
from fewshot_jax.training.run_directory import resolve


def tune(
    config: Config | str | Path,
    space: Space | Mapping[str, Any] | str | Path,
    directory: str | Path,
    *,
    trials: int = 20,
    sampler: Sampler = "tpe",
    pruner: Pruner = "median",
    workers: int = 1,
    evaluate: bool = False,
    quiet: bool = False,
    objective: TrialObjective = train_trial,
) -> StudyResult:
    """Search hyperparameters by the validation score of training runs; the test classes are not looked at.

    Has more than 8 parameters because it is the public call, and its keywords are the flags of the command.

    On the directory of a study of the same config and space it goes on with it. The same call in several processes,
    also on several machines that share the directory, shares the trials.

    Args:
        config: a `Config`, or the path of a YAML file.
        space: what is tried: a `Space`, a mapping of the same form as its file, or the path of a YAML file.
        directory: of the study; see `study_files`.
        trials: of the study in all; fewer where a grid has fewer points.
        sampler: "tpe", "gp" (needs torch), "random" or "grid".
        pruner: of trials whose validation scores are hopeless: "median", "hyperband" or "none".
        workers: processes of this call; with more than one, the caller's module must be safe to import.
        evaluate: then evaluate the best trial on the test tasks, once.
        quiet: no progress.
        objective: ``(config, run directory, report) -> score``, in the place of a training run.

    Returns:
        The `StudyResult`, which is also written to ``trials.csv``, ``best.yaml``, ``history.png``, ``importance.png``.

    Raises:
        UserError: config, space or directory cannot be used, or no trial ended well; the message names the place.
        Terminated: the process was told to end (SIGTERM); the same call goes on.

    References:
        Akiba, Sano, Yanase, Ohta, Koyama. Optuna: A Next-generation Hyperparameter Optimization Framework. KDD 2019.
    """
    config = resolve(config if isinstance(config, Config) else read_config(config))
    if isinstance(space, str | Path):
        space = read_space(space, config)
    elif not isinstance(space, Space):
        space = parse_space(space, config)
    for name, value in (("trials", trials), ("workers", workers)):
        require(value >= 1, f"--{name} {value}: expected at least 1")
    points = check_sampler(sampler, space)
    files = StudyFiles(directory)
    most = trials if points is None else min(trials, points)
    search = Search(config, space, files.path, most, sampler, pruner, objective, quiet)
    with full_disk(files.path, "--study"):
        files.start(config, space)
        _check_kept(search, "grid" if sampler == "grid" else "free")
        if workers == 1:
            work(search)
        else:
            work_together(search, workers)
        return _finished(search, evaluate=evaluate)


def _check_kept(search: Search, kind: str) -> None:
    """Refuse to mix the points of a grid with others: nobody could say when the grid is done."""
    study = search.study()
    with StudyFiles(search.directory).alone():
        kept = study.user_attrs.get("kind")
        if kept is None:
            study.set_user_attr("kind", kind)
        elif kept != kind:
            what = "no grid" if kind == "grid" else "a grid"
            raise UserError(f"{search.directory}: holds a study of {what}; give another --study, or its --sampler")


def _finished(search: Search, *, evaluate: bool) -> StudyResult:
    """Write what the study found; evaluate the best trial, if asked."""
    from fewshot_jax.search import pictures

    study, files = search.study(), StudyFiles(search.directory)
    rows, score = trial_rows(study, search.score), search.score
    complete = any(row.state == COMPLETE for row in rows)
    best = rows[study.best_trial.number] if complete else None
    if best is None and not any(row.state == "running" for row in rows):
        why = next((f"; the last failed because: {row.why}" for row in reversed(rows) if row.why), "")
        raise UserError(f"{search.directory}: none of {len(rows)} trials ended with a score{why}")
    config = None if best is None else with_values(search.config, best.values)
    shares = importance_of(study, search.config.seed)
    with files.alone():
        write_trials(rows, list(search.space.fields), score, search.directory / "trials.csv")
        if config is not None:
            write_config(config, search.directory / "best.yaml")
        pictures.history(rows, score, search.directory / "history.png")
        if shares:
            pictures.importance(shares, search.directory / "importance.png")
    evaluation = None
    if evaluate and best is not None:
        from fewshot_jax.training.evaluate import evaluate as evaluate_run

        evaluation = evaluate_run(files.run(best.run), quiet=search.quiet)
    return StudyResult(search.directory, score, rows, best, config, shares, evaluation)
