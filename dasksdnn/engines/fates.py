"""What becomes of dead samples: all that are zero at the same layer share one fate, so one of them stands for all.

dead at layer k   --zero stays zero from k on-->  output zero, at once
                  --otherwise-->                  followers of the representative of k, which goes on in its panel
representative of k dead at layer m               its followers follow the representative of m
representative of k at the output                 its followers get its output
"""

from __future__ import annotations

from threading import Lock
from typing import Protocol

import numpy as np

from dasksdnn.network import Array


class Sink(Protocol):
    """Where finished samples go. Called by several threads at once."""

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """Take columns of a final panel: row i of the panel is output neuron order[i]."""

    def constant(self, samples: Array, output: Array | None) -> None:
        """Take samples that share one output, or the output zero (None)."""


class Fates:
    """Dead samples and their representatives.

    Parameters
    ----------
    stays_zero : bool array of shape (layers + 1,)
        Whether a sample that is zero at the output of layer k (0: the input) has the output zero.
    sink : Sink

    Notes
    -----
    A representative is named by the sample number -1 - k, which no real sample has.
    """

    def __init__(self, stays_zero: Array, sink: Sink) -> None:
        self._stays_zero = stays_zero
        self._sink = sink
        self._lock = Lock()
        self._followers: dict[int, list[Array]] = {}
        self._leads: dict[int, int] = {}
        self._outputs: dict[int, Array | None] = {}

    def die(self, k: int, samples: Array) -> int | None:
        """Note that `samples` are zero at layer `k`.

        Returns
        -------
        int or None
            The name under which one of them must go on, where no representative of layer k is on its way yet.
        """
        with self._lock:
            if self._stays_zero[k]:
                self._settle(samples, None)
                return None
            started = k in self._followers or k in self._leads or k in self._outputs
            if not started:
                self._followers[k] = []
            self._join(k, samples)
            return None if started else -1 - k

    def finish(self, name: int, output: Array) -> None:
        """Give the output of the representative `name` to all that follow it."""
        with self._lock:
            k = -1 - name
            self._outputs[k] = output
            for group in self._followers.pop(k):
                self._sink.constant(group, output)

    def _join(self, k: int, samples: Array) -> None:
        while k in self._leads:
            k = self._leads[k]
        groups = [samples[samples >= 0]]
        for name in samples[samples < 0]:
            # The representative of an earlier layer has died here: who follows it follows this one from now on.
            self._leads[-1 - int(name)] = k
            groups.extend(self._followers.pop(-1 - int(name)))
        for group in groups:
            if not group.size:
                continue
            if k in self._outputs:
                self._sink.constant(group, self._outputs[k])
            else:
                self._followers[k].append(group)

    def _settle(self, samples: Array, output: Array | None) -> None:
        groups = [samples[samples >= 0]]
        for name in samples[samples < 0]:
            k = -1 - int(name)
            self._outputs[k] = output
            groups.extend(self._followers.pop(k))
        for group in groups:
            if group.size:
                self._sink.constant(group, output)


def stays_zero(maps_zero_to_zero: Array) -> Array:
    """From "layer k maps zero to zero", shape (layers,), whether a zero at layer k (0: the input) ends as zero, shape (layers + 1,)."""
    suffix = np.logical_and.accumulate(np.asarray(maps_zero_to_zero, bool)[::-1])[::-1]
    return np.append(suffix, True)
