"""Inference by ranks that each hold a share of a network's parts: panels go through layers in step, outputs go to their writers.

    owner 0   ===layer 1===>  rows that others need  ===layer 2===> ...   writes chunk 0, 2, 4, ...
    owner 1   ===layer 1===>  rows that others need  ===layer 2===> ...   writes chunk 1, 3, 5, ...

Where there are more ranks than owners, replicas of all owners share the samples. Each rank reads the weights of its own
parts, and all samples of its replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dasksdnn import config, host
from dasksdnn.atomic import replacing
from dasksdnn.compiling import warm_up
from dasksdnn.engines import local
from dasksdnn.engines.exchange import Exchange, Grid
from dasksdnn.engines.inference import BLOCK_BYTES, DEFAULT_SHARE, Result, check_out, new_output, prepare
from dasksdnn.engines.loading import positions_dtype, sizes_of
from dasksdnn.engines.passage import Mine, Together
from dasksdnn.engines.shares import Share, share_of, whole
from dasksdnn.engines.sinks import CategorySink, ChunkedSink, Tee, written_together
from dasksdnn.engines.traffic import gather_traffic
from dasksdnn.engines.transport import gather, tell
from dasksdnn.engines.weights import Weights
from dasksdnn.errors import DaskSDNNError, InputError
from dasksdnn.events import Listener
from dasksdnn.kernels import relay
from dasksdnn.kernels import rows as row_kernels
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings, largest_sizes
from dasksdnn.plan.schedule import Plan, plan_inference
from dasksdnn.sources.blocks import Span, in_memory, on_disk
from dasksdnn.store.reader import Store


@dataclass(frozen=True, slots=True)
class Room:
    """What a rank may use.

    Attributes
    ----------
    budget, reserved : int
        Bytes that it may hold, and that it holds already.
    threads : int
    caches : (int, int)
        Bytes of the second and the last level.
    """

    budget: int
    reserved: int
    threads: int
    caches: tuple[int, int]


def room(memory: str | int | None, threads: int, ranks: int) -> Room:
    """What this process may use beside so many ranks on its host, itself included; `memory` is its own."""
    named = host.parse_bytes(memory if memory is not None else config.get("memory"))
    reserved = host.resident()
    budget = named or reserved + int(DEFAULT_SHARE * host.memory_available() / ranks)
    return Room(budget, reserved, threads, host.caches())


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
        return _Run(store, dataset, grid, to, array, scratch).go(limits, listener, events)


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
                found = new_output(temporary, samples, width, store.dtype)
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


class _Run:
    """One rank's run."""

    def __init__(
        self, store: Store, dataset: Any, grid: Grid, to: tuple[int, ...], array: Any, scratch: Path | None
    ) -> None:
        self.store, self.grid, self.array, self.scratch = store, grid, array, scratch
        self.samples = int(dataset.samples)
        self.unit = 1 if array is None else int(written_together(array)[0])
        ends = [self._cut(r) for r in range(grid.replicas + 1)]
        self.most = max(b - a for a, b in pairwise(ends))
        self.first, last = ends[grid.replica : grid.replica + 2]
        self.dataset = Span(dataset, self.first, last)
        self.whole_dataset = dataset
        self.share: Share = share_of(store, to, grid.owner) if grid.owners > 1 else whole(store)

    def _cut(self, replica: int) -> int:
        """Where a replica's samples begin: no chunk has two writers."""
        whole_units = round(self.samples * replica / self.grid.replicas / self.unit) * self.unit
        return self.samples if replica == self.grid.replicas else min(self.samples, whole_units)

    def mine(self, samples: Array, owner: int) -> Array:
        """Which samples an owner passes on."""
        found: Array = (samples + self.first) // self.unit % self.grid.owners == owner
        return found

    def go(self, limits: Room, listener: Listener, events: list[Array]) -> Result:
        """Plan it, run it, and gather what all found."""
        found = CategorySink()
        chunks = None if self.array is None else ChunkedSink(self.array, self.scratch)
        inner = found if chunks is None else Tee(found, chunks)
        sink: Any = Mine(inner, self.first, lambda samples: self.mine(samples, self.grid.owner))
        try:
            chosen = self._plan(sink, limits, listener)
            settings = chosen.settings
            passage, traffic = None, None
            if self.grid.owners > 1:
                passage = Together(self.share, self.grid, settings, self.mine, self.array is not None)
                self._warm_up(passage.exchange, listener)
            gather(self.grid.transport, None)
            start = perf_counter()
            with closing(Weights(self.store, settings, self.share)) as weights:
                weights.zero_to_zero = self._zero_to_zero()
                report = local.run(self.store, self.dataset, sink, settings, listener, weights=weights, passage=passage)
            every = gather(self.grid.transport, (found.categories, report.edges, host.peak_resident()))
            seconds = perf_counter() - start
            if passage is not None:
                traffic = gather_traffic(self.grid, passage.exchange.tally, self.store.dtype.itemsize)
                events += passage.exchange.events()
        finally:
            if chunks is not None:
                chunks.close()
        categories, edges, peaks = zip(*every, strict=True)
        gathered = np.sort(np.concatenate(categories))
        return Result(self.samples, self.store.edges, seconds, gathered, chosen, sum(edges), max(peaks), traffic)

    def _warm_up(self, exchange: Exchange, listener: Listener) -> None:
        calls = row_kernels.warm_up_calls(self.store.dtype)
        if exchange.routes is not None:
            calls += relay.warm_up_calls(exchange.routes, self.store.dtype, positions_dtype(self.store))
        warm_up(calls, listener)

    def _zero_to_zero(self) -> Array:
        """Which layers map zero to zero: each owner looks at its own biases."""
        own = local.layers_that_map_zero_to_zero(self.store, self.share.parts)
        every: Array = np.stack(gather(self.grid.transport, own)).min(axis=0)
        return every

    def _plan(self, sink: Any, limits: Room, listener: Listener) -> Plan:
        """One plan for all ranks: for the largest share, in the least room."""
        prepare(self.store, listener)
        sizes = sizes_of(self.store, self.share)
        most = 2 * max(max(c.words, int(c.received.size)) for c in self.share.crossings)
        free = limits.budget - limits.reserved
        every = gather(self.grid.transport, (sizes, most, limits.reserved, free, limits.threads, limits.caches))
        each, words, reserved, frees, threads, caches = zip(*every, strict=True)
        width, itemsize = self.store.widths[0], self.store.dtype.itemsize
        delivered = 3 * self.store.widths[-1] if self.grid.owners > 1 and self.array is not None else 1

        def output_bytes(settings: Settings) -> int:
            messages = settings.group * max(words) + delivered
            return int(sink.nbytes(settings) + messages * settings.tile * itemsize)

        return plan_inference(
            largest_sizes(each),
            self.most,
            max(reserved) + min(frees),
            reserved=max(reserved),
            threads=min(threads),
            caches=min(caches),
            input_bytes=lambda n: int(self.whole_dataset.block_bytes(n) + n * width * itemsize),
            output_bytes=output_bytes,
            rows=max(1, min(int(self.whole_dataset.block), BLOCK_BYTES // (width * itemsize))),
            together=self.grid.owners > 1,
        )
