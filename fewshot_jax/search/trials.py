"""Which trial comes next, and which of those that ran was cut off.

All of it happens while the process is `StudyFiles.alone`: a trial that runs is held by the process that runs it, from
before anyone else can see it, so a running trial that nobody holds is one whose process ended.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_jax.search.objective import spent
from fewshot_jax.search.samplers import Sampler, distributions, sampler_of
from fewshot_jax.search.space import Space
from fewshot_jax.search.study_files import StudyFiles

if TYPE_CHECKING:
    import optuna

RUN, RETRY_OF, STEPS, ATTEMPTS, WHY, SECONDS = "run", "retry_of", "steps", "attempts", "why", "seconds"
_OF_GRID = ("grid_id", "search_space")  # by which Optuna knows what of a grid is visited
MOST_ATTEMPTS = 3  # of a trial that gets no further, before it is given up: it may be what ends the process


class Claim(NamedTuple):
    """Attributes: a ``trial`` of this process, and what holds it until ``held.release()``."""

    trial: "optuna.Trial"
    held: Any

    @property
    def run(self) -> str:
        """The name of its run directory: its number, or that of the trial that it goes on with."""
        return self.trial.user_attrs.get(RUN, str(self.trial.number))


def next_trial(
    study: "optuna.Study", files: StudyFiles, space: Space, *, sampler: Sampler, seed: int, most: int
) -> Claim | None:
    """Take the next trial, or None where there are as many as there should be.

    Args:
        study: of the files.
        files: of the study.
        space: that is searched.
        sampler: of new values; those of a trial that was cut off come again first.
        seed: of the study.
        most: trials of the study, those that were cut off not counted.
    """
    import optuna

    with files.alone():
        _recover(study, files)
        trials, states = study.get_trials(deepcopy=False), optuna.trial.TrialState
        waiting = any(trial.state == states.WAITING for trial in trials)
        counted = sum(trial.state != states.FAIL for trial in trials)  # not those that were cut off, and come again
        if not waiting and counted >= most:
            return None
        study.sampler = sampler_of(sampler, space, seed=seed, trials=counted)
        # Only new trials get new numbers, and all that are taken now are taken here.
        coming = next((trial.number for trial in trials if trial.state == states.WAITING), len(trials))
        held = files.hold(coming)
        trial = study.ask(distributions(space))
        assert trial.number == coming
        study.sampler = optuna.samplers.RandomSampler()  # a grid's would stop the study when it is told of the last
        return Claim(trial, held)


def tell(study: "optuna.Study", claim: Claim, value: float | None) -> None:
    """End a trial with a score, or, with None, as one that was pruned or failed."""
    from optuna.trial import TrialState

    study.tell(claim.trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
    claim.held.release()


def _recover(study: "optuna.Study", files: StudyFiles) -> None:
    """Mark the trials that were cut off as failed, and let their values wait for the next process."""
    from optuna.trial import TrialState, create_trial

    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        if trial.state != TrialState.RUNNING or (held := files.hold(trial.number)) is None:
            continue
        held.release()
        name = trial.user_attrs.get(RUN, str(trial.number))
        so_far = spent(files.run(name))
        steps = so_far.steps if so_far else 0
        further = steps > trial.user_attrs.get(STEPS, 0)
        attempts = 1 if further else trial.user_attrs.get(ATTEMPTS, 0) + 1
        if trial.number not in retried:  # first, so that a process that ends here loses nothing
            given_up = attempts >= MOST_ATTEMPTS
            attrs = {RUN: name, RETRY_OF: trial.number, STEPS: steps, ATTEMPTS: attempts}
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if given_up else TrialState.WAITING,
                    params=trial.params,
                    distributions=trial.distributions,
                    system_attrs={key: trial.system_attrs[key] for key in _OF_GRID if key in trial.system_attrs},
                    user_attrs={**attrs, WHY: f"its process ended {attempts} times at step {steps}"}
                    if given_up
                    else attrs,
                )
            )
        study.tell(trial.number, state=TrialState.FAIL)
