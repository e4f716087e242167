"""How this project does a training step: the engine behind `train`, with the plan that `train` would make."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dasksdnn import host
from dasksdnn.bench.contender import OURS, Contender, Crew
from dasksdnn.bench.orders import in_order
from dasksdnn.bench.training import Training
from dasksdnn.engines.loading import positions_dtype, sizes_of
from dasksdnn.engines.trainer import Trainer, prepare
from dasksdnn.engines.working import Need
from dasksdnn.kernels.block import Block
from dasksdnn.kernels.update import SGD
from dasksdnn.network import Array, Network
from dasksdnn.plan.training import TrainingSizes, plan_training
from dasksdnn.store.reader import Store
from dasksdnn.store.writer import save
from dasksdnn.training.losses import SquaredError


def training(work: Training, crew: Crew) -> list[Contender]:
    """One batch of rows through the engine, all weights in memory."""
    folder = crew.keep(tempfile.TemporaryDirectory(prefix="dasksdnn-bench-"))
    store = save(Network.from_layers(work.layers, "bench"), Path(folder, "net.zarr"))
    prepare(store)
    trainer = crew.keep(closing(_trainer(store, work.samples, crew.threads)))
    x, loss = np.ascontiguousarray(work.x.T), _Loss(work)
    state = _State(work, trainer)

    def run() -> None:
        trainer.step(x, loss, SGD(work.lr), 1)

    index = positions_dtype(store).itemsize
    return [Contender(OURS, crew.threads, run, lambda _: state.values(), state.restore, index)]


def _trainer(store: Store, samples: int, threads: int) -> Trainer:
    """Planned as `train` does it, with as much memory as is wanted."""
    largest = max(window.arrays["data"].nbytes for window in store.manifest.windows)
    sizes = TrainingSizes(sizes_of(store), positions_dtype(store).itemsize, 0, largest)
    batch = 2 * samples * store.widths[0] * store.dtype.itemsize
    plan = plan_training(sizes, samples, 1 << 60, reserved=host.resident(), threads=threads, input_bytes=batch)
    return Trainer(store, plan.settings)


class _Loss:
    """The squared error that `train` has, weighted so that it is half the sum over the outputs."""

    def __init__(self, work: Training) -> None:
        self._loss, self._activation = SquaredError(), work.layers[-1].activation
        self._targets = np.ascontiguousarray(work.t.T)
        self._weight = work.t.shape[0] / 2 / work.samples

    def __call__(self, y: Array, count: int, start: int, rows: Array, delta: Array | None) -> None:
        if delta is not None:
            targets = self._targets[start : start + count]
            self._loss.value_and_delta(y, count, targets, rows, self._activation, delta, self._weight)


class _State:
    """The weights in the engine's memory: what they were, and how they stand in the network's own order."""

    def __init__(self, work: Training, trainer: Trainer) -> None:
        self._work, self._layers = work, _held(trainer)
        self._fresh = [(layer.data.copy(), layer.bias.copy()) for layer in self._layers]

    def restore(self) -> None:
        """Put back what the first step began with."""
        for layer, (data, bias) in zip(self._layers, self._fresh, strict=True):
            layer.data[:], layer.bias[:] = data, bias

    def values(self) -> list[Array]:
        """Weights, then biases, in the network's own order."""
        pairs = list(zip(self._work.layers, self._layers, strict=True))
        weights = [in_order(layer, held.block, held.columns, held.rows, held.data) for layer, held in pairs]
        return [*weights, *(held.bias[np.argsort(held.rows)] for _, held in pairs)]


@dataclass(frozen=True, slots=True)
class _Held:
    """A layer in the engine's memory; `columns` and `rows` say which neurons are meant."""

    block: Block
    data: Array
    bias: Array
    columns: Array
    rows: Array


def _held(trainer: Trainer) -> list[_Held]:
    """Views of all layers, which stay valid: no slab passes through a buffer."""
    found: list[_Held] = []
    with closing(trainer.working.sweep([(j, Need.CHANGE) for j in range(trainer.settings.resident)])) as sweep:
        for part in sweep:
            ids = np.split(part.ids.astype(np.int64), np.cumsum(part.chain.widths)[:-1])
            for k, (columns, rows) in enumerate(pairwise(ids)):
                found.append(_Held(part.chain.block(k), *part.chain.values(k), columns, rows))
    return found
