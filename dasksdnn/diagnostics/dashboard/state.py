"""What is kept of the messages of runs (see `engines.cluster.telemetry`): the newest run, bounded however long it is.

messages --take--> State.run --> panels, which look at it twice a second
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from dasksdnn.network import Array

#: Points of a line, and rectangles of a timeline, at most: the newest stay.
POINTS, RECTANGLES = 2_000, 4_000
#: Seconds after which a worker that has told nothing does nothing.
STALE = 1.5


class Trail:
    """The newest rows of a table that grows; a reader that has seen so many asks for those that came since."""

    def __init__(self, most: int) -> None:
        self.rows: deque[tuple[Any, ...]] = deque(maxlen=most)
        self.count = 0

    def add(self, *row: Any) -> None:
        """Add a row."""
        self.rows.append(row)
        self.count += 1

    def since(self, seen: int) -> list[tuple[Any, ...]]:
        """Rows that came after the first `seen` of all, as far as they are kept."""
        new = min(self.count - seen, len(self.rows))
        return list(self.rows)[len(self.rows) - new :]


@dataclass
class WorkerState:
    """A worker, as it told of itself last.

    Attributes
    ----------
    address, name : str
    parts : tuple of int
        That it owns; none where samples are split, and it has all.
    edges : int
        Stored weights of its parts.
    resident, budget : int
        Bytes.
    took : tuple of float
        Seconds of computing, waiting and packing, of all that its last message covers.
    seconds : float
        How long that was, times the threads whose times are counted each.
    heard : float
        When.
    read : int
        Bytes of stored arrays that it has read.
    """

    address: str
    name: str
    parts: tuple[int, ...] = ()
    edges: int = 0
    resident: int = 0
    budget: int = 0
    took: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seconds: float = 1.0
    heard: float = 0.0
    read: int = 0

    @property
    def label(self) -> str:
        """Its name, and its parts."""
        return f"{self.name}: {ranges(self.parts)}" if self.parts else self.name

    def shares(self, now: float) -> tuple[float, ...]:
        """Per cent of its time that it computed, waited and packed, lately."""
        stale = now - self.heard > STALE
        return tuple(0.0 if stale else min(100.0, 100 * t / self.seconds) for t in self.took)


def ranges(numbers: Iterable[int], most: int = 3) -> str:
    """Numbers for people: "part 3", "parts 0-3, 8", at most so many ranges."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:most]]
    more = ["..."] if len(runs) > most else []
    return f"part{'' if len(runs) == 1 and runs[0][0] == runs[0][1] else 's'} {', '.join(shown + more)}"


@dataclass
class RunState:
    """One run.

    Attributes
    ----------
    facts : dict
        What its first message said: task, store, layers, samples, ...
    began : float
    ended : str or None
        "done" or "failed".
    workers : dict
        Address -> worker, in the order of owners.
    planned, measured : arrays of shape (owners, owners)
        [sender, receiver]: words a sample, forward, of the communication plan; words sent so far. Both begin anew where workers
        are lost, and the owners are others.
    before : (int, int)
        Samples that had gone forward and back before these owners.
    begun, done : int
        Samples.
    firsts : set of int
        Layers that are the first of those that are computed together.
    batches : Trail
        Seconds, batches in flight, samples done.
    rectangles : Trail
        Began, ended, worker's address, first layer, seconds of computing, waiting, packing, and how much of its time a worker
        was busy, for the layer that took most; less for others.
    learned : Trail
        Epochs, loss, accuracy of the batches lately.
    epochs : list of dict
        See `training.history.Epoch`.
    reads : Trail
        Seconds, bytes read by all workers so far.
    """

    name: str
    began: float
    facts: dict[str, Any]
    ended: str | None = None
    lasted: float = 0.0
    workers: dict[str, WorkerState] = field(default_factory=dict)
    planned: Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    measured: Array = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    before: tuple[int, int] = (0, 0)
    begun: int = 0
    done: int = 0
    firsts: set[int] = field(default_factory=set)
    batches: Trail = field(default_factory=lambda: Trail(POINTS))
    rectangles: Trail = field(default_factory=lambda: Trail(RECTANGLES))
    learned: Trail = field(default_factory=lambda: Trail(POINTS))
    epochs: list[dict[str, Any]] = field(default_factory=list)
    reads: Trail = field(default_factory=lambda: Trail(POINTS))

    @property
    def layers(self) -> int:
        """Of the network."""
        return int(self.facts["layers"])

    @property
    def trains(self) -> bool:
        """Whether it is training."""
        return bool(self.facts["task"] == "train")

    @property
    def seconds(self) -> float:
        """From its beginning to what was heard last."""
        heard = [trail.rows[-1][0] for trail in (self.batches, self.reads) if trail.rows]
        return float(max([1.0, *heard]))

    @property
    def expected(self) -> Array:
        """Words that owners would have sent for the samples so far, were none of them dead: in training also back."""
        forward, back = self.passed(self.begun)
        words: Array = self.planned * (forward - self.before[0]) + self.planned.T * (back - self.before[1])
        return words

    def passed(self, samples: int) -> tuple[int, int]:
        """How many samples went forward and back, where inference has come to so many."""
        if not self.trains:
            return samples, 0
        return self.done + int(self.facts["validation"]) * len(self.epochs), self.done

    def span(self, first: int) -> tuple[int, int]:
        """The layers (0-based, the last not included) that are computed together, from their first."""
        return first, min((f for f in self.firsts if f > first), default=self.layers)

    def title(self) -> str:
        """A line for people."""
        facts, what = self.facts, "training" if self.trains else "inference"
        how = ", parts split" if self.planned.shape[0] > 1 else ", samples split"
        samples = f"{self.done:,} of {facts['samples']:,} samples"
        ended = {None: "running", "done": f"done in {self.lasted:.1f} s", "failed": "failed"}[self.ended]
        return f"{what} of {PurePath(facts['store']).name}{how}, {len(self.workers)} workers: {samples}, {ended}"


