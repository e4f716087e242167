"""Interleaved timing: in every round each contender has its turn, in an order drawn afresh, so that what the machine does
meanwhile (other load, clock rates, warm caches of a neighbour) falls on all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

import numpy as np

from dasksdnn.bench.contender import Contender

#: In a round a contender runs until it has had so many seconds, or so many runs, after one that is not timed: what is short
#: is timed in the state in which a loop over it would be, not in the caches that another contender has left.
ENOUGH, MOST_RUNS = 0.03, 20
#: Seconds before each timed run: threads of the OpenMP libraries spin for a while after their work.
PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return median(self.seconds)

    @property
    def least(self) -> float:
        """The quickest round, in seconds."""
        return min(self.seconds)

    @property
    def most(self) -> float:
        """The slowest round, in seconds."""
        return max(self.seconds)

    def as_dict(self) -> dict[str, float | list[float]]:
        """Plain data, ready for JSON."""
        return {"median": self.median, "least": self.least, "most": self.most, "all": list(self.seconds)}


def interleave(contenders: Sequence[Contender], repeats: int, pause: float = PAUSE) -> list[Timing]:
    """Time contenders that have been run once already.

    Parameters
    ----------
    contenders : sequence of Contender
    repeats : int
        Rounds, at least 1.
    pause : float
        Seconds before each run.

    Returns
    -------
    list of Timing
        One for each contender, with a time for each round.
    """
    order = np.random.default_rng(0)
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        for i in order.permutation(len(contenders)):
            seconds[i].append(_time(contenders[i], pause))
    return [Timing(tuple(each)) for each in seconds]


def _time(contender: Contender, pause: float) -> float:
    """Seconds of one run."""
    contender.ready()
    sleep(pause)
    first = _timed(contender)
    if first >= ENOUGH:
        return first
    seconds: list[float] = []
    while sum(seconds) < ENOUGH and len(seconds) < MOST_RUNS:
        contender.ready()
        seconds.append(_timed(contender))
    return sum(seconds) / len(seconds)


def _timed(contender: Contender) -> float:
    start = perf_counter()
    contender.run()
    return perf_counter() - start
