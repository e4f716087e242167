"""Choosing how to train within a budget: what stays in memory, what streams, which activations are computed again.

    layers   | 1 2 3 4 | 5 6 7 8 | 9 10 11 12 |      slabs: the first of them stay, the others pass through buffers
    kept     0   2   4   6   8   10    12            every second activation and every slab's edge; others are recomputed

A step reads a streaming slab forward (pattern, weights), and whole on the way back (moments and the pattern by columns,
too), and writes its state. A batch that is too wide goes in rounds whose gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from dasksdnn.errors import MemoryBudgetError
from dasksdnn.plan.memory import SLACK, Sizes, cut_slabs, largest_sizes
from dasksdnn.plan.schedule import HALF_WIDTH, KERNEL_RATE, MIB, NARROWEST, SLAB_BYTES

#: Deltas, and dropped inputs, that stand at once (see kernels/tape.py).
DELTA_PANELS, DROPPED_PANELS = 3, 2
#: Bytes of a panel that stays near while a gradient is computed, and no panel is wider than so many samples.
NEAR, WIDEST = 1 << 19, 256
#: Threads that settings are chosen for.
NOMINAL_THREADS = 2
#: Assumed until they are measured: bytes a second from and to scratch.
SCRATCH_RATE = 1.5e9
#: A layer whose pattern changes takes so many bytes an edge (measured: 110); then its windows are written.
EVOLVING = 130
#: Panels of outputs that a loss holds while it is computed.
LOSS_PANELS = 4
#: Writing an array of a checkpoint takes this many times its size.
WRITING = 4


@dataclass(frozen=True, slots=True)
class Ranks:
    """How training is spread: parts over owners, samples over replicas; rank = replica * owners + owner."""

    owners: int = 1
    replicas: int = 1

    @property
    def size(self) -> int:
        """All of them."""
        return self.owners * self.replicas


@dataclass(frozen=True, slots=True)
class TrainingSizes:
    """What a plan must know of a network, an optimizer and a store.

    Attributes
    ----------
    network : Sizes
    position : int
        Bytes of a position in a panel.
    moments : int
        Of the optimizer, for each weight.
    largest : int
        Bytes of the largest array that a checkpoint writes at once.
    dropping : bool
    clipping : bool
        The whole gradient is needed before any of it is applied.
    evolving : bool
        The pattern changes between epochs.
    ranks : Ranks
        How many train together. Sizes are then those of the largest owner.
    exchanged : int
        Words that an owner sends or receives at once per sample, at most; and the outputs of all owners.
    """

    network: Sizes
    position: int
    moments: int
    largest: int
    dropping: bool = False
    clipping: bool = False
    evolving: bool = False
    ranks: Ranks = Ranks()
    exchanged: int = 0

    def forward_bytes(self, k: int) -> int:
        """Of layer k (0-based), for the way forward: pattern and weights."""
        n = self.network
        rows, edges = n.widths[k + 1], n.layer_edges[k]
        return edges * (self.position + n.itemsize) + rows * (16 + 4 + n.itemsize) + 256

    def state_bytes(self, k: int, held: bool) -> int:
        """Of layer k: what a step changes."""
        n = self.network
        return (n.layer_edges[k] + n.widths[k + 1]) * n.itemsize * (1 + self.moments + held)

    def slab_bytes(self, slab: tuple[int, int], held: bool) -> int:
        """Of a slab, all of it."""
        n, total = self.network, 0
        for k in range(*slab):
            back = n.layer_edges[k] * (self.position + 4) + n.widths[k] * 20
            moving = (n.layer_edges[k] + n.widths[k + 1]) * n.itemsize * (self.moments + held)
            total += self.forward_bytes(k) + back + moving + 512
        return total + 4 * n.widths[slab[0]]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """One way to train.

    Attributes
    ----------
    tile : int
        Samples of a panel.
    tiles : int
        Panels that go together: a round.
    slabs : tuple of (first, last)
        Layers whose weights are held, read and written together.
    resident : int
        The first so many slabs stay in memory.
    buffers : int
        Slabs that the others pass through; 0 where all stay.
    every : int
        Of the activations within a slab, every so many are kept.
    held : bool
        The whole gradient is held: rounds add to it, or it is clipped.
    threads : int
    """

    tile: int
    tiles: int
    slabs: tuple[tuple[int, int], ...]
    resident: int
    buffers: int
    every: int
    held: bool
    threads: int

    @property
    def samples(self) -> int:
        """Of a round."""
        return self.tile * self.tiles

    def segments(self) -> tuple[tuple[int, int], ...]:
        """Runs of layers between activations that are kept."""
        return tuple(
            (a, min(a + self.every, last)) for first, last in self.slabs for a in range(first, last, self.every)
        )

    def places(self, widths: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Where in a tile each activation stands, in rows, and how many rows there are."""
        at, reached = [0] * len(widths), widths[0]
        for _, last in self.segments():
            at[last], reached = reached, reached + widths[last]
        work = reached
        for first, last in self.segments():
            place = work
            for k in range(first + 1, last):
                at[k], place = place, place + widths[k]
            reached = max(reached, place)
        return tuple(at), reached

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainingSettings:
        """Read what `as_dict` gave."""
        return cls(**{**record, "slabs": tuple((int(a), int(b)) for a, b in record["slabs"])})


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How training will run, and what it is expected to take.

    Attributes
    ----------
    settings : TrainingSettings
    batch, budget, projected, smallest : int
        Samples of a step; bytes of the budget, of the projected peak, and of the smallest budget that would work.
    step_seconds : float
        Predicted.
    step_bytes : int
        Read from and written to scratch, a step.
    state : int
        Bytes of weights and moments.
    ranks : Ranks
        How many train together; all numbers are of one of them.
    """

    settings: TrainingSettings
    batch: int
    budget: int
    projected: int
    smallest: int
    step_seconds: float
    step_bytes: int
    state: int
    ranks: Ranks = Ranks()

    @property
    def strategy(self) -> str:
        """In words."""
        s = self.settings
        stay = (
            "weights stay" if not s.buffers else f"weights stream ({len(s.slabs) - s.resident} of {len(s.slabs)} slabs)"
        )
        kept = "every activation is kept" if s.every == 1 else f"every {s.every}th activation is kept"
        rounds = -(-self.batch // s.samples)
        split = [f"parts split over {self.ranks.owners} ranks"] if self.ranks.owners > 1 else []
        split += [f"samples split over {self.ranks.replicas} ranks"] if self.ranks.replicas > 1 else []
        return ", ".join([*split, stay, kept, *([f"{rounds} rounds a step"] if rounds > 1 else [])])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "strategy": self.strategy, "settings": self.settings.as_dict()}


def largest(each: Sequence[TrainingSizes]) -> TrainingSizes:
    """Sizes that are no less than any of these, which differ in the share of a network that they are of."""
    network = largest_sizes([s.network for s in each])
    return replace(each[0], network=network, exchanged=max(s.exchanged for s in each))


def projected_training(sizes: TrainingSizes, settings: TrainingSettings, *, reserved: int, input_bytes: int) -> int:
    """Project the peak of training in bytes: loading, steps, and writing a checkpoint."""
    n, s = sizes.network, settings
    widest = max(n.widths)
    _, rows = s.places(n.widths)
    rows += DELTA_PANELS * widest + (DROPPED_PANELS * widest if sizes.dropping else 0)
    tape = s.samples * (rows + 2 * sizes.exchanged) * n.itemsize
    each = [sizes.slab_bytes(slab, s.held) for slab in s.slabs]
    stay = sum(each[: s.resident])
    apart = sizes.ranks.replicas - 1  # a range of a slab's gradient comes from each of the other replicas
    summed = max(sum((n.layer_edges[k] + n.widths[k + 1]) * n.itemsize for k in range(*slab)) for slab in s.slabs)
    passing = max(each[s.resident :], default=0)
    scratch = 0 if s.held else max(n.layer_edges) * n.itemsize
    loading = stay + 3 * max(each)
    sums = summed * apart // (1 + apart)
    steps = (
        stay
        + s.buffers * passing
        + tape
        + scratch
        + sums
        + input_bytes
        + LOSS_PANELS * n.widths[-1] * s.tile * n.itemsize
    )
    writing = WRITING * sizes.largest
    changing = 0
    if sizes.evolving:  # while nothing of the above is held, but what a probe reads of a layer is
        changing = EVOLVING * max(n.layer_edges) + 3 * widest * s.samples * n.itemsize + writing
    return reserved + SLACK + max(loading, steps + writing, changing + input_bytes)


def plan_training(
    sizes: TrainingSizes,
    batch: int,
    budget: int,
    *,
    reserved: int,
    threads: int,
    input_bytes: int,
) -> TrainingPlan:
    """Choose how to train on one machine.

    Parameters
    ----------
    sizes : TrainingSizes
    batch : int
        Samples of a step.
    budget, reserved : int
        Bytes that the process may hold at its peak, and holds already.
    threads : int
    input_bytes : int
        Bytes that the samples' stream, and a batch of it, hold.

    Raises
    ------
    MemoryBudgetError
        Nothing fits; names the smallest budget that would.
    """

    def project(settings: TrainingSettings) -> int:
        return projected_training(sizes, settings, reserved=reserved, input_bytes=input_bytes)

    # Chosen as if for a number of threads that is always the same: theirs changes no bit, that of tiles does.
    best: tuple[float, int, TrainingSettings] | None = None
    smallest: int | None = None
    for settings in _ways(sizes, batch, NOMINAL_THREADS, budget, project):
        need = project(settings)
        least = need if not settings.buffers else project(replace(settings, resident=0))
        smallest = least if smallest is None else min(smallest, least)
        cost = _seconds(sizes, settings, batch)
        if need <= budget and (best is None or (cost, need) < best[:2]):
            best = (cost, need, settings)
    stated = -(-(smallest or 0) // MIB) * MIB
    if best is None:
        raise MemoryBudgetError(
            f"a memory budget of {budget / MIB:.0f} MiB cannot work: the smallest that would is {stated // MIB} MiB "
            f"({reserved / MIB:.0f} MiB of it is held by the process already)",
            stated,
        )
    _, need, chosen = best
    chosen = replace(chosen, threads=threads)
    seconds = _seconds(sizes, chosen, batch)
    state = sum(sizes.state_bytes(k, False) for k in range(len(sizes.network.layer_edges)))
    moved = _bytes(sizes, chosen, batch)
    return TrainingPlan(chosen, batch, budget, need, stated, seconds, moved, state, sizes.ranks)


def tile_of(sizes: Sizes, samples: int) -> int:
    """Choose a panel's width: as wide as stays near, in multiples of 64, at least 64 where there are so many samples."""
    near = NEAR // (max(sizes.widths) * sizes.itemsize) // 64 * 64
    width = max(64, min(WIDEST, near))
    return min(width, -(-samples // NARROWEST) * NARROWEST)


def _ways(
    sizes: TrainingSizes, batch: int, threads: int, budget: int, project: Callable[[TrainingSettings], int]
) -> Iterator[TrainingSettings]:
    n = sizes.network
    cuts: list[tuple[tuple[int, int], ...]] = [((0, len(n.layer_edges)),)]
    cuts += [cut_slabs(n, limit) for limit in (SLAB_BYTES, SLAB_BYTES // 4, SLAB_BYTES // 16, 1)]
    for samples in _halves(batch):
        tile = tile_of(n, samples)
        tiles = -(-samples // tile)
        held = sizes.clipping or tile * tiles < batch or sizes.ranks.replicas > 1
        for slabs in dict.fromkeys(cuts):
            longest = max(last - first for first, last in slabs)
            # What is computed again would have to be exchanged again, too.
            for every in _doubles(longest) if sizes.ranks.size == 1 else (1,):
                yield TrainingSettings(tile, tiles, slabs, len(slabs), 0, every, held, threads)
                if len(slabs) == 1:
                    continue
                for buffers in (3, 2, 1):
                    none = TrainingSettings(tile, tiles, slabs, 0, buffers, every, held, threads)
                    yield _with_residents(none, sizes, budget, project)


def _with_residents(
    settings: TrainingSettings, sizes: TrainingSizes, budget: int, project: Callable[[TrainingSettings], int]
) -> TrainingSettings:
    """As many slabs stay as there is room for."""
    room, resident = budget - project(settings), 0
    for slab in settings.slabs[:-1]:
        room -= sizes.slab_bytes(slab, settings.held)
        if room < 0:
            break
        resident += 1
    return replace(settings, resident=resident)


def _halves(batch: int) -> Iterator[int]:
    samples = batch
    yield samples
    while samples > NARROWEST:
        samples = -(-samples // 2)
        yield samples


def _doubles(longest: int) -> Iterator[int]:
    every = 1
    while every < longest:
        yield every
        every *= 2
    yield longest


def _bytes(sizes: TrainingSizes, settings: TrainingSettings, batch: int) -> int:
    """Bytes that a step moves from and to scratch."""
    rounds = -(-batch // settings.samples)
    total = 0
    for slab in settings.slabs[settings.resident :] if settings.buffers else ():
        forward = sum(sizes.forward_bytes(k) for k in range(*slab))
        state = sum(sizes.state_bytes(k, settings.held) for k in range(*slab))
        total += rounds * (forward + sizes.slab_bytes(slab, settings.held) + state)
        total += 2 * state * sizes.clipping
    return total


def _seconds(sizes: TrainingSizes, settings: TrainingSettings, batch: int) -> float:
    n, s = sizes.network, settings
    rounds = -(-batch // s.samples)
    again = sum(sum(n.layer_edges[a : b - 1]) for a, b in s.segments())
    width = min(s.tile, batch)
    rate = KERNEL_RATE * s.threads * width / (width + HALF_WIDTH)
    compute = (3 * n.edges + again) * rounds * s.samples / rate + rounds * len(s.slabs) * 1e-4
    compute += n.edges * n.itemsize * (2 + 2 * sizes.moments + 2 * s.held * rounds) / 2e10
    moving = _bytes(sizes, s, batch) / SCRATCH_RATE
    return compute + moving if s.buffers == 1 else max(compute, moving) + 0.05 * min(compute, moving)


def segments_of(settings: TrainingSettings, slab: tuple[int, int]) -> list[tuple[int, int]]:
    """The segments of one slab."""
    return [(a, b) for a, b in settings.segments() if slab[0] <= a < slab[1]]


def check_slabs(settings: TrainingSettings, layers: int) -> bool:
    """Whether the slabs of settings that were read from somewhere cover so many layers, one after the other."""
    ends = [0, *(last for _, last in settings.slabs)]
    return ends[-1] == layers and all(slab == pair for slab, pair in zip(settings.slabs, pairwise(ends), strict=True))
