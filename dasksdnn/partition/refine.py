"""Refinement of a partition over all layers at once: annealed moves and swaps, with exact renaming in between.

    pilots       short runs from several temperatures: which one suits this network and this number of parts
    runs         cooled geometrically; every some rounds the parts of layers, and of sequences of layers, are named
                  anew as is best; at the end of each overload is driven out, and what saves anything is taken
    recombining  the best choice of one of the runs' results for each layer; the last runs start from there

A round tries a number of steps on every layer, first on those of even number, then on the others: these do not depend
on one another, and each has its own random numbers, so any number of threads gives the same result. Effort is counted
in steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.errors import InputError
from dasksdnn.network import Array, Network
from dasksdnn.partition.anneal import anneal
from dasksdnn.partition.state import Layers


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to refine.

    Attributes
    ----------
    runs : int
        Annealing runs.
    rounds : int
        Steps tried for each vertex in a run, at most.
    steps : int
        Steps tried in all, at most, so that large networks take minutes.
    """

    runs: int
    rounds: int
    steps: int


#: Levels by name.
EFFORTS = {
    "none": Effort(0, 0, 0),
    "fast": Effort(8, 300, 20_000_000),
    "default": Effort(40, 1_500, 150_000_000),
    "best": Effort(200, 3_000, 4_000_000_000),
}
#: Results that are recombined, at most: the best ones.
MOST_SAVED = 32
#: Times that a long run is as long as the others.
LONG = 5
#: After so many runs that found nothing better, nor did recombining, there are no more of their kind.
PATIENCE = 8
#: Rounds in all below which there are no pilots, and runs have at least a tenth of these.
FEW = 1_000
#: Where pilots and runs begin: shares of the words that a vertex reads on average.
STARTS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
#: Where cooling ends: there a step that adds a word is rare.
END = 1 / 128
#: Runs begin at the best pilot's share and at these multiples of it, in turn (at most at the warmest of `STARTS`): pilots
#: are short, which favours cold starts, and recombining wants results that differ.
WARMER = (1.0, 1.5, 3.0, 6.0, 12.0)
#: What an overload by an average vertex costs at the end, in words that a vertex reads; less where it is warmer.
STRICT = 4
#: Rows with the same columns are one vertex up to these shares of a part: whole, they can be exchanged; in pieces, balanced.
FRACTIONS = (1, 1 / 4)
#: Refining for time takes so many times fewer steps than for words before it.
TIME_SHARE = 4
#: Rounds between two renamings.
RENAME = 25
#: Steps on a layer that are worth handing it to a thread, and the most rounds that are taken together for it.
ENOUGH, MOST_TOGETHER = 500, 16
#: Bytes of a window of layers that are refined at once, and what a layer is reckoned to take of them: for each weight (itself,
#: and a pin in each of two sets of vertices) and for each input and part (counts of readers in both).
MOST_BYTES, EDGE_BYTES, COUNT_BYTES = 1 << 30, 40, 5
#: Rounds at the end: at most so many that drive overload out, and so many without a step up.
DRIVE, SETTLE = 50, 20


