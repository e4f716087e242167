"""Choosing how a cluster runs inference: samples split or parts split, each projected and priced; and how large batches are.

samples split   every worker reads all weights and exchanges nothing: time of one worker with its share of the samples
parts split     every worker reads its parts only; words and tasks for every sample and batch come on top
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

from dasksdnn import markup
from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.plan.memory import Settings, Sizes
from dasksdnn.plan.schedule import HALF_WIDTH, KERNEL_RATE, MIB, READ_RATE, Plan

#: Assumed until they are measured: seconds that the scheduler takes for a task, bytes a second between workers through the
#: network (of each host), and through shared memory (of one host).
TASK_SECONDS, NETWORK_RATE, SHARED_RATE = 1e-3, 0.6e9, 4e9
#: Batches for each worker, at least: where one worker is slower, the others take its share, and a lost batch costs little.
BATCHES = 4
#: Seconds of computing that a batch takes, about, where all samples live: more than its task costs, and no more than may
#: be lost with a worker.
LEAST_SECONDS, MOST_SECONDS = 0.25, 60.0

SAMPLES, PARTS = "samples split", "parts split"
NO_PARTS = (
    "parts cannot be split: that takes a store of two parts or more, and two workers or more; partition the network, "
    "or add workers"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a plan must know of a cluster.

    Attributes
    ----------
    workers, threads : int
        Workers, and threads of each.
    hosts : int
        Machines that they are on.
    budget : int
        Bytes that each worker may hold.
    """

    workers: int
    threads: int
    hosts: int
    budget: int


