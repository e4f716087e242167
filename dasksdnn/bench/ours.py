"""How this project does each piece of work: all contact with its kernels and engines is here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.bench.contender import OURS, Contender, Crew, share, spans
from dasksdnn.bench.orders import in_order
from dasksdnn.bench.training_ours import training as training
from dasksdnn.bench.work import Backward, Challenge, Forward, Parts, Width1
from dasksdnn.engines.inference import stream
from dasksdnn.engines.loading import Slab, load, sizes_of
from dasksdnn.kernels.block import make_block
from dasksdnn.kernels.chain import Chain, run_chain
from dasksdnn.kernels.panels import LANES, new_panel
from dasksdnn.kernels.sddmm import sddmm
from dasksdnn.kernels.spmm import split_rows, spmm_transposed
from dasksdnn.kernels.spmv import spmv
from dasksdnn.network import Array, Layer, Network
from dasksdnn.partition.partition import Partition
from dasksdnn.plan.schedule import tile_for
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.store.layout import index_dtype
from dasksdnn.store.reader import Store
from dasksdnn.store.writer import save


def _stored(net: Network, crew: Crew, split: Partition | None = None) -> Store:
    """A store that stands until the crew is dismissed."""
    folder = crew.keep(tempfile.TemporaryDirectory(prefix="dasksdnn-bench-"))
    return save(net, Path(folder, "net.zarr"), partition=split)


def _network(layers: Sequence[Layer]) -> Network:
    return Network.from_layers(layers, "bench")


def forward(work: Forward, crew: Crew) -> list[Contender]:
    """Panels of the width that a plan would choose, split over threads, through layers loaded from a store."""
    store = _stored(_network(work.layers), crew)
    slab = load(store, 0, len(store))
    tile = _tile(store, work.samples, crew.threads)
    panels = _Panels(work.x, max(store.widths), tile, crew.threads)

    def run() -> None:
        crew.each(lambda thread: panels.run(slab.chain, thread), range(crew.threads))

    def result(_: Any) -> list[Array]:
        return [panels.outputs(slab.orders[-1])]

    return [Contender(OURS, crew.threads, run, result, panels.fill, slab.chain.indices.itemsize)]


def _tile(store: Store, samples: int, threads: int) -> int:
    return tile_for(sizes_of(store), samples, threads, host.caches())


class _Panels:
    """A wide panel cut into tiles for a number of threads; buffers are as the local engine's: a spare one a thread."""

    def __init__(self, x: Array, widest: int, tile: int, threads: int) -> None:
        self._x, self._spans = x, spans(x.shape[1], tile)
        self._buffers = [new_panel(widest, tile, x.dtype) for _ in self._spans]
        self._spare = [new_panel(widest, tile, x.dtype) for _ in range(threads)]
        self._threads = threads

    def fill(self) -> None:
        """Restore the inputs."""
        for span, buffer in zip(self._spans, self._buffers, strict=True):
            buffer[: self._x.shape[0], : span.stop - span.start] = self._x[:, span]

    def run(self, chain: Chain, thread: int) -> None:
        """Take one thread's tiles through all layers."""
        for i in range(thread, len(self._spans), self._threads):
            samples = self._spans[i].stop - self._spans[i].start
            panels = (self._buffers[i], self._spare[thread])
            self._buffers[i], self._spare[thread] = run_chain(chain, 0, len(chain), *panels, samples)

    def outputs(self, rows: Array) -> Array:
        """What is in the tiles, the network's neurons in their own order."""
        out = np.empty((rows.size, self._x.shape[1]), self._x.dtype)
        for span, buffer in zip(self._spans, self._buffers, strict=True):
            out[rows, span] = buffer[: rows.size, : span.stop - span.start]
        return out


#: Panels of this many bytes stay near: wider ones than a product forward wants, which gradients are summed faster over.
_NEAR = 1 << 20


