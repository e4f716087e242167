"""Inference by ranks that each hold a share of a network's parts: panels go through layers in step, outputs go to their writers.

    owner 0   ===layer 1===>  rows that others need  ===layer 2===> ...   writes chunk 0, 2, 4, ...
    owner 1   ===layer 1===>  rows that others need  ===layer 2===> ...   writes chunk 1, 3, 5, ...

Where there are more ranks than owners, replicas of all owners share the samples. Each rank reads the weights of its own
parts, and all samples of its replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.atomic import replacing
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.inference import Result
from dasksdnn.engines.member import Member, Room, Task
from dasksdnn.engines.outputs import check_out, new_output
from dasksdnn.engines.sinks import CategorySink, ChunkedSink, Tee, written_together
from dasksdnn.engines.traffic import gather_traffic
from dasksdnn.engines.transport import gather, tell
from dasksdnn.errors import DaskSDNNError, InputError
from dasksdnn.events import Listener
from dasksdnn.network import Array
from dasksdnn.sources.blocks import Span, in_memory, on_disk
from dasksdnn.store.reader import Store


def led(grid: Grid, work: Callable[[], Any]) -> Any:
    """What `work` gives at rank 0, at every rank; or its error, at every rank."""
    outcome: Any = None
    if grid.transport.rank == 0:
        try:
            outcome = work()
        except DaskSDNNError as error:
            outcome = error
    outcome = tell(grid.transport, outcome)
    if isinstance(outcome, DaskSDNNError):
        raise outcome
    return outcome


def infer_together(
    store: Store,
    dataset: Any,
    grid: Grid,
    to: tuple[int, ...],
    limits: Room,
    *,
    out: Any,
    overwrite: bool,
    listener: Listener,
    events: list[Array],
) -> Result:
    """Stream a dataset through a store, as one of many ranks that all make this call.

    Parameters
    ----------
    store : Store
    dataset : Dataset
        The same at each rank.
    grid : Grid
    to : tuple of int
        The owner of each part.
    limits : Room
    out : optional
        A path, or a Zarr array, that all ranks can write to; None or "categories": outputs are only reduced.
    overwrite : bool
    listener : callable
        Told of the samples that this rank passes on.
    events : list
        What compiled code noted for a trace is put there.

    Returns
    -------
    Result
        The same at each rank.
    """
    with _output(store, dataset, grid, out, overwrite) as (array, scratch):
        unit = 1 if array is None else int(written_together(array)[0])
        ends = [_cut(int(dataset.samples), r, grid.replicas, unit) for r in range(grid.replicas + 1)]
        first, last = ends[grid.replica : grid.replica + 2]
        found = CategorySink()
        chunks = None if array is None else ChunkedSink(array, scratch)
        sink = Tee(found, *([] if chunks is None else [chunks]))
        most = max(b - a for a, b in pairwise(ends))
        try:
            task = Task(dataset, most, store.widths[-1], unit, array is not None, sink.nbytes)
            with closing(Member(store, grid, to, limits, task, listener)) as member:
                gather(grid.transport, None)
                start = perf_counter()
                report = member.run(Span(dataset, first, last), first, sink, listener)
                every = gather(grid.transport, (found.categories, report.edges, host.peak_resident()))
                seconds = perf_counter() - start
                traffic = None
                if member.passage is not None:
                    traffic = gather_traffic(grid, member.passage.exchange.tally, store.dtype.itemsize)
                    events += member.passage.exchange.events()
        finally:
            if chunks is not None:
                chunks.close()
        categories, edges, peaks = zip(*every, strict=True)
        gathered = np.sort(np.concatenate(categories))
        return Result(
            int(dataset.samples), store.edges, seconds, gathered, member.plan, sum(edges), max(peaks), traffic
        )


def _cut(samples: int, replica: int, replicas: int, unit: int) -> int:
    """Where a replica's samples begin: no chunk has two writers."""
    return samples if replica == replicas else min(samples, round(samples * replica / replicas / unit) * unit)


@contextmanager
def _output(store: Store, dataset: Any, grid: Grid, out: Any, overwrite: bool) -> Iterator[tuple[Any, Path | None]]:
    """The Zarr array to write, or None, and a folder for what waits; a path appears when all ranks have ended well."""
    import zarr

    samples, width = int(dataset.samples), store.widths[-1]
    if out is None or (isinstance(out, str) and out == "categories"):
        yield None, None
    elif not isinstance(out, str | Path):
        check_out(store, dataset, out)
        if isinstance(out, np.ndarray) or in_memory(out):
            raise InputError("out is in this process's memory, which no other rank can write: give a path")
        yield on_disk(out), None
        gather(grid.transport, None)
    elif grid.transport.rank == 0:
        found = None
        try:
            with replacing(out, overwrite=overwrite) as temporary:
                found = new_output(temporary, samples, width, store.dtype, writers=grid.transport.size)
                tell(grid.transport, str(temporary))
                yield found, temporary.parent
                gather(grid.transport, None)  # all chunks are written
        except DaskSDNNError as error:
            if found is None:
                tell(grid.transport, error)
            raise
    else:
        where = tell(grid.transport, None)
        if isinstance(where, DaskSDNNError):
            raise where
        yield zarr.open_array(where, mode="r+"), Path(where).parent
        gather(grid.transport, None)
