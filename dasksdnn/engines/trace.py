"""A timeline of a run's ranks, as Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev) read it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from dasksdnn.atomic import replacing
from dasksdnn.kernels.routes import COMPUTING, PACKING, WAITING
from dasksdnn.network import Array

_NAMES = {PACKING: "pack", WAITING: "wait", COMPUTING: "compute"}


def trace_events(ranks: Iterable[tuple[Array, int]]) -> Iterator[dict[str, Any]]:
    """Events of ranks as the trace format has them.

    Parameters
    ----------
    ranks : iterable of (int64 array of shape (events, 6), int)
        Events of each rank (see `kernels.routes.EVENT`), and the time of its clock, in nanoseconds, at which all ranks began.
    """
    for rank, (some, origin) in enumerate(ranks):
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}}
        for event in some:
            layer, back, tile, kind, began, ended = event.tolist()
            yield {
                "ph": "X",
                "pid": rank,
                "tid": 0,
                "name": _NAMES[kind],
                "cat": "backward" if back else "forward",
                "ts": (began - origin) / 1e3,
                "dur": (ended - began) / 1e3,
                "args": {"layer": layer + 1, "tile": tile},
            }


def write_trace(path: str | os.PathLike[str], ranks: Iterable[tuple[Array, int]]) -> None:
    """Write a trace, event by event; what stands at the path is replaced, when all is written. See `trace_events`."""
    with replacing(os.fspath(path), overwrite=True) as temporary, open(temporary, "w") as file:
        file.write('{"displayTimeUnit": "ns", "traceEvents": [')
        for i, event in enumerate(trace_events(ranks)):
            file.write((",\n" if i else "\n") + json.dumps(event))
        file.write("\n]}\n")
