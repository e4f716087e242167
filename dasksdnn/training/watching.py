"""What a run trains on, and what it hears of each batch: samples with their targets, sums of losses and hits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dasksdnn.network import Activation, Array
from dasksdnn.training.losses import Loss
from dasksdnn.training.stream import SampleStream


@dataclass(frozen=True, slots=True)
class Samples:
    """A dataset, what its outputs should be, and the stream that reads both.

    Attributes
    ----------
    dataset, targets : see `sources.datasets.Dataset` and `training.targets`
    stream : SampleStream
    """

    dataset: Any
    targets: Any
    stream: SampleStream

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.dataset.samples)

    def of(self, samples: Array) -> Array:
        """Targets of these samples."""
        taken: Array = self.targets.take(samples)
        return taken


@dataclass(slots=True)
class Sums:
    """Sums over the part of an epoch that is done."""

    loss: float = 0.0
    correct: int = 0
    samples: int = 0
    seconds: float = 0.0


class Watch:
    """Takes the outputs of one batch: sums its loss, and writes the deltas."""

    def __init__(self, loss: Loss, activation: Activation, targets: Array, sums: Sums) -> None:
        self._loss, self._activation, self._targets, self._sums = loss, activation, targets, sums
        self._weight = 1 / len(targets)

    def __call__(self, y: Array, count: int, start: int, rows: Array, delta: Array | None) -> None:
        targets = self._targets[start : start + count]
        if delta is None:
            loss, correct = self._loss.value(y, count, targets, rows, self._activation)
        else:
            loss, correct = self._loss.value_and_delta(y, count, targets, rows, self._activation, delta, self._weight)
        if not math.isfinite(loss):
            raise FloatingPointError
        self._sums.loss += loss
        self._sums.correct += correct
        self._sums.samples += count
