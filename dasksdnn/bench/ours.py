"""How this project does each piece of work: all contact with its kernels and engines is here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn import host
from dasksdnn.bench.contender import OURS, Contender, Crew, share, spans
from dasksdnn.bench.work import Backward, Challenge, Forward, Parts, Width1
from dasksdnn.engines.inference import stream
from dasksdnn.engines.loading import load, sizes_of
from dasksdnn.engines.part import PanelLayer
from dasksdnn.engines.part import forward as through
from dasksdnn.kernels.spmm import LANES
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
    layers = load(store, 0, len(store))
    tile = tile_for(sizes_of(store), work.samples, crew.threads, host.cache_bytes())
    panels = _Panels(work.x, max(store.widths), tile, crew.threads)

    def run() -> None:
        crew.each(lambda thread: panels.run(layers, thread), range(crew.threads))

    def result(_: Any) -> list[Array]:
        return [panels.outputs(layers[-1].rows)]

    return [Contender(OURS, crew.threads, run, result, panels.fill, layers[0].indices.itemsize)]


class _Panels:
    """A wide panel cut into tiles for a number of threads; buffers are as the local engine's: a spare one a thread."""

    def __init__(self, x: Array, widest: int, tile: int, threads: int) -> None:
        self._x, self._spans = x, spans(x.shape[1], tile)
        self._buffers = [np.empty((widest, tile), x.dtype) for _ in self._spans]
        self._spare = [np.empty((widest, tile), x.dtype) for _ in range(threads)]
        self._threads = threads

    def fill(self) -> None:
        """Restore the inputs."""
        for span, buffer in zip(self._spans, self._buffers, strict=True):
            buffer[: self._x.shape[0], : span.stop - span.start] = self._x[:, span]

    def run(self, layers: Sequence[PanelLayer], thread: int) -> None:
        """Take one thread's tiles through all layers."""
        for i in range(thread, len(self._spans), self._threads):
            samples = self._spans[i].stop - self._spans[i].start
            self._buffers[i], self._spare[thread] = through(layers, self._buffers[i], self._spare[thread], samples)

    def outputs(self, rows: Array) -> Array:
        """What is in the tiles, the network's neurons in their own order."""
        out = np.empty((rows.size, self._x.shape[1]), self._x.dtype)
        for span, buffer in zip(self._spans, self._buffers, strict=True):
            out[rows, span] = buffer[: rows.size, : span.stop - span.start]
        return out


def _blocks(layers: Sequence[Layer], transpose: bool) -> list[Any]:
    from dasksdnn.kernels.block import make_block

    blocks = []
    for weights in (layer.weights for layer in layers):
        indices = weights.indices.astype(index_dtype(weights.shape[1]))
        blocks.append(make_block(weights.indptr.astype(np.int64), indices, weights.shape[1], transpose=transpose))
    return blocks


def backward(work: Backward, crew: Crew) -> list[Contender]:
    """Each thread takes a share of the samples through both products; the threads' gradients are added up."""
    from dasksdnn.kernels.sddmm import sddmm
    from dasksdnn.kernels.spmm import spmm_transposed  # type: ignore[attr-defined]

    blocks, weights = _blocks(work.layers, True)[::-1], [layer.weights.data for layer in work.layers[::-1]]
    cut = spans(work.samples, -(-share(work.samples, crew.threads) // LANES) * LANES)
    inputs = [[np.ascontiguousarray(x[:, span]) for _, x in work.reversed()] for span in cut]
    last = [np.ascontiguousarray(work.delta[:, span]) for span in cut]
    buffers = [[np.empty_like(x) for x in panels] for panels in inputs]
    gradients = [[np.empty_like(data) for data in weights] for _ in cut]

    def back(i: int) -> None:
        delta, samples = last[i], last[i].shape[1]
        for k, block in enumerate(blocks):
            sddmm(block, delta, inputs[i][k], gradients[i][k], samples)
            spmm_transposed(block, weights[k], delta, buffers[i][k], samples)
            delta = buffers[i][k]

    def run() -> None:
        crew.each(back, range(len(cut)))
        for others in gradients[1:]:
            for total, part in zip(gradients[0], others, strict=True):
                total += part

    def result(_: Any) -> list[Array]:
        return [np.hstack([panels[-1] for panels in buffers]), *gradients[0][::-1]]

    return [Contender(OURS, crew.threads, run, result, index_bytes=blocks[0].indices.itemsize)]


def width1(work: Width1, crew: Crew) -> list[Contender]:
    """The kernel for one sample; one thread."""
    from dasksdnn.kernels.spmv import spmv

    blocks, y = _blocks(work.layers, False), [np.empty_like(layer.bias) for layer in work.layers]

    def run() -> list[Array]:
        for block, layer, out in zip(blocks, work.layers, y, strict=True):
            spmv(block, layer.weights.data, layer.bias, layer.activation, work.x, out)
        return y

    return [Contender(OURS, crew.threads, run, lambda found: found, index_bytes=blocks[0].indices.itemsize)]


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