class State:
    """The newest run.

    Attributes
    ----------
    run : RunState or None
    """

    def __init__(self) -> None:
        self.run: RunState | None = None

    def take(self, message: Mapping[str, Any], now: float) -> None:
        """Take a message in.

        Parameters
        ----------
        message : mapping
            See `engines.cluster.telemetry`.
        now : float
            When it came: clocks of workers may differ.
        """
        kind, name = message["kind"], message["run"]
        if kind == "run":
            self.run = RunState(name, now, {k: v for k, v in message.items() if k not in ("kind", "run")})
        elif self.run is not None and self.run.name == name:  # what comes late of an earlier run is of no interest
            getattr(self, f"_take_{kind}")(self.run, message, now)

    def _take_crew(self, run: RunState, message: Mapping[str, Any], now: float) -> None:
        owners = len(message["edges"])
        planned = np.array(message["words"], np.int64).reshape(owners, owners)
        if not np.array_equal(planned, run.planned):  # else it is another crew of the same owners
            run.planned, run.measured = planned, np.zeros_like(planned)
            run.before = run.passed(run.done)
        for i, address in enumerate(message["addresses"]):
            worker = run.workers.setdefault(address, WorkerState(address, address))
            worker.edges = message["edges"][i % owners]
            worker.parts = tuple(message["parts"][i % owners]) if owners > 1 else ()

    def _take_batches(self, run: RunState, message: Mapping[str, Any], now: float) -> None:
        run.begun, run.done = message["begun"], message["done"]
        run.batches.add(now - run.began, message["flying"], run.done)

    def _take_counts(self, run: RunState, message: Mapping[str, Any], now: float) -> None:
        address, seconds = message["worker"], message["seconds"]
        worker = run.workers.setdefault(address, WorkerState(address, address))
        worker.name, worker.budget, worker.resident = message["name"], message["budget"], message["resident"]
        worker.heard, worker.seconds = now, max(1e-9, seconds * message["lanes"])
        took = np.array(message["took"], np.float64).reshape(-1, 3) / 1e6
        worker.took = tuple(took.sum(axis=0).tolist())
        worker.read += message["read"]
        run.reads.add(now - run.began, sum(w.read for w in run.workers.values()))
        began, each = max(0.0, now - seconds - run.began), took.sum(axis=1)
        busy = min(1.0, each.sum() / worker.seconds) / max(1e-9, each.max(initial=0.0))
        for first, row in zip(message["layers"], took.tolist(), strict=True):
            run.firsts.add(first)
            run.rectangles.add(began, now - run.began, address, first, *row, busy * sum(row))
        sent, owners = message["sent"], len(run.measured)
        if owners > 1 and len(sent) == owners:
            run.measured[message["owner"] % owners] += np.array(sent, np.int64)

    def _take_learned(self, run: RunState, message: Mapping[str, Any], now: float) -> None:
        run.done = message["done"]
        run.batches.add(now - run.began, 1, run.done)  # all ranks take a step together
        run.learned.add(message["epoch"], message["loss"], message["accuracy"])
        run.epochs += message["epochs"]

    def _take_end(self, run: RunState, message: Mapping[str, Any], now: float) -> None:
        run.ended, run.lasted = message["ended"], now - run.began
        if "epochs" in message:
            run.epochs = list(message["epochs"])
            run.done = sum(epoch["samples"] for epoch in run.epochs)
        elif run.ended == "done":
            run.done = run.begun
            run.batches.add(run.lasted, 0, run.done)