@dataclass(frozen=True, slots=True)
class PartsSplit:
    """What parts split costs by the plan of communication between owners.

    Attributes
    ----------
    owners : int
    words : int
        Sent per sample, the first layer's left out.
    tasks : int
        Tasks of a batch.
    share : float
        Of the multiply-adds of all samples, those of the busiest worker.
    batch : int
        Samples of a batch.
    projected : int
        Bytes that a worker holds at its peak.
    """

    owners: int
    words: int
    tasks: int
    share: float
    batch: int
    projected: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run on a cluster.

    Attributes
    ----------
    strategy : str
    seconds : float
        Predicted.
    projected : int
        Bytes that a worker holds at its peak.
    fits : bool
    why : str
        What makes up the time.
    """

    strategy: str
    seconds: float
    projected: int
    fits: bool
    why: str


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """The chosen way to run on a cluster, and what it was chosen from.

    Attributes
    ----------
    samples : int
    cluster : Cluster
    chosen : Choice
    candidates : tuple of Choice
    worker : Plan
        Of one worker: how it runs its batches, where samples are split.
    batch : int
        Samples of a batch.
    forced : bool
        The user chose, not the prediction.
    """

    samples: int
    cluster: Cluster
    chosen: Choice
    candidates: tuple[Choice, ...]
    worker: Plan
    batch: int
    forced: bool = False

    HEADER = ("strategy", "projected MiB a worker", "predicted s", "", "why")

    @property
    def budget(self) -> int:
        """Bytes that a worker may hold."""
        return self.cluster.budget

    @property
    def projected(self) -> int:
        """Projected peak of a worker, in bytes."""
        return self.chosen.projected

    @property
    def settings(self) -> Settings:
        """How a worker runs its batches."""
        return self.worker.settings

    @property
    def smallest(self) -> int:
        """The smallest budget of a worker that would work, in bytes."""
        return self.worker.smallest

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            **self.worker.as_dict(),
            "samples": self.samples,
            "projected_bytes": self.projected,
            "strategy": self.chosen.strategy,
            "worker_strategy": self.worker.chosen.strategy,
            "predicted_seconds": self.chosen.seconds,
            "workers": self.cluster.workers,
            "threads_per_worker": self.cluster.threads,
            "hosts": self.cluster.hosts,
            "batch_of_a_task": self.batch,
        }

    def rows(self) -> list[tuple[str, ...]]:
        """The table of candidates."""
        return [
            (
                c.strategy,
                f"{c.projected / MIB:.0f}",
                f"{c.seconds:.1f}",
                ("forced" if self.forced else "chosen") if c is self.chosen else "fits" if c.fits else "over budget",
                c.why,
            )
            for c in self.candidates
        ]

    def __repr__(self) -> str:
        table = [self.HEADER, *self.rows()]
        wide = [max(len(row[i]) for row in table) for i in range(len(self.HEADER))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in table]
        c = self.cluster
        head = (
            f"<dasksdnn.ClusterPlan: {self.samples:,} samples in batches of {self.batch:,} on {c.workers} workers of "
            f"{c.threads} threads and {c.budget / MIB:.0f} MiB each>"
        )
        return "\n".join([head, *lines])

    def _repr_html_(self) -> str:
        c = self.cluster
        head = f"dasksdnn.ClusterPlan: {self.samples:,} samples in batches of {self.batch:,}"
        rows = {"workers": f"{c.workers:,} of {c.threads} threads and {c.budget / MIB:,.0f} MiB each"}
        return markup.card(
            head, markup.facts(rows), markup.grid(self.HEADER, self.rows(), self.candidates.index(self.chosen))
        )


def choose(
    sizes: Sizes,
    samples: int,
    cluster: Cluster,
    worker: Plan,
    seconds: float,
    batch: int,
    parts: PartsSplit | None = None,
    forced: str | None = None,
) -> ClusterPlan:
    """Choose between the strategies.

    Parameters
    ----------
    sizes : Sizes
        Of the network.
    samples : int
    cluster : Cluster
    worker : Plan
        Of one worker, for a batch.
    seconds : float
        Predicted for one worker with its share of the samples.
    batch : int
        Samples of a batch.
    parts : PartsSplit or None
        None where parts cannot be split: the store has one part, or there is one worker.
    forced : str, optional
        SAMPLES or PARTS.

    Raises
    ------
    InputError
        The forced strategy is impossible.
    MemoryBudgetError
        It does not fit.
    """
    candidates = [_samples_split(samples, cluster, worker, seconds, batch)]
    if parts is not None:
        candidates.append(_parts_split(sizes, samples, cluster, worker, parts))
    if forced is None:
        chosen = min((c for c in candidates if c.fits), key=lambda c: c.seconds)
    else:
        found = next((c for c in candidates if c.strategy == forced), None)
        if found is None:
            raise InputError(NO_PARTS)
        if not found.fits:
            raise MemoryBudgetError(
                f"{forced} takes about {found.projected / MIB:.0f} MiB on each worker, and {cluster.budget / MIB:.0f} MiB are "
                "allowed: allow more, or add workers"
            )
        chosen = found
    size = parts.batch if parts is not None and chosen.strategy == PARTS else batch
    return ClusterPlan(samples, cluster, chosen, tuple(candidates), worker, size, forced is not None)


def _samples_split(samples: int, cluster: Cluster, worker: Plan, seconds: float, batch: int) -> Choice:
    seconds += TASK_SECONDS * -(-samples // batch)
    where = "stay on every worker" if worker.settings.resident else "are read again for each batch"
    return Choice(SAMPLES, seconds, worker.projected, True, f"weights {where}, nothing is exchanged")


def _parts_split(sizes: Sizes, samples: int, cluster: Cluster, worker: Plan, parts: PartsSplit) -> Choice:
    tile = worker.settings.tile
    rate = KERNEL_RATE * cluster.threads * tile / (tile + HALF_WIDTH)
    computing = parts.share * sizes.edges * samples / rate
    reading = parts.share * sizes.weights / READ_RATE
    # What crosses between hosts goes through each one's network; within one host, all goes through its memory.
    bandwidth = SHARED_RATE if cluster.hosts == 1 else NETWORK_RATE * cluster.hosts
    moving = parts.words * samples * sizes.itemsize / bandwidth
    scheduling = TASK_SECONDS * parts.tasks * -(-samples // parts.batch)
    why = (
        f"computing {computing:.1f} s, reading {reading:.1f} s, {parts.words:,} words a sample {moving:.1f} s, "
        f"{parts.tasks:,} tasks a batch {scheduling:.1f} s"
    )
    seconds = computing + reading + moving + scheduling
    return Choice(PARTS, seconds, parts.projected, parts.projected <= cluster.budget, why)


def batch_size(
    samples: int, workers: int, threads: int, edges: int, *, units: Sequence[int], in_flight: int = 1, most: int
) -> int:
    """Samples of a batch: enough for its task to be worth while, few enough for all workers to have several.

    Parameters
    ----------
    samples, workers : int
    threads : int
        Of each worker.
    edges : int
        Of the network.
    units : sequence of int
        Samples that are written together, then such as are read together: batches are made of whole ones of the former, and
        of the latter where that is possible.
    in_flight : int
        Samples for which a worker reads the weights once, where they do not stay.
    most : int
        Samples that memory has room for.
    """
    rate = KERNEL_RATE * threads / max(1, edges)
    share = -(-samples // max(1, workers))
    wanted = max(-(-share // BATCHES), min(share, int(LEAST_SECONDS * rate)), in_flight)
    wanted = max(1, min(wanted, max(in_flight, int(MOST_SECONDS * rate)), most, samples))
    unit = max(1, units[0])
    for other in units[1:]:
        if lcm(unit, max(1, other)) <= max(wanted, unit):
            unit = lcm(unit, max(1, other))
    return max(unit, wanted // unit * unit)
