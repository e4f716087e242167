"""The MPI engine on this machine, beside the local one.

All ranks make the same calls. What rank 0 does alone it does while the others sleep, as MPI's own waiting takes a processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn.bench.clusters import Row, measure
from dasksdnn.engines import local
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.inference import infer
from dasksdnn.engines.inference import plan as plan_inference
from dasksdnn.engines.mpi.world import World
from dasksdnn.engines.passage import Mine, Together
from dasksdnn.engines.shares import Share, share_of
from dasksdnn.engines.sinks import CategorySink
from dasksdnn.engines.transport import gather, tell
from dasksdnn.engines.weights import Weights
from dasksdnn.errors import DaskSDNNError, InputError
from dasksdnn.network import Array, Network
from dasksdnn.partition.metrics import Metrics
from dasksdnn.partition.partition import partition as partition_rows
from dasksdnn.plan.memory import Settings
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.sources.generators import radixnet
from dasksdnn.store.reader import Store, open_store
from dasksdnn.store.writer import save
from dasksdnn.training.loop import train

#: What is measured, by name.
KINDS = ("inference", "training", "single", "partition")
#: Seconds between looks, of ranks that wait for rank 0.
NAP = 0.01
#: A rate so small that no step changes what a step takes.
RATE = 1e-9


@dataclass(frozen=True, slots=True)
class Case:
    """A table, and the same for programs; `note` is a line below it."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    record: Any
    note: str = ""


class Ranks:
    """The ranks that measure.

    Parameters
    ----------
    world : World

    Attributes
    ----------
    world, transport, size
        Of all ranks.
    grid : Grid
        Each rank has a part of its own.

    Raises
    ------
    InputError
        There is only one.
    """

    def __init__(self, world: World) -> None:
        from mpi4py import MPI

        self.world, self.transport, self.size = world, world.transport, world.transport.size
        if self.size < 2:
            raise InputError(
                "there is one rank, which has nobody to exchange with: start several, as in "
                "mpiexec -n 2 dasksdnn bench mpi"
            )
        self.grid = Grid(self.transport, self.size)
        self._communicator = MPI.COMM_WORLD.Dup()

    def alone(self, work: Callable[[], Any]) -> Any:
        """What `work` gives at rank 0, at every rank; the others sleep meanwhile."""
        outcome: Any = None
        if self.world.leads:
            try:
                outcome = work()
            except DaskSDNNError as error:
                outcome = error
        self.sleep()
        outcome = tell(self.transport, outcome)
        if isinstance(outcome, DaskSDNNError):
            raise outcome
        return outcome

    def sleep(self) -> None:
        """Wait for all ranks to be here, without keeping a processor busy."""
        request = self._communicator.Ibarrier()
        while not request.Test():
            sleep(NAP)

    def share(self, store: Store) -> Share:
        """What this rank has of a store of as many parts as there are ranks."""
        return share_of(store, range(self.size), self.grid.owner)

    def made(self, net: Network, folder: Path, method: str = "hypergraph") -> tuple[Path, Metrics]:
        """A store with a part for each rank, and what its partition costs."""

        def make() -> tuple[Path, Metrics]:
            partition = partition_rows(net, self.size, method=method, effort="fast")
            return Path(save(net, folder / f"{uuid4().hex}.zarr", partition=partition).path), partition.metrics

        made: tuple[Path, Metrics] = self.alone(make)
        return made

    def written(self, folder: Path, shape: tuple[int, int], scale: float = 1.0) -> Path:
        """A file of random numbers."""

        def write() -> Path:
            path = folder / f"{uuid4().hex}.npy"
            np.save(path, np.random.default_rng(0).random(shape, np.float32) * np.float32(scale))
            return path

        path: Path = self.alone(write)
        return path


def inference(
    ranks: Ranks, folder: Path, neurons: int, layers: int, samples: list[int], repeats: int, memory: str
) -> Iterator[Case]:
    """Inference of RadiX-Net with samples of which none dies; of the fewest with weights in memory, too.

    The outputs of both engines are compared for the fewest samples, their categories in every run.
    """
    store = open_store(ranks.made(radixnet(neurons, layers, weights="random", bias=0.0), folder)[0])
    words = sum(layer.volume for layer in store.comm_plan().layers[1:]) * store.dtype.itemsize
    for count in samples:
        path = ranks.written(folder, (count, neurons))
        title = f"inference: RadiX-Net {neurons} x {layers}, {count:,} dense samples"
        if count == min(samples):
            _check_outputs(ranks, folder, store, path, memory)
        yield _compared(
            ranks, f"{title}, from the store", _streaming(ranks, store, path, memory), repeats, words * count
        )
        if count == min(samples):
            with ExitStack() as held:
                contenders = _holding(ranks, store, path, memory, held)
                yield _compared(ranks, f"{title}, weights in memory", contenders, repeats, words * count)