def backward(work: Backward, crew: Crew) -> list[Contender]:
    """Each thread takes panels of its samples through both products; the threads' gradients are added up."""
    store = _stored(_network(work.layers), crew)
    slab, each = load(store, 0, len(store)), share(work.samples, crew.threads)
    near = each * max(store.widths) * work.x.itemsize <= _NEAR
    tile = -(-each // LANES) * LANES if near else _tile(store, work.samples, crew.threads)
    cut = [_Back(work, slab, span) for span in spans(work.samples, tile)]
    mine = [cut[thread :: crew.threads] for thread in range(min(crew.threads, len(cut)))]
    gradients = [[np.empty(block.nonzeros, work.x.dtype) for block in cut[0].blocks] for _ in mine]

    def back(thread: int) -> None:
        for panel in mine[thread]:
            panel.run(gradients[thread], accumulate=panel is not mine[thread][0])

    def run() -> None:
        crew.each(back, range(len(mine)))
        for others in gradients[1:]:
            for total, part in zip(gradients[0], others, strict=True):
                total += part

    def result(_: Any) -> list[Array]:
        found = zip(
            work.layers,
            cut[0].blocks,
            (np.arange(work.x.shape[0]), *slab.orders),
            slab.orders,
            gradients[0],
            strict=False,
        )
        return [np.hstack([panel.inputs() for panel in cut]), *(in_order(*each) for each in found)]

    return [Contender(OURS, crew.threads, run, result, index_bytes=slab.chain.indices.itemsize)]


class _Back:
    """Some samples on their way back: every layer's input and delta, in the store's order of neurons."""

    def __init__(self, work: Backward, slab: Slab, span: slice) -> None:
        chain = slab.chain
        patterns = [chain.block(k) for k in range(len(chain))]
        self.blocks = [make_block(b.indptr, b.indices, b.inputs, transpose=True) for b in patterns]
        self._weights = [chain.values(k)[0] for k in range(len(chain))]
        self._samples = span.stop - span.start
        natural = np.arange(work.x.shape[0])
        orders = (natural, *slab.orders)
        self._x = [self._panel(panel[order, span]) for panel, order in zip(work.panels[:-1], orders, strict=False)]
        self._delta = [new_panel(x.shape[0], x.shape[1], x.dtype) for x in self._x] + [
            self._panel(work.delta[orders[-1], span])
        ]

    @staticmethod
    def _panel(values: Array) -> Array:
        panel = new_panel(values.shape[0], values.shape[1], values.dtype)
        panel[...] = values
        return panel

    def run(self, gradients: list[Array], accumulate: bool) -> None:
        """Both products of every layer, the last first."""
        for k in range(len(self.blocks) - 1, -1, -1):
            block, delta = self.blocks[k], self._delta[k + 1]
            sddmm(block, delta, self._x[k], gradients[k], self._samples, accumulate=accumulate)
            spmm_transposed(block, self._weights[k], delta, self._delta[k], self._samples)

    def inputs(self) -> Array:
        """The gradient of the network's inputs."""
        return self._delta[0]


def width1(work: Width1, crew: Crew) -> list[Contender]:
    """The kernel for one sample; its rows split over the threads."""
    weights, bias, dtype = work.layer.weights, work.layer.bias, index_dtype(work.x.size)
    block, y = make_block(weights.indptr, weights.indices.astype(dtype), work.x.size), np.empty_like(bias)
    parts = split_rows(block, crew.threads)

    def run() -> None:
        crew.each(
            lambda part: spmv(block, weights.data, bias, work.layer.activation, work.x, y, part=part),
            parts,
        )

    return [Contender(OURS, crew.threads, run, lambda _: [y], index_bytes=dtype.itemsize)]


def parts(work: Parts, crew: Crew) -> list[Contender]:
    """The local engine on a store of one part and on one of several, from the opened store to the outputs in memory."""
    net, x = _network(work.layers), np.ascontiguousarray(work.x.T)
    return [
        _engine(OURS, _stored(net, crew), x, crew),
        _engine(f"{OURS}, {work.split.nparts} parts", _stored(net, crew, work.split), x, crew),
    ]


def _engine(name: str, store: Store, x: Array, crew: Crew) -> Contender:
    out = np.empty((x.shape[0], store.widths[-1]), store.dtype)
    dataset = as_dataset(x)

    def run() -> None:
        stream(store, dataset, out=out, threads=crew.threads)

    return Contender(name, crew.threads, run, lambda _: [out.T], index_bytes=index_dtype(store.widths[0]).itemsize)


def challenge(work: Challenge, crew: Crew) -> list[Contender]:
    """The local engine, from the opened store to the categories."""
    store, dataset = _stored(work.net, crew), as_dataset(work.x)

    def run() -> Array:
        return stream(store, dataset, threads=crew.threads).categories

    index = index_dtype(store.widths[0]).itemsize
    return [Contender(OURS, crew.threads, run, lambda found: [found], index_bytes=index)]
