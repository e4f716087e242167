"""The main job on embedded data, from end to end, checked against SciPy: what `dasksdnn demo` shows."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.engines.inference import Result, check_threads, stream
from dasksdnn.events import Listener
from dasksdnn.kernels import reference
from dasksdnn.network import Network
from dasksdnn.partition.partition import Partition, partition
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.sources.generators import radixnet
from dasksdnn.sources.images import digits
from dasksdnn.store.writer import save

NEURONS, LAYERS = 1024, 120
#: Samples whose outputs are compared with SciPy's.
CHECKED = 200


def run_demo(
    *, nparts: int, memory: str, directory: Path | None, threads: int | None, listener: Listener
) -> tuple[dict[str, Any], dict[str, str]]:
    """Partition, store and run a RadiX-Net on scikit-learn's handwritten digits.

    Returns
    -------
    (record, rows) : dict, dict
        The results as data, and as a table for people.
    """
    host.parse_bytes(memory), check_threads(threads)  # a slip is told before the work, not after it
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="dasksdnn-demo-")
        if directory is None
        else nullcontext(str(directory)) as folder
    ):
        start = perf_counter()
        net = radixnet(NEURONS, LAYERS)
        made = partition(net, nparts, effort="fast", listener=listener)
        chance = partition(net, nparts, method="random")
        store = save(
            net, Path(folder, "radixnet.zarr"), partition=made, overwrite=directory is not None, listener=listener
        )
        samples = digits(side=32)
        result = stream(
            store,
            as_dataset(samples),
            out=Path(folder, "outputs.zarr"),
            overwrite=directory is not None,
            memory=memory,
            threads=threads,
            listener=listener,
        )
        matches = _matches(net, samples, Path(folder, "outputs.zarr"), result)
        seconds = perf_counter() - start
    peak = host.peak_resident_tree()
    return _record(made, chance, result, matches, seconds, peak), _rows(made, chance, result, matches, seconds, peak)


def _matches(net: Network, samples: Any, outputs: Path, result: Result) -> bool:
    """Compare a sample of the outputs, and of the categories, with an independent run in SciPy."""
    import zarr

    checked = np.unique(
        np.concatenate(
            [result.categories[: CHECKED // 2], np.linspace(0, samples.shape[0] - 1, CHECKED // 2).astype(np.int64)]
        )
    )
    right = reference.infer(net, samples[checked])
    ours = np.asarray(zarr.open_array(outputs, mode="r").oindex[checked, :])
    found = np.isin(checked, result.categories)
    return bool(np.allclose(ours, right, rtol=1e-4, atol=1e-4) and (found == right.any(axis=1)).all())


def _record(
    made: Partition, chance: Partition, result: Result, matches: bool, seconds: float, peak: int
) -> dict[str, Any]:
    return {
        "edges": result.edges,
        "samples": result.samples,
        "nparts": made.nparts,
        "volume": made.volume,
        "messages": made.messages,
        "max_send": made.max_send,
        "imbalance": made.imbalance,
        "random_volume": chance.volume,
        "random_messages": chance.messages,
        "partition_seconds": made.seconds,
        "seconds": result.seconds,
        "total_seconds": seconds,
        "edges_per_second": result.edges_per_second,
        "peak_rss_bytes": peak,
        "categories": (result.categories + 1).tolist(),
        "matches_reference": matches,
        "plan": result.plan.as_dict(),
    }


def _rows(
    made: Partition, chance: Partition, result: Result, matches: bool, seconds: float, peak: int
) -> dict[str, str]:
    return {
        "edges": f"{result.edges:,}",
        "samples": f"{result.samples:,}",
        "parts": f"{made.nparts}, partitioned in {made.seconds:.1f} s",
        "volume": f"{made.volume:,} words a sample (random rows: {chance.volume:,})",
        "messages": f"{made.messages:,} a batch (random rows: {chance.messages:,})",
        "imbalance": f"{made.imbalance:.4f}",
        "seconds": f"{result.seconds:.3f} to run ({seconds:.1f} in all)",
        "edges/s": f"{result.edges_per_second:.3g}",
        "peak memory": f"{host.format_bytes(peak)} of {host.format_bytes(result.plan.budget)}",
        "categories": f"{result.categories.size:,}",
        "matches the reference": "yes" if matches else "NO",
    }