def training(
    ranks: Ranks, folder: Path, neurons: int, layers: int, batch: int, repeats: int, memory: str
) -> Iterator[Case]:
    """A step of training RadiX-Net (mse, SGD)."""
    net = radixnet(neurons, layers, weights="random", bias=0.0)
    steps = 20 if (net.edges or 0) < 1 << 24 else 4
    paths = [ranks.made(net, folder)[0] for _ in range(2)]
    x, y = ranks.written(folder, (batch * steps, neurons), 1 / 32), ranks.written(folder, (batch * steps, neurons))

    def run(path: Path, **how: Any) -> tuple[float, Array]:
        history = train(
            path, x, y, loss="mse", optimizer="sgd", lr=RATE, epochs=3, batch_size=batch, memory=memory,
            checkpoint_every=3, **how,
        )  # fmt: skip
        # The first epoch warms up.
        return min(e.seconds for e in history.epochs[1:]) / steps, np.array([e.loss for e in history.epochs])

    contenders: dict[str, Callable[[], tuple[float, Array]]] = {
        "local": lambda: ranks.alone(lambda: run(paths[0], threads=ranks.size)),
        "mpi": lambda: run(paths[1], engine="mpi", threads=1),
    }
    store = open_store(paths[0])
    moved = 2 * sum(layer.volume for layer in store.comm_plan().layers[1:]) * batch * store.dtype.itemsize
    title = f"training: RadiX-Net {neurons} x {layers}, batch {batch}, a step"
    yield _compared(ranks, title, contenders, repeats, moved)


def _compared(
    ranks: Ranks, title: str, contenders: dict[str, Callable[[], tuple[float, Array]]], repeats: int, moved: int
) -> Case:
    rows = {name: Row(name) for name in contenders}
    rows["mpi"].bytes_moved = moved
    measure(contenders, repeats, rows)
    first = rows["local"].median
    table = [
        (
            f"{row.name}, {ranks.size} {'threads' if row.name == 'local' else 'ranks of one thread'}",
            f"{row.median:.4g}",
            f"{min(row.seconds):.4g} to {max(row.seconds):.4g}",
            f"{row.median / first:.3f} x",
            f"{row.bytes_moved / 1e9:.3g}" if row.bytes_moved else "",
            "",
        )
        for row in rows.values()
    ]
    record = [
        {
            "name": row.name,
            "seconds": row.seconds,
            "median": row.median,
            "of_local": row.median / first,
            "bytes_moved": row.bytes_moved,
        }
        for row in rows.values()
    ]
    return Case(title, ("engine", "median s", "range", "of local", "moved GB", ""), table, record)


def _streaming(ranks: Ranks, store: Store, path: Path, memory: str) -> dict[str, Callable[[], tuple[float, Array]]]:
    """Runs of `infer`: weights are read in each."""

    def run(**how: Any) -> tuple[float, Array]:
        result = infer(store, path, out="categories", memory=memory, **how)
        return result.seconds, result.categories

    return {
        "local": lambda: ranks.alone(lambda: run(threads=ranks.size)),
        "mpi": lambda: run(engine="mpi", threads=1),
    }


def _holding(
    ranks: Ranks, store: Store, path: Path, memory: str, held: ExitStack
) -> dict[str, Callable[[], tuple[float, Array]]]:
    """The same with the same settings, but weights that stay in memory from run to run."""
    grid, dataset, share = ranks.grid, as_dataset(path), ranks.share(store)
    chosen = infer(store, path, out="categories", memory=memory, engine="mpi", threads=1).plan.settings
    mine = held.enter_context(closing(Weights(store, chosen, share)))
    passage = Together(share, grid, chosen, False)
    passage.mine = lambda names, owner: names % grid.owners == owner
    zero = ranks.alone(lambda: local.layers_that_map_zero_to_zero(store))
    mine.zero_to_zero = zero
    whole: list[tuple[Settings, Weights]] = []
    if ranks.world.leads:
        settings = plan_inference(store, path, memory=memory, threads=ranks.size).settings
        whole.append((settings, held.enter_context(closing(Weights(store, settings)))))
        whole[0][1].zero_to_zero = zero

    def in_threads() -> tuple[float, Array]:
        found, start = CategorySink(), perf_counter()
        local.run(store, dataset, found, whole[0][0], weights=whole[0][1])
        return perf_counter() - start, found.categories

    def by_ranks() -> tuple[float, Array]:
        found = CategorySink()
        sink = Mine(found, 0, lambda names: names % grid.owners == grid.owner)
        gather(ranks.transport, None)
        start = perf_counter()
        local.run(store, dataset, sink, chosen, weights=mine, passage=passage)
        every = gather(ranks.transport, found.categories)
        return perf_counter() - start, np.sort(np.concatenate(every))

    return {"local": lambda: ranks.alone(in_threads), "mpi": by_ranks}


def _check_outputs(ranks: Ranks, folder: Path, store: Store, path: Path, memory: str) -> None:
    """Both engines must give the same outputs."""
    import zarr

    made = [str(folder / f"{uuid4().hex}.zarr") for _ in range(2)]
    ranks.alone(lambda: infer(store, path, out=made[0], memory=memory, threads=ranks.size).seconds)
    infer(store, path, out=made[1], memory=memory, threads=1, engine="mpi")

    def same() -> bool:
        first, second = (zarr.open_array(one, mode="r") for one in made)
        some = range(0, first.shape[0], first.chunks[0])
        return all(
            np.allclose(first[a : a + first.chunks[0]], second[a : a + first.chunks[0]], rtol=1e-4) for a in some
        )

    if not ranks.alone(same):
        raise RuntimeError("the MPI engine's outputs are not those of the local engine")
