"""One comparison: every contender checked, all of them timed in the same rounds, and held against one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dasksdnn.bench.contender import OURS, Contender, Crew, Missing
from dasksdnn.bench.machine import Bandwidth, multiply_adds, work_of_peak
from dasksdnn.bench.peers import contenders
from dasksdnn.bench.timing import Timing, interleave
from dasksdnn.bench.work import Work, check
from dasksdnn.network import Array


@dataclass(frozen=True, slots=True)
class Row:
    """How one contender did.

    Attributes
    ----------
    name, threads : str, int
    timing : Timing
    rate : float
        Multiply-adds a second.
    fma_share, bandwidth_share : float or None
        Of the machine's peak and bandwidth with as many threads; None where the work is not all done (dead samples).
    ratio : float or None
        Its median over this project's with as many threads; None where this project did not take part.
    scaling : float or None
        Its median with one thread over this one; None where there is no row with one thread.
    """

    name: str
    threads: int
    timing: Timing
    rate: float
    fma_share: float | None
    bandwidth_share: float | None
    ratio: float | None
    scaling: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "name": self.name,
            "threads": self.threads,
            "seconds": self.timing.as_dict(),
            "multiply_adds_per_second": self.rate,
            "fma_share": self.fma_share,
            "bandwidth_share": self.bandwidth_share,
            "times_ours": self.ratio,
            "times_one_thread": self.scaling,
            "equals_reference": True,  # or the comparison would have been refused
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All contenders on one piece of work.

    Attributes
    ----------
    title, kind : str
    multiply_adds, least_bytes : int
        Of a run; bytes with this project's indices.
    peaks : dict of int to float
        Multiply-adds a second that the machine reached in the same rounds, by threads.
    rows : tuple of Row
    missing : tuple of Missing
    facts : dict
        What the contenders found, such as the number of categories.
    """

    title: str
    kind: str
    multiply_adds: int
    least_bytes: int
    peaks: Mapping[int, float]
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]
    facts: Mapping[str, int]

    def best_peer(self, threads: int) -> Row | None:
        """The quickest contender that is not this project."""
        peers = [row for row in self.rows if row.threads == threads and not row.name.startswith(OURS)]
        return min(peers, key=lambda row: row.timing.median, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        best = {row.threads: self.best_peer(row.threads) for row in self.rows}
        return {
            "title": self.title,
            "kind": self.kind,
            "multiply_adds": self.multiply_adds,
            "least_bytes": self.least_bytes,
            **self.facts,
            "fma_peak": {str(threads): peak for threads, peak in self.peaks.items()},
            "contenders": [row.as_dict() for row in self.rows],
            "missing": [{"name": m.name, "threads": m.threads, "why": m.why} for m in self.missing],
            "best_peer": {str(t): {"name": b.name, "times_ours": b.ratio} for t, b in best.items() if b is not None},
        }


def compare(
    title: str,
    work: Work,
    peers: Sequence[str],
    threads: Sequence[int],
    repeats: int,
    limits: Mapping[int, Bandwidth] | None = None,
) -> Comparison:
    """Check and time this project and its peers on one piece of work.

    Parameters
    ----------
    title : str
    work : Work
    peers : sequence of str
        Names in the registry, this project's left out.
    threads : sequence of int
        Every contender takes part with each number of them.
    repeats : int
        Rounds.
    limits : mapping of int to Bandwidth, optional
        By threads; without it no share of the bandwidth is given.

    Raises
    ------
    DaskSDNNError
        A contender computes something else than the reference.
    """
    with ExitStack() as stack:
        crews = [stack.enter_context(Crew(n)) for n in threads]
        found = [c for crew in crews for name in (OURS, *peers) for c in contenders(name, work, crew)]
        ready = [c for c in found if isinstance(c, Contender)]
        facts = _check(work, ready)
        loops = [multiply_adds(crew) for crew in crews]
        for loop in loops:
            loop.run()
        timings = interleave([*ready, *loops], repeats)
    peaks = {n: work_of_peak(n) / t.least for n, t in zip(threads, timings[len(ready) :], strict=True)}
    index = next((c.index_bytes for c in ready if c.name == OURS), 4)
    return Comparison(
        title,
        work.kind,
        work.multiply_adds,
        work.least_bytes(index),
        peaks,
        _rows(work, ready, timings[: len(ready)], peaks, limits or {}),
        tuple(c for c in found if isinstance(c, Missing)),
        facts,
    )


def _check(work: Work, ready: Sequence[Contender]) -> dict[str, int]:
    """Against the reference as far as it goes, and for the rest against the first contender; gives what was found."""
    expected: Sequence[Array] = work.expected()
    first: Sequence[Array] | None = None
    for contender in ready:
        contender.ready()
        found = contender.result(contender.run())
        check(contender.name, work.compared(found), expected)
        first = found if first is None else first
        check(contender.name, found, first)
    return {} if first is None else work.facts(first)


def _rows(
    work: Work,
    ready: Sequence[Contender],
    timings: Sequence[Timing],
    peaks: Mapping[int, float],
    limits: Mapping[int, Bandwidth],
) -> tuple[Row, ...]:
    medians = {(c.name, c.threads): t.median for c, t in zip(ready, timings, strict=True)}
    rows = []
    for c, timing in zip(ready, timings, strict=True):
        ours, one = medians.get((OURS, c.threads)), medians.get((c.name, 1))
        rate = work.multiply_adds / timing.median
        whole = work.kind != "challenge"
        rows.append(
            Row(
                c.name,
                c.threads,
                timing,
                rate,
                rate / peaks[c.threads] if whole else None,
                _bandwidth_share(work, c, timing, limits) if whole else None,
                timing.median / ours if ours else None,
                one / timing.median if one else None,
            )
        )
    return tuple(rows)


def _bandwidth_share(work: Work, contender: Contender, timing: Timing, limits: Mapping[int, Bandwidth]) -> float | None:
    """One sample only reads; panels are written too, as in a copy."""
    if (limit := limits.get(contender.threads)) is None:
        return None
    rate = work.least_bytes(contender.index_bytes) / timing.median
    return rate / (limit.read if work.kind == "width1" else limit.copy)
