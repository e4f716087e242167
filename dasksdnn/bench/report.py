"""A comparison for people: one table of contenders, and who was missing and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dasksdnn.bench.compare import Comparison, Row
from dasksdnn.bench.contender import OURS
from dasksdnn.bench.machine import Bandwidth

HEADER = ("contender", "threads", "median ms", "range ms", "G edges/s", "FMA peak", "bandwidth", "its time / ours", "")


def table(found: Comparison) -> Iterator[tuple[str, ...]]:
    """Rows under `HEADER`, a row for each contender that is missing at the end."""
    for row in found.rows:
        yield (
            row.name,
            str(row.threads),
            milliseconds(row.timing.median),
            f"{milliseconds(row.timing.least)}-{milliseconds(row.timing.most)}",
            f"{row.rate / 1e9:.2f}",
            _percent(row.fma_share),
            _percent(row.bandwidth_share),
            _number(row.ratio),
            _remark(found, row),
        )
    for missing in found.missing:
        yield (missing.name, str(missing.threads), *["-"] * (len(HEADER) - 3), f"missing: {missing.why}")


def milliseconds(seconds: float) -> str:
    """Three digits."""
    value = seconds * 1e3
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def limits_table(limits: Mapping[int, Bandwidth]) -> dict[str, str]:
    """The memory's rates, by threads."""
    return {
        f"memory, {threads} thread{'s' if threads > 1 else ''}": (
            f"{limit.read / 1e9:.1f} GB/s read, {limit.copy / 1e9:.1f} GB/s copied (read and written)"
        )
        for threads, limit in limits.items()
    }


def machine_table(machine: Mapping[str, Any]) -> dict[str, str]:
    """Name the machine and the versions."""
    versions = (f"{name} {version or 'missing'}" for name, version in machine["versions"].items())
    return {
        "processor": f"{machine['processor']}, {machine['processors']} usable, {machine['system']}",
        "load": f"{machine['load']:.1f} processors busy in the last minute"
        if machine["load"] is not None
        else "unknown",
        "versions": f"Python {machine['python']}, {', '.join(versions)}",
    }


def summary(found: Comparison) -> str:
    """A line: what was done, what it takes, and what the machine could do."""
    peaks = ", ".join(f"{peak / 1e9:.0f} with {n}" for n, peak in found.peaks.items())
    work = f"{found.multiply_adds / 1e6:,.0f} M edges, at least {found.least_bytes / 1e6:,.1f} MB"
    facts = "".join(f"; {value:,} {name}" for name, value in found.facts.items())
    return f"{work}{facts}; FMA peak in G/s by threads: {peaks}; every result agrees with the reference's"


def _remark(found: Comparison, row: Row) -> str:
    best = found.best_peer(row.threads)
    remarks = []
    if best is not None and row.name == OURS and best.ratio:
        remarks.append(f"{best.ratio:.2f} x the best peer ({best.name})")
    if row is best:
        remarks.append("best peer")
    if row.scaling is not None and row.threads > 1:
        remarks.append(f"{row.scaling:.2f} x one thread")
    return ", ".join(remarks)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
