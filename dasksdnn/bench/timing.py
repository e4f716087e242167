"""Interleaved timing: in every round each contender runs once, in an order drawn afresh, so that what the machine does
meanwhile (other load, clock rates, warm caches of a neighbour) falls on all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, sleep

import numpy as np

from dasksdnn.bench.contender import Contender

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
    contender.ready()
    sleep(pause)
    start = perf_counter()
    contender.run()
    return perf_counter() - start