def find_effort(name: str) -> Effort:
    """The level of that name.

    Raises
    ------
    InputError
        If there is none; the message lists them.
    """
    if name not in EFFORTS:
        raise InputError(f"unknown effort {name!r}: use one of {', '.join(EFFORTS)}")
    return EFFORTS[name]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is made least, and within what.

    Attributes
    ----------
    message : float or None
        Words that a message costs as much as, where time counts; None where only words do.
    deadline : float or None
        `time.monotonic()` at which to stop.
    """

    message: float | None = None
    deadline: float | None = None


def refine(
    variants: Sequence[Layers], effort: Effort, goal: Goal, pool: ThreadPoolExecutor, tell: Callable[[float], None]
) -> list[Array]:
    """Refine layers that are given as one or more sets of vertices, with the same parts.

    Parameters
    ----------
    variants : sequence of Layers
        Changed in place. The pilots choose among them.
    effort, goal : Effort, Goal
    pool : ThreadPoolExecutor
        Does not change the result.
    tell : callable
        Told of the share of the work that is done.

    Returns
    -------
    list of int64 arrays
        The part of each row, layer by layer: nowhere worse than at the start, unless that had overload.
    """
    most = max(layers.vertices for layers in variants)
    rounds = min(effort.runs * effort.rounds, effort.steps // max(1, most))
    runs = min(effort.runs, max(1, rounds * 10 // FEW))
    pilot = rounds // (40 * len(variants) * len(STARTS)) if rounds >= FEW else 0
    clock = _Clock(goal.deadline, tell, len(variants) * len(STARTS) * pilot + rounds)
    annealers = [_Annealer(layers, goal.message, pool, clock) for layers in variants]
    best = annealers[0].found()
    if not rounds or not most or (goal.deadline is not None and time.monotonic() > goal.deadline):
        return best.rows
    try:
        annealer, share = annealers[-1], STARTS[-1]
        if pilot:
            tried: list[tuple[tuple[int, float], int, _Annealer, float]] = []
            for annealer in annealers:
                for start in STARTS:
                    found = annealer.run(start, pilot)
                    best = min(best, found, key=_worth)
                    tried.append((_worth(found), len(tried), annealer, start))
            _, _, annealer, share = min(tried, key=lambda pilot: pilot[:2])
        saved: list[tuple[tuple[int, float], list[Array]]] = []
        for kind in _kinds(runs, rounds // runs):
            before = _worth(best)
            for run in range(kind.runs):
                warmer = WARMER[(run + kind.warmer) % len(WARMER)]
                found = annealer.run(min(share * warmer, STARTS[0]), kind.rounds)
                best = min(best, found, key=_worth)
                if not found.overload:
                    saved.append((_worth(found), annealer.save()))
                ends, rests = run + 1 == kind.runs, (run + 1) % PATIENCE == 0
                if saved and (kind.goes_on or ends or rests):
                    found = annealer.recombine([parts for _, parts in saved])
                    saved.append((_worth(found), annealer.save()))
                    if kind.leads_on and _worth(found) <= _worth(best):
                        annealer.start_here()
                    best = min(best, found, key=_worth)
                    saved = sorted(saved, key=lambda kept: kept[0])[:MOST_SAVED]
                if rests:
                    if _worth(best) == before:
                        break
                    before = _worth(best)
    except _OutOfTimeError as stopped:
        best = min(best, stopped.found, key=_worth)
    clock.end()
    return best.rows


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    overload: int
    energy: float
    rows: list[Array]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Runs that are alike."""

    runs: int
    rounds: int
    #: Where in `WARMER` the first begins.
    warmer: int
    #: Whether they start from the best that was recombined so far; whether later ones do.
    goes_on: bool = False
    leads_on: bool = True


