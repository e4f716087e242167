"""A store for people (rows of a table) and for programs (JSON): the same facts in every command."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from dasksdnn import host
from dasksdnn.diagnostics.tables import count, some

_COUNTED = ("volume", "messages", "max_send", "imbalance")


def describe(store: Any) -> dict[str, str]:
    """Rows of a table."""
    provenance = store.provenance
    method = provenance.get("method", "none")
    rows = {
        "network": f"{store.name}: {shape(store.widths)}",
        "edges": f"{store.edges:,}",
        "values": f"{store.dtype}, {activations(store.activations)}",
        "parts": f"{store.nparts:,}" + (f" by {method}" if method != "none" else ""),
    }
    if all(name in provenance for name in _COUNTED):
        rows |= cost(provenance)
    size = store.stored_bytes()
    rows["stored"] = (
        f"{host.format_bytes(size)} in {count(len(store.manifest.windows), 'window')} "
        f"({size / max(1, store.edges):.2f} bytes an edge), format version {store.version}"
    )
    if store.generation:
        rows |= _trained(store)
    return rows


def _trained(store: Any) -> dict[str, str]:
    """Which generations there are, and where training stands."""
    from dasksdnn.store.locating import generations

    others = [number for number in generations(store.path) if number != store.generation]
    rows = {"generation": f"{store.generation}" + (f", and {some(others)} kept" if others else "")}
    record = store.training or {}
    if {"epoch", "step"} <= set(record):
        rows["trained"] = f"{count(record['epoch'], 'epoch')}, {count(record['step'], 'step')}"
    return rows


def shape(widths: tuple[int, ...]) -> str:
    """Layers for people: "120 layers of 1,024 neurons", or "3 layers, 64 - 100 - 100 - 10 neurons"."""
    layers = count(len(widths) - 1, "layer")
    if len(set(widths)) == 1:
        return f"{layers} of {count(widths[0], 'neuron')}"
    shown = [f"{n:,}" for n in widths]
    if len(shown) > 8:
        shown[4:-3] = ["..."]
    return f"{layers}, {' - '.join(shown)} neurons"


def activations(names: tuple[Any, ...]) -> str:
    """Runs of layers with one activation: "relu" or "relu, last layer identity"."""
    runs = [name for name, _ in groupby(map(str, names))]
    if len(runs) == 2 and str(names[-2]) == runs[0]:
        return f"{runs[0]}, last layer {runs[1]}"
    return ", ".join(dict.fromkeys(runs))


def cost(counted: dict[str, Any]) -> dict[str, str]:
    """What a partition costs, as rows."""
    return {
        "volume": f"{counted['volume']:,} words a sample",
        "messages": f"{counted['messages']:,} a batch",
        "largest send": f"{counted['max_send']:,} words a sample",
        "imbalance": f"{counted['imbalance']:.4f}",
    }


def facts(store: Any) -> dict[str, Any]:
    """Fields of a report."""
    return {
        "name": store.name,
        "version": store.version,
        "widths": list(store.widths),
        "layers": len(store),
        "edges": store.edges,
        "dtype": store.dtype.name,
        "activations": [str(a) for a in store.activations],
        "nparts": store.nparts,
        "partition": store.provenance,
        **{name: store.provenance[name] for name in _COUNTED if name in store.provenance},
        "windows": len(store.manifest.windows),
        "stored_bytes": store.stored_bytes(),
        "digest": store.digest,
    }
