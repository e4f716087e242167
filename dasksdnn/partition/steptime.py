"""The time of a step on paper: what a counted partition would cost on a machine that nobody has at hand.

    layer k:   compute              most nonzeros of a part x batch / rate
               latency              most messages of a part x seconds a message
               words                most words of a part x batch x bytes / bandwidth
    a step:    inference            sum over the layers
               training             compute three times (forward, gradient of inputs, gradient of weights),
                                    messages and words twice (expand, and fold in reverse)

The first layer's inputs come from a dataset that every part reads, so its words and messages cost nothing here, though
the counts of a partition include them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dasksdnn.errors import InputError
from dasksdnn.partition.metrics import Metrics

#: Assumed of a 100 Gb/s network of InfiniBand's class, where nothing is measured: a short message from one MPI rank to
#: another takes between one and two microseconds, and 100 Gb/s are 12.5e9 bytes a second. Ping-pong programs, such as
#: `osu_latency` and `osu_bw` of the OSU micro-benchmarks, tell what yours does.
LATENCY, BANDWIDTH = 1.5e-6, 12.5e9


@dataclass(frozen=True, slots=True)
class Machine:
    """What one part, on one core, has to itself.

    Raises
    ------
    InputError
        If a number cannot be a rate, or the latency a time.
    """

    #: Multiply-adds a second at the step's batch size.
    rate: float
    #: Seconds a message, however short.
    latency: float = LATENCY
    #: Bytes a second that it can send.
    bandwidth: float = BANDWIDTH

    def __post_init__(self) -> None:
        for name in ("rate", "bandwidth"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} {getattr(self, name)} is not usable: give a number above 0, such as 1e9")
        if not (math.isfinite(self.latency) and self.latency >= 0):
            raise InputError(f"latency {self.latency} is not usable: give seconds, from 0 up, such as {LATENCY:g}")


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step."""

    compute: float
    #: Of messages, however short they are.
    latency: float
    #: Of the words in them.
    bandwidth: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.compute + self.latency + self.bandwidth

    def as_dict(self) -> dict[str, float]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "total": self.total}


def step_time(metrics: Metrics, machine: Machine, batch: int, itemsize: int = 4, training: bool = True) -> StepTime:
    """Model a step of a partitioned network: the alpha-beta model, layer after layer, each as slow as its busiest part.

    Parameters
    ----------
    metrics : Metrics
        The counts.
    machine : Machine
        One core a part.
    batch : int
        Samples of the step.
    itemsize : int
        Bytes of a word.
    training : bool
        Whether gradients are computed too; otherwise inference.

    Returns
    -------
    StepTime
        In seconds.

    Raises
    ------
    InputError
        If the batch has no sample.

    Notes
    -----
    Left out: that messages travel while a core computes, which makes a step shorter by up to the smaller of the two;
    that messages share links and network cards, that a part waits for a sender which is late, and that one receives more
    than it sends, which make it longer. Unpacking, activations, the loss and the update of weights are free. A part's
    rate is taken to be that of whole layers, forward and backward alike, which flatters assignments that tear apart rows
    which the kernels compute together. The fold is charged as the expand, though the busiest sender of one is not always
    that of the other; the gradient of the network's inputs is charged, too.
    """
    compute = step_alone(int(metrics.max_nonzeros_per_layer.sum()), machine, batch, training).compute
    directions = 2 if training else 1
    return StepTime(
        compute,
        directions * int(metrics.max_messages_per_layer[1:].sum()) * machine.latency,
        directions * int(metrics.max_send_per_layer[1:].sum()) * batch * itemsize / machine.bandwidth,
    )


def step_alone(edges: int, machine: Machine, batch: int, training: bool = True) -> StepTime:
    """Model a step of a network in one part, which sends nothing.

    Parameters
    ----------
    edges : int
        Nonzeros of all layers.
    machine, batch, training
        As `step_time` takes them.

    Returns
    -------
    StepTime
        In seconds.

    Raises
    ------
    InputError
        If the batch has no sample.
    """
    if batch < 1:
        raise InputError(f"batch {batch} is too small: give at least 1")
    products = 3 if training else 1
    return StepTime(products * edges * batch / machine.rate, 0.0, 0.0)


def latency_bound_from(steps: Mapping[int, StepTime]) -> int | None:
    """The number of parts from which on messages cost more than the words in them; None where they never do.

    Parameters
    ----------
    steps : mapping of int to StepTime
        By number of parts: only these are looked at.
    """
    found = None
    for nparts in sorted(steps, reverse=True):
        if steps[nparts].latency <= steps[nparts].bandwidth:
            break
        found = nparts
    return found


def best_nparts(steps: Mapping[int, StepTime]) -> int:
    """The number of parts with the shortest step: more do not help any longer (among those in `steps`)."""
    return min(sorted(steps), key=lambda nparts: steps[nparts].total)
