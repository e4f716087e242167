"""A timeline of a run's ranks, as Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev) read it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from dasksdnn.atomic import replacing
from dasksdnn.kernels.routes import COMPUTING, PACKING, WAITING
from dasksdnn.network import Array

_NAMES = {PACKING: "pack", WAITING: "wait", COMPUTING: "compute"}


def trace_events(events: Sequence[Array], origins: Sequence[int]) -> list[dict[str, Any]]:
    """Events of ranks as the trace format has them.

    Parameters
    ----------
    events : sequence of int64 arrays of shape (events, 6)
        Of each rank; see `kernels.routes.EVENT`.
    origins : sequence of int
        The time of each rank's clock, in nanoseconds, at which all ranks began.
    """
    found: list[dict[str, Any]] = []
    for rank, (some, origin) in enumerate(zip(events, origins, strict=True)):
        found.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}})
        for layer, back, tile, kind, began, ended in some.tolist():
            found.append(
                {
                    "ph": "X",
                    "pid": rank,
                    "tid": 0,
                    "name": _NAMES[kind],
                    "cat": "backward" if back else "forward",
                    "ts": (began - origin) / 1e3,
                    "dur": (ended - began) / 1e3,
                    "args": {"layer": layer + 1, "tile": tile},
                }
            )
    return found


def write_trace(path: str | os.PathLike[str], events: Sequence[Array], origins: Sequence[int]) -> None:
    """Write a trace; what stands at the path is replaced, when all is written."""
    with replacing(os.fspath(path), overwrite=True) as temporary:
        temporary.write_text(json.dumps({"traceEvents": trace_events(events, origins), "displayTimeUnit": "ns"}))
