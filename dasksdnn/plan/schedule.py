"""Choosing how to run: candidates from "all weights stay" to "one layer at a time", projected, priced, and compared.

The weights are read once for every batch in flight, so where they do not stay in memory, the more samples are in
flight, the less is read. Where they stay, a few panels a thread are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dasksdnn import markup
from dasksdnn.errors import MemoryBudgetError
from dasksdnn.plan.memory import Projection, Settings, Sizes, cut_slabs, projected_mem

#: Narrowest panel: one vector register's worth of samples.
NARROWEST = 16
#: Panels in flight where the weights stay, by bytes: enough that merged panels are full and rounds are few.
PANEL_BYTES = 64 << 20
#: Bytes of weights that are loaded together, about.
SLAB_BYTES = 64 << 20
#: Assumed until they are measured: multiply-adds a second of one thread on a wide panel, the width that reaches half of
#: that, and bytes of weights a second read from a store and made ready.
KERNEL_RATE, HALF_WIDTH = 60e9, 24
READ_RATE = 5e8
#: Assumed likewise: seconds to load a slab however small, and for each part that it is made of.
LOAD_SECONDS, PART_SECONDS = 6e-3, 3e-3

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run, with its projected memory and predicted time."""

    settings: Settings
    projection: Projection
    seconds: float
    bytes_read: int
    fits: bool

    @property
    def strategy(self) -> str:
        """In words: what happens to the weights."""
        if self.settings.resident:
            return "weights stay"
        return "weights stream, read ahead" if self.settings.prefetch else "weights stream"


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen way to run, and what it was chosen from.

    Attributes
    ----------
    samples : int
    budget : int
        Bytes that the process may hold.
    chosen : Candidate
    candidates : tuple of Candidate
        All that were considered.
    smallest : int
        The smallest budget that would work, in bytes.
    """

    samples: int
    budget: int
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    smallest: int

    @property
    def settings(self) -> Settings:
        """How to run."""
        return self.chosen.settings

    @property
    def projected(self) -> int:
        """Projected peak in bytes."""
        return self.chosen.projection.total

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "samples": self.samples,
            "budget_bytes": self.budget,
            "projected_bytes": self.projected,
            "smallest_budget_bytes": self.smallest,
            "strategy": self.chosen.strategy,
            "batch": self.settings.batch,
            "predicted_seconds": self.chosen.seconds,
            "predicted_bytes_read": self.chosen.bytes_read,
            "settings": asdict(self.settings),
            "projection": asdict(self.chosen.projection),
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The table of candidates: strategy, tile, batch, slabs, projected MiB, read GB, seconds, verdict."""
        for c in self.candidates:
            s = c.settings
            verdict = "chosen" if c is self.chosen else "fits" if c.fits else "over budget"
            yield (
                c.strategy,
                str(s.tile),
                str(s.batch),
                str(len(s.slabs)),
                f"{c.projection.total / MIB:.0f}",
                f"{c.bytes_read / 1e9:.2f}",
                f"{c.seconds:.1f}",
                verdict,
            )

    HEADER = ("strategy", "tile", "batch", "slabs", "projected MiB", "read GB", "predicted s", "")

    def __repr__(self) -> str:
        table = [self.HEADER, *self.rows()]
        wide = [max(len(row[i]) for row in table) for i in range(len(self.HEADER))]
        lines = [
            "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, wide, strict=True)))
            for row in table
        ]
        head = f"<dasksdnn.Plan: {self.samples:,} samples within {self.budget / MIB:.0f} MiB, projected {self.projected / MIB:.0f} MiB>"
        return "\n".join([head, *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        table = markup.grid(self.HEADER, self.rows(), self.candidates.index(self.chosen))
        head = f"dasksdnn.Plan: {self.samples:,} samples"
        return markup.card(head, table, memory_bar(self.chosen.projection, self.budget))


def memory_bar(projection: Projection, budget: int) -> str:
    """Projected memory by use against the budget, drawn."""
    said = f"{projection.total / MIB:,.0f} MiB projected within {budget / MIB:,.0f} MiB (the line)"
    return markup.stack(asdict(projection), said, budget)


def plan_inference(
    sizes: Sizes,
    samples: int,
    budget: int,
    *,
    reserved: int,
    threads: int,
    caches: tuple[int, int],
    input_bytes: Callable[[int], int],
    output_bytes: Callable[[Settings], int],
    rows: int,
    together: Sequence[int] = (),
) -> Plan:
    """Choose how to run inference on one machine.

    Parameters
    ----------
    sizes : Sizes
        Of the network.
    samples : int
    budget : int
        Bytes that the process may hold at its peak.
    reserved : int
        Bytes that it holds already.
    threads : int
    caches : (int, int)
        Bytes of a core's second-level cache, and of the last-level cache that all share.
    input_bytes : callable
        Bytes held to read that many samples of the dataset.
    output_bytes : callable
        Bytes that the sink holds under given settings.
    rows : int
        Samples at a time that suit the dataset.
    together : sequence of int
        For an owner of parts, whose threads all share the rows of a panel: how many panels may go together, at most, the
        best first.

    Raises
    ------
    MemoryBudgetError
        Nothing fits; names the smallest budget that would.
    """

    def project(settings: Settings) -> Projection:
        # A block is read while the one before may still be cut into panels.
        held = 2 * input_bytes(min(settings.rows, max(1, samples)))
        return projected_mem(sizes, settings, reserved=reserved, input_bytes=held, output_bytes=output_bytes(settings))

    def price(settings: Settings) -> Candidate:
        projection = project(settings)
        rate = KERNEL_RATE * settings.threads * settings.tile / (settings.tile + HALF_WIDTH)
        compute = sizes.edges * samples / rate
        passes = 1 if settings.resident else max(1, -(-samples // settings.batch))
        read = passes * sizes.weights
        reading = read / READ_RATE + passes * len(settings.slabs) * (LOAD_SECONDS + sizes.nparts * PART_SECONDS)
        seconds = max(compute, reading) if settings.prefetch else compute + reading
        return Candidate(settings, projection, seconds, read, projection.total <= budget)

    ways = list(_settings(sizes, samples, threads, caches, rows))
    if together:
        ways = [way for settings in ways for way in _together(settings, samples, together)]
    smallest = min(project(settings).total for settings in ways)
    candidates = tuple(price(_fill(settings, project, budget, samples, sizes)) for settings in ways)
    fitting = [c for c in candidates if c.fits]
    if not fitting:
        stated = -(-smallest // MIB)
        raise MemoryBudgetError(
            f"a memory budget of {_amount(budget)} cannot work: the smallest that would is {stated} MiB "
            f"({reserved / MIB:.0f} MiB of it is held by the process already)",
            stated * MIB,
        )
    chosen = min(fitting, key=lambda c: c.seconds)
    return Plan(samples, budget, chosen, candidates, smallest)


def _amount(budget: int) -> str:
    return f"{budget / MIB:.0f} MiB" if budget >= MIB else f"{budget} bytes"


#: Bytes of a row that the kernels take at once: four vectors of 64 bytes, or three (two of float64: see `NARROWEST`).
STRIP, NARROW_STRIP = 256, 192
#: No panel is wider: beyond, nothing is gained.
WIDEST = 512


def tile_for(sizes: Sizes, samples: int, threads: int, caches: tuple[int, int]) -> int:
    """Choose a panel's width in samples, from where a layer's input and output then are while the kernel reads them.

    - Several strips wide, where the whole input stays in the core's own cache: calls are fewer.
    - One strip wide otherwise, so that no row brings along what is not needed yet.
    - A narrower strip, where the two panels of every thread would take more than half of the shared cache: weights pass
      through it too.

    `tests/benchmarks/test_width.py` holds this against measurement.

    Parameters
    ----------
    sizes : Sizes
    samples, threads : int
        Fewer samples a thread mean narrower panels, so that all threads have some.
    caches : (int, int)
        Bytes of a core's second-level cache, and of the last-level cache that all share.
    """
    rows, (near, shared) = max(sizes.widths), caches
    strip = STRIP if 2 * threads * rows * STRIP <= shared // 2 else NARROW_STRIP
    width = max(strip, min(WIDEST, near // rows // STRIP * STRIP))
    share = -(-samples // threads)
    return max(NARROWEST, min(width // sizes.itemsize, share) // NARROWEST * NARROWEST)


def team_for(samples: int, threads: int) -> int:
    """How many threads share the rows of a panel: samples are shared first, down to the narrowest panels."""
    return max(1, threads // max(1, -(-samples // NARROWEST)))


def _settings(sizes: Sizes, samples: int, threads: int, caches: tuple[int, int], rows: int) -> Iterator[Settings]:
    """Yield ways to run, the panels of the streaming ones still to be filled up to the budget."""
    best = tile_for(sizes, samples, threads, caches)
    panel = max(sizes.widths) * best * sizes.itemsize
    few = max(1, min(max(4 * threads, PANEL_BYTES // panel), -(-samples // best)))
    whole, single = cut_slabs(sizes, SLAB_BYTES), cut_slabs(sizes, 1)
    rows, team = max(best, rows), team_for(samples, threads)
    yield Settings(best, few, whole, True, True, threads, rows, team)
    if len(single) > 1:
        for slabs in dict.fromkeys((whole, cut_slabs(sizes, SLAB_BYTES // 4), single)):
            yield Settings(best, 1, slabs, False, True, threads, rows, team)
            yield Settings(best, 1, slabs, False, False, threads, rows, team)
    for tile in sorted({max(NARROWEST, best // 64 * NARROWEST), NARROWEST}, reverse=True):
        yield Settings(tile, 1, whole, True, True, threads, tile, team)
        yield Settings(tile, 1, single, False, False, threads, tile, team)
    yield Settings(NARROWEST, 1, single, False, False, 1, NARROWEST)


def _together(settings: Settings, samples: int, groups: Sequence[int]) -> Iterator[Settings]:
    """The same for an owner of parts; the way that needs least memory keeps one panel."""
    least = settings.threads == 1 and settings.tile == NARROWEST and not settings.resident
    panels = max(1, -(-samples // settings.tile))
    even = [-(-panels // -(-panels // group)) for group in groups]  # no group is much smaller than the others
    for group in [1] if least else dict.fromkeys(even):
        yield replace(settings, team=settings.threads, group=group, panels=max(settings.panels, group))


def _fill(
    settings: Settings, project: Callable[[Settings], Projection], budget: int, samples: int, sizes: Sizes
) -> Settings:
    """Give a streaming candidate as many panels as the budget holds and the samples need."""
    if settings.resident:
        return settings
    panel = max(sizes.widths) * settings.tile * sizes.itemsize
    room = (budget - project(settings).total) // panel
    held = settings.panels
    return replace(settings, panels=max(held, min(held + room, -(-samples // settings.tile))))
