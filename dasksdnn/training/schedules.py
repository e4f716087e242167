"""Learning rates that change: constant, in steps, or along a cosine, after a linear rise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dasksdnn.errors import InputError

#: Schedules, by name.
SCHEDULES = ("constant", "step", "cosine")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the learning rate goes.

    Attributes
    ----------
    name : {"constant", "step", "cosine"}
        "step" multiplies it by `gamma` after every `every` epochs; "cosine" takes it to `floor` times itself along half a
        cosine, from the end of the warm-up to the end of training (Loshchilov and Hutter, arXiv 1608.03983).
    warmup : int
        Steps in which it rises linearly from lr / warmup.
    every : int
        Epochs.
    gamma, floor : float
        From 0 to 1.

    Raises
    ------
    InputError
    """

    name: str = "constant"
    warmup: int = 0
    every: int = 10
    gamma: float = 0.1
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InputError(f"schedule {self.name!r}: use one of {', '.join(SCHEDULES)}")
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0:
            raise InputError(f"warmup is {self.warmup!r}: it must be a number of steps from 0 up")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"every is {self.every!r}: it must be a number of epochs from 1 up")
        for name in ("gamma", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be from 0 to 1")

    def rate(self, lr: float, step: int, batches: int, steps: int) -> float:
        """Give the rate of a step.

        Parameters
        ----------
        lr : float
            The full rate.
        step : int
            Counted from 1.
        batches, steps : int
            Steps of an epoch, and in all.
        """
        if step <= self.warmup:
            return lr * step / self.warmup
        if self.name == "step":
            return float(lr * self.gamma ** ((step - 1) // batches // self.every))
        if self.name == "cosine":
            done = (step - 1 - self.warmup) / max(1, steps - self.warmup)
            return lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2)
        return lr
