"""The helper process in which the native partitioners run, because on some inputs they exit, crash or hang the process.

    parent --- length, pickle (library, seconds, arguments) --->  stdin
    parent <-- length, pickle ("ok", part of each vertex) ------  a copy of stdout   ("error", text if Python can tell)

It is run as a file, with no import of dasksdnn, and imports one library when it is first asked for: it starts in the
time of an import of NumPy. It ends when its stdin closes, or at the latest a little after its time is up.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pickle
import signal
import struct
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

#: Seconds after which this process ends itself if the parent, which waits as long as it was told to, is gone.
GRACE = 10
#: What each library needs for k-way partitioning by connectivity. KaHyPar exits the process if any key is missing.
KAHYPAR_SETTINGS = {
    "mode": "direct",
    "objective": "km1",
    "seed": "-1",
    "cmaxnet": "1000",
    "vcycles": "0",
    # RadiX-Net rows are regular, and merged already: nothing for the sparsifier to find.
    "p-use-sparsifier": "false",
    "p-detect-communities": "true",
    "p-detect-communities-in-ip": "true",
    "p-reuse-communities": "false",
    "p-max-louvain-pass-iterations": "100",
    "p-min-eps-improvement": "0.0001",
    "p-louvain-edge-weight": "hybrid",
    "p-large-he-threshold": "1000",
    "p-smallest-maxnet-threshold": "50000",
    "p-maxnet-removal-factor": "0.01",
    "c-type": "ml_style",
    "c-s": "1",
    "c-t": "160",
    "c-rating-score": "heavy_edge",
    "c-rating-use-communities": "true",
    "c-rating-heavy_node_penalty": "no_penalty",
    "c-rating-acceptance-criterion": "best_prefer_unmatched",
    "c-fixed-vertex-acceptance-criterion": "fixed_vertex_allowed",
    "i-mode": "recursive",
    "i-technique": "multi",
    "i-c-type": "ml_style",
    "i-c-s": "1",
    "i-c-t": "150",
    "i-c-rating-score": "heavy_edge",
    "i-c-rating-use-communities": "true",
    "i-c-rating-heavy_node_penalty": "no_penalty",
    "i-c-rating-acceptance-criterion": "best_prefer_unmatched",
    "i-c-fixed-vertex-acceptance-criterion": "fixed_vertex_allowed",
    "i-algo": "pool",
    "i-runs": "20",
    "i-bp-algorithm": "worst_fit",
    "i-bp-heuristic-prepacking": "false",
    "i-bp-early-restart": "true",
    "i-bp-late-restart": "true",
    "i-r-type": "twoway_fm",
    "i-r-runs": "-1",
    "i-r-fm-stop": "simple",
    "i-r-fm-stop-i": "50",
    "r-type": "kway_fm_km1",
    "r-runs": "-1",
    "r-fm-stop": "adaptive_opt",
    "r-fm-stop-alpha": "1",
    "r-fm-stop-i": "350",
}


def metis(
    nparts: int, epsilon: float, seed: int, xadj: Any, adjncy: Any, vertex_weight: Any, edge_weight: Any
) -> list[int]:
    """METIS k-way on a graph in CSR."""
    import pymetis

    # METIS counts imbalance in thousandths, and takes 1 at the least.
    options = pymetis.Options(seed=seed, ufactor=max(1, int(epsilon * 1000)))
    graph = {"xadj": xadj, "adjncy": adjncy, "vweights": vertex_weight, "eweights": edge_weight}
    _, part = pymetis.part_graph(nparts, options=options, **graph)
    return list(part)


def kahypar(
    nparts: int, epsilon: float, seed: int, vertex_weight: Any, net_ptr: Any, pins: Any, net_cost: Any, fixed: Any
) -> list[int]:
    """KaHyPar, direct k-way, connectivity objective."""
    import kahypar as library

    arrays = [a.tolist() for a in (net_ptr, pins)]
    graph = library.Hypergraph(
        len(vertex_weight), len(net_cost), *arrays, nparts, net_cost.tolist(), vertex_weight.tolist()
    )
    for vertex, part in enumerate(fixed.tolist()):
        if part >= 0:
            graph.fixNodeToBlock(vertex, part)
    context = library.Context()
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as ini:
        ini.write("".join(f"{key}={value}\n" for key, value in KAHYPAR_SETTINGS.items()))
        ini.flush()
        context.loadINIconfiguration(ini.name)
    context.setK(nparts)
    context.setEpsilon(epsilon)
    context.setSeed(seed)
    context.suppressOutput(True)
    library.partition(graph, context)
    return [graph.blockID(vertex) for vertex in range(len(vertex_weight))]


@cache
def _mtkahypar_with_threads() -> Any:
    import mtkahypar as library

    # Counts once a process; the deterministic preset gives the same for any number of threads.
    return library.initialize(min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1), False)


def mtkahypar(
    nparts: int, epsilon: float, seed: int, vertex_weight: Any, net_ptr: Any, pins: Any, net_cost: Any, fixed: Any
) -> list[int]:
    """Mt-KaHyPar's deterministic preset, connectivity objective."""
    import mtkahypar as library

    started = _mtkahypar_with_threads()
    context = started.context_from_preset(library.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(nparts, epsilon, library.Objective.KM1)
    context.logging = False
    library.set_seed(seed)
    flat, ends = pins.tolist(), net_ptr.tolist()
    nets = [flat[a:b] for a, b in itertools.pairwise(ends)]
    graph = started.create_hypergraph(
        context, len(vertex_weight), len(nets), nets, vertex_weight.tolist(), net_cost.tolist()
    )
    if fixed.max(initial=-1) >= 0:
        graph.add_fixed_vertices(fixed.tolist(), nparts)
    return list(graph.partition(context).get_partition())


LIBRARIES: dict[str, Callable[..., list[int]]] = {"metis": metis, "kahypar": kahypar, "mtkahypar": mtkahypar}


def read(stream: BinaryIO) -> Any:
    """One message, or None where the other side has closed the pipe."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<q", head)
    body = stream.read(length)
    return pickle.loads(body) if len(body) == length else None


def write(stream: BinaryIO, message: Any) -> None:
    """Send one message."""
    body = pickle.dumps(message, protocol=5)
    stream.write(struct.pack("<q", len(body)))
    stream.write(body)
    stream.flush()


def answer(library: str, arguments: dict[str, Any]) -> tuple[str, Any]:
    """Call one library; what Python can catch is an answer too."""
    try:
        return "ok", LIBRARIES[library](**arguments)
    except ModuleNotFoundError:
        return "missing", library
    except Exception as error:
        return "error", " ".join(f"{type(error).__name__}: {error}".split())


def die_with_parent() -> None:
    """On Linux, be killed when the parent is: a native call that hangs would never notice that stdin has closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Answer calls until stdin closes."""
    die_with_parent()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the libraries print goes where their complaints go, never between two replies
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside a native call
    while (call := read(sys.stdin.buffer)) is not None:
        library, seconds, arguments = call
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        reply = answer(library, arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)
        write(replies, reply)


if __name__ == "__main__":
    main()
