"""Sinusoid regression tasks, generated as a pure function of (seed, step, task index)."""

from typing import NamedTuple

import numpy as np

AMPLITUDE, PHASE, INPUT = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)


class Sinusoid(NamedTuple):
    """The curve ``amplitude * sin(x - phase)`` of one task."""

    amplitude: float
    phase: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (self.amplitude * np.sin(x - self.phase)).astype(np.float32)


def sinusoid_task(
    seed: int, step: int, index: int, *, shots: int, queries: int
) -> tuple[Sinusoid, np.ndarray, np.ndarray]:
    """Draw a task: amplitude, phase and inputs uniform, without noise.

    Returns:
        The curve, the support inputs ``[shots, 1]`` and the query inputs ``[queries, 1]``, float32 in [-5, 5].

    References:
        Finn, Abbeel, Levine. Model-Agnostic Meta-Learning. ICML 2017, section 5.1: amplitude in
        [0.1, 5.0], phase in [0, pi], inputs in [-5.0, 5.0].
    """
    rng = np.random.default_rng((seed, step, index))
    curve = Sinusoid(rng.uniform(*AMPLITUDE), rng.uniform(*PHASE))
    x = rng.uniform(*INPUT, (shots + queries, 1)).astype(np.float32)
    return curve, x[:shots], x[shots:]
