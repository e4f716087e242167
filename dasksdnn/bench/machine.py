"""The machine that a benchmark runs on: its name, its peak of fused multiply-adds, its bandwidths."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.bench.contender import Contender, Crew, share, spans
from dasksdnn.bench.loops import copy, fused_multiply_adds, multiply_adds_a_step, read
from dasksdnn.bench.timing import interleave
from dasksdnn.network import Array

#: Steps of the multiply-add loop: about 15 ms on a core of 2026.
STEPS = 10_000_000
#: Bytes that are read or copied once: far more than any cache holds.
FAR = 256 << 20


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What the memory gives to a number of threads, in bytes a second; a copied byte counts twice (read and written)."""

    read: float
    copy: float


def multiply_adds(crew: Crew, steps: int = STEPS) -> Contender:
    """Make the multiply-add loop a contender, so that the peak is measured in the same rounds as what is held against it."""
    one = np.float32(1)

    def run() -> float:
        return float(sum(crew.each(lambda _: fused_multiply_adds(steps, one, one), range(crew.threads))))

    return Contender("FMA peak", crew.threads, run, lambda total: [])


def work_of_peak(threads: int, steps: int = STEPS) -> int:
    """Float32 multiply-adds of one run of `multiply_adds`."""
    return threads * steps * multiply_adds_a_step(4)


def bandwidth(crews: Iterable[Crew], repeats: int = 5, far: int | None = None) -> dict[int, Bandwidth]:
    """Measure reading and copying, each with every crew, interleaved.

    Parameters
    ----------
    crews : iterable of Crew
    repeats : int
        Rounds, of which the quickest counts.
    far : int, optional
        Bytes of the array that is read, and of each of the two of a copy; by default `FAR`.

    Returns
    -------
    dict of int to Bandwidth
        By number of threads.
    """
    held, values = list(crews), (FAR if far is None else far) // 4
    source, target = np.ones(values, np.float32), np.zeros(values, np.float32)
    loops = [loop for crew in held for loop in (_reading(crew, source), _copying(crew, source, target))]
    for loop in loops:
        loop.run()
    best = [timing.least for timing in interleave(loops, repeats)]
    rates = zip(held, best[::2], best[1::2], strict=True)
    return {crew.threads: Bandwidth(source.nbytes / r, 2 * source.nbytes / c) for crew, r, c in rates}


def _pieces(crew: Crew, values: int) -> list[slice]:
    return spans(values, max(1, share(values, crew.threads)))


def _reading(crew: Crew, source: Array) -> Contender:
    pieces = [source[piece] for piece in _pieces(crew, source.size)]
    return Contender("read", crew.threads, lambda: crew.each(read, pieces), lambda total: [])


def _copying(crew: Crew, source: Array, target: Array) -> Contender:
    pieces = [(source[piece], target[piece]) for piece in _pieces(crew, source.size)]
    return Contender("copy", crew.threads, lambda: crew.each(lambda pair: copy(*pair), pieces), lambda total: [])


def describe(packages: Iterable[str]) -> dict[str, Any]:
    """Name the machine and the versions of what runs on it."""
    return {
        "processor": _processor(),
        "processors": host.threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cache_bytes": list(host.caches()),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