def _kinds(runs: int, rounds: int) -> list[_Kind]:
    """Half of the runs afresh; a quarter in a few long ones, which few layers or no structure want; a quarter goes on."""
    quarter = runs // 4
    times = min(LONG, quarter)
    kinds = [_Kind(runs - 2 * quarter, rounds, 0, leads_on=False)]
    if quarter:
        kinds += [_Kind(quarter // times, rounds * times, 2), _Kind(quarter, rounds, 0, goes_on=True)]
    return kinds


def _worth(found: _Found) -> tuple[int, float]:
    return found.overload, found.energy


class _OutOfTimeError(Exception):
    """The time limit has come."""

    def __init__(self, found: _Found) -> None:
        super().__init__()
        self.found = found


class _Clock:
    """How far the work is, and whether its time is over."""

    def __init__(self, deadline: float | None, tell: Callable[[float], None], rounds: int) -> None:
        self._deadline, self._tell, self._rounds, self._done, self._told = deadline, tell, max(1, rounds), 0, 0

    def tick(self, rounds: int) -> bool:
        """Count rounds; whether to stop."""
        self._done += rounds
        hundredths = min(100, 100 * self._done // self._rounds)
        if hundredths > self._told:
            self._told = hundredths
            self._tell(hundredths / 100)
        return self._deadline is not None and time.monotonic() > self._deadline

    def end(self) -> None:
        """All is done, perhaps sooner than was reckoned with."""
        if self._told < 100:
            self._tell(1.0)


def energy(layers: Layers, message: float | None) -> float:
    """Words, by their cost; for time also messages and the busiest part, as `anneal` has it."""
    if message is None:
        return float(sum(layers.sent()))
    loads = [layers.traffic(k, message)[1] for k in range(len(layers.sent()))]
    return sum(0.5 * float(load.sum() + load.size * load.max()) for load in loads)


class _Annealer:
    """One set of vertices, again and again from the same start."""

    def __init__(self, layers: Layers, message: float | None, pool: ThreadPoolExecutor, clock: _Clock) -> None:
        self._all, self._message, self._pool, self._clock = layers, message, pool, clock
        self._start = layers.save()
        self._traffic: list[tuple[Array, Array]] = []
        self._random = np.random.default_rng([int(layer.random[0]) for layer in layers.layers])
        read = sum(int(layer.nets.cost[layer.nets.nets].sum()) for layer in layers.layers)
        self._scale = max(1.0, read / max(1, layers.vertices))
        small = layers.vertices // max(1, len(layers.layers))
        self._together = min(MOST_TOGETHER, max(1, ENOUGH // max(1, small)))
        # Where a part has room for vertices beyond the average, no overload is needed to move them about.
        self._tight = [
            layer.cap - layer.load.mean() < 2 * layer.weight.mean() if layer.weight.size else False
            for layer in layers.layers
        ]

    def save(self) -> list[Array]:
        """The parts of all vertices."""
        return self._all.save()

    def start_here(self) -> None:
        """Let later runs start from what stands now."""
        self._start = self._all.save()

    def recombine(self, saved: Sequence[Sequence[Array]]) -> _Found:
        """Take the best of what was saved, layer by layer, and settle there."""
        self._all.restore(self._all.recombine(saved))
        self._count_traffic()
        self._settle()
        return self.found()

    def found(self) -> _Found:
        """What stands now."""
        return _Found(self._all.overload, energy(self._all, self._message), [layer.rows for layer in self._all.layers])

    def run(self, share: float, rounds: int) -> _Found:
        """Anneal from the start, cooling from `share` of what a vertex reads."""
        self._all.restore(self._start)
        self._count_traffic()
        end, calls = END * self._scale, -(-rounds // self._together)
        for i, temperature in enumerate(np.geomspace(share * self._scale, end, calls)):
            self._round(temperature, STRICT * self._scale * end / temperature)
            if i * self._together // RENAME != (i + 1) * self._together // RENAME:
                self._rename()
            if self._clock.tick(self._together):
                self._settle()
                raise _OutOfTimeError(self.found())
        self._settle()
        return self.found()

    def _count_traffic(self) -> None:
        if self._message is None:
            self._traffic = [(np.zeros((0, 0), np.int64), np.zeros(0))] * (len(self._all.layers) + 1)
        else:
            self._traffic = [self._all.traffic(k, self._message) for k in range(len(self._all.layers) + 1)]

    def _settle(self) -> None:
        """Drive overload out, and take what improves without any."""
        self._rename()
        for _ in range(DRIVE):
            if not self._all.overload:
                break
            self._round(END * self._scale, 1e6 * self._scale)
        for _ in range(SETTLE):
            self._round(0.0, 0.0)

    def _round(self, temperature: float, strictness: float) -> None:
        """Try steps on each layer, for each of its vertices as many as rounds are taken together."""
        for parity in (0, 1):
            layers = range(parity, len(self._all.layers), 2)
            list(self._pool.map(lambda k: self._steps(k, temperature, strictness), layers))

    def _steps(self, k: int, temperature: float, strictness: float) -> None:
        layer = self._all.layers[k]
        anneal(
            layer.part,
            layer.weight,
            layer.load,
            layer.cap,
            layer.nets.reads,
            layer.owns,
            (*self._traffic[k], *self._traffic[k + 1]),
            float(self._message or 0.0),
            float(temperature),
            float(strictness if self._tight[k] else 0.0),
            layer.weight.size * self._together,
            layer.random,
        )

    def _rename(self) -> None:
        """Name the parts of each layer, and of one run of layers from each, anew."""
        if self._message is not None:
            return  # renaming is exact for words only
        count = len(self._all.layers)
        for first in range(count):
            self._all.rename(first, first + 1)
        for first in range(count):
            self._all.rename(first, int(self._random.integers(first + 1, count + 1)))


def windows(edges: Sequence[int], inputs: Sequence[int], nparts: int, most: int = MOST_BYTES) -> list[tuple[int, int]]:
    """Cut the layers into windows that are refined at once, each reckoned to take `most` bytes (or of one layer).

    Parameters
    ----------
    edges, inputs : sequences of int
        Of each layer. The layer behind a window counts too, as its columns take part.
    nparts : int
    most : int
    """
    layer = [e * EDGE_BYTES + n * nparts * COUNT_BYTES for e, n in zip(edges, inputs, strict=True)]
    cut, first, held = [], 0, 0
    for k, size in enumerate(layer):
        following = layer[k + 1] if k + 1 < len(layer) else 0
        if k > first and held + size + following > most:
            cut.append((first, k))
            first, held = k, 0
        held += size
    return [*cut, (first, len(layer))]


def _tell_part(tell: Callable[[float], None], done: int, total: int, share: float) -> None:
    tell((done + share) / total)


def refine_network(
    net: Network,
    owner: list[Array],
    edges: Sequence[int],
    nparts: int,
    epsilon: float,
    seeds: Sequence[int],
    effort: Effort,
    goal: Goal,
    training: bool,
    count: Callable[[Any, Array], None],
    tell: Callable[[float], None],
) -> None:
    """Refine a whole network window by window, the layers around a window fixed.

    Parameters
    ----------
    net : Network
        Each layer is loaded once, and once more where it is the one behind a window.
    owner : list of L int64 arrays
        The part of each row of each layer; replaced by the refined ones.
    edges : sequence of L ints
        Nonzeros of each layer.
    nparts, epsilon : int, float
    seeds : sequence of L ints
    effort, goal : Effort, Goal
    training : bool
        Whether the words of all layers but the first count twice, as they move forward and back.
    count : callable
        Called with the weights and the final parts of the rows of each layer, in order.
    tell : callable
        Told of the share of the work that is done.
    """
    cut = windows(edges, net.widths[:-1], nparts)
    share = replace(effort, steps=effort.steps // len(cut))
    with ThreadPoolExecutor(host.threads(), "sdnn-refine") as pool:
        for w, (first, last) in enumerate(cut):
            weights = [net[k].weights for k in range(first, min(last + 1, len(net)))]
            if goal.deadline is None or time.monotonic() < goal.deadline:
                costs = [2 if training and k else 1 for k in range(first, first + len(weights))]
                around = [owner[first - 1] if first else None, *owner[first : first + len(weights)]]
                made = partial(_variants, weights, nparts, epsilon, costs, seeds[first:last], last < len(net))
                told = partial(_tell_part, tell, w, len(cut))
                owner[first:last] = _refine_window(made, around, last - first, share, goal, pool, told)
            for k in range(first, last):
                count(weights[k - first], owner[k])
            del weights  # before the next window's are there


def _variants(
    weights: Sequence[Any],
    nparts: int,
    epsilon: float,
    costs: Sequence[int],
    seeds: Sequence[int],
    behind: bool,
    owner: Sequence[Array | None],
    fractions: Sequence[float] = FRACTIONS,
) -> list[Layers]:
    """The sets of vertices that are tried; one, where they are the same."""
    made = [Layers(weights, owner, nparts, epsilon, costs, seeds, behind, fraction) for fraction in fractions]
    return made if len({layers.vertices for layers in made}) > 1 else made[:1]


def _refine_window(
    made: Callable[..., list[Layers]],
    owner: list[Array | None],
    count: int,
    effort: Effort,
    goal: Goal,
    pool: ThreadPoolExecutor,
    tell: Callable[[float], None],
) -> list[Array]:
    """Refine `count` layers. For time, words come first: from what sends few, a fraction of the steps brings the rest down."""
    if goal.message is None:
        return refine(made(owner), effort, goal, pool, tell)
    words = refine(made(owner), effort, replace(goal, message=None), pool, partial(_tell_part, tell, 0, 2))
    starts = [owner, [owner[0], *words, *owner[1 + count :]]]
    start = min(starts, key=lambda around: energy(made(around, FRACTIONS[:1])[0], goal.message))
    less = replace(effort, runs=-(-effort.runs // TIME_SHARE), steps=effort.steps // TIME_SHARE)
    return refine(made(start), less, goal, pool, partial(_tell_part, tell, 1, 2))
