"""The engines side by side on this machine: local with all threads, and Dask workers that have as many between them.

Every contender runs once in a round, in an order drawn afresh, after one run that is not counted; what they give is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn.engines.inference import infer
from dasksdnn.engines.inference import plan as plan_inference
from dasksdnn.engines.shares import grouped
from dasksdnn.network import Array
from dasksdnn.partition.partition import partition as partition_rows
from dasksdnn.sources.generators import radixnet
from dasksdnn.store.writer import save
from dasksdnn.training.loop import train

#: Bytes that are sent to measure how fast workers send.
_PROBE = 1 << 26


@dataclass(slots=True)
class Row:
    """One contender.

    Attributes
    ----------
    name : str
    seconds : list of float
        Of each round: of the run, or of a step in training.
    bytes_moved : int
        What the plan says that crosses between workers.
    bandwidth : float
        Bytes a second through the workers' comms; 0 where nothing goes there.
    chosen : bool
        The plan's choice.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    bytes_moved: int = 0
    bandwidth: float = 0.0
    chosen: bool = False

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return median(self.seconds)

    def allowed(self, local: float) -> float:
        """Seconds of computing as the local engine does, and of moving as fast as the workers do."""
        return local + (self.bytes_moved / self.bandwidth if self.bandwidth else 0.0)


HEADER = ("engine", "seconds", "of local", "moved GB", "of computing + moving", "")


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """As text; the first row is the local engine."""
    local = rows[0].median
    return [
        (
            row.name,
            f"{row.median:.4g} ({min(row.seconds):.4g} to {max(row.seconds):.4g})",
            f"{row.median / local:.2f} x",
            f"{row.bytes_moved / 1e9:.3g}" if row.bytes_moved else "",
            f"{row.median / row.allowed(local):.2f} x" if row.bandwidth else "",
            "the plan's choice" if row.chosen else "",
        )
        for row in rows
    ]


def send_rate(client: Any) -> float:
    """Bytes a second from one worker to another, through their comms, as tasks get them."""
    first, second = sorted(client.scheduler_info(n_workers=-1)["workers"])[:2]
    taken = []
    for _ in range(3):
        source = client.submit(_made, _PROBE, workers=[first], pure=False)
        source.result(timeout=60)
        if source.status == "finished":
            start = perf_counter()
            client.submit(_size, _Asked(source.key), source, workers=[second], pure=False).result(timeout=60)
            taken.append(perf_counter() - start)
    return _PROBE / min(taken)


class _Asked(str):
    """A name that no other task has."""


def _made(size: int) -> Any:
    return np.ones(size, np.uint8)


def _size(_: str, values: Any) -> int:
    return int(values.size)


def measure(contenders: dict[str, Callable[[], tuple[float, Array]]], repeats: int, rows: dict[str, Row]) -> None:
    """Run all contenders so often, each giving its seconds and what is to be the same for all."""
    rng = np.random.default_rng(0)
    right = {name: run()[1] for name, run in contenders.items()}
    first = next(iter(right.values()))
    for name, given in right.items():
        if not np.allclose(given, first, rtol=1e-4):
            raise RuntimeError(f"{name} gives something else than {next(iter(right))}")
    for _ in range(repeats):
        for name in rng.permutation(list(contenders)).tolist():
            rows[name].seconds.append(contenders[name]()[0])


def inference(
    client: Any, folder: Path, neurons: int, layers: int, samples: int, repeats: int, memory: str
) -> list[Row]:
    """Inference of RadiX-Net with samples of which none dies: local, samples split, parts split in both ways."""
    import dask

    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    net = radixnet(neurons, layers, weights="random", bias=0.0)
    partition = partition_rows(net, workers, effort="fast")
    store = save(net, folder / f"{uuid4().hex}.zarr", partition=partition)
    path = folder / f"{uuid4().hex}.npy"
    np.save(path, np.random.default_rng(0).random((samples, neurons), np.float32))
    plan = store.comm_plan().coarsen(grouped(store, workers))
    words = sum(layer.volume for layer in plan.layers[1:]) * samples * store.dtype.itemsize

    def run(shared: bool = True, **how: Any) -> tuple[float, Array]:
        with dask.config.set({"dasksdnn.shared-memory": shared}):
            result = infer(store, path, out="categories", memory=memory, **how)
        return result.seconds, result.categories

    names = ["local", "samples split", "parts split, shared memory", "parts split, comms"]
    rows = {name: Row(name) for name in names}
    rows[names[2]].bytes_moved = rows[names[3]].bytes_moved = words
    rows[names[3]].bandwidth = send_rate(client)
    measure(
        {
            names[0]: lambda: run(threads=workers),
            names[1]: lambda: run(client=client, strategy="samples"),
            names[2]: lambda: run(client=client, strategy="parts"),
            names[3]: lambda: run(False, client=client, strategy="parts"),
        },
        repeats,
        rows,
    )
    chosen = plan_inference(store, path, memory=memory, client=client).chosen.strategy
    for row in rows.values():
        row.chosen = row.name.startswith(chosen)
    return list(rows.values())


def training(client: Any, folder: Path, neurons: int, layers: int, batch: int, repeats: int, memory: str) -> list[Row]:
    """A step of training RadiX-Net (mse, SGD): local, samples split, parts split. An epoch of 20 steps is timed."""
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    net = radixnet(neurons, layers, weights="random", bias=0.0)
    partition = partition_rows(net, workers, effort="fast")
    steps = 20
    rng = np.random.default_rng(0)
    x, y = folder / f"{uuid4().hex}.npy", folder / f"{uuid4().hex}-y.npy"
    np.save(x, rng.random((batch * steps, neurons), np.float32) / 32)
    np.save(y, rng.random((batch * steps, neurons), np.float32))
    made = [save(net, folder / f"{uuid4().hex}.zarr", partition=partition) for _ in range(3)]
    plan = made[0].comm_plan().coarsen(grouped(made[0], workers))
    words = 2 * sum(layer.volume for layer in plan.layers[1:]) * batch * made[0].dtype.itemsize

    def run(store: Any, **how: Any) -> tuple[float, Array]:
        history = train(
            store.path, x, y, loss="mse", optimizer="sgd", lr=1e-9, epochs=3, batch_size=batch, memory=memory,
            checkpoint_every=3, **how,
        )  # fmt: skip
        # The first epoch warms up; how ranks compute and wait is the same in all of them.
        return min(e.seconds for e in history.epochs[1:]) / steps, np.array([e.loss for e in history.epochs])

    rows = {name: Row(name) for name in ("local", "samples split", "parts split")}
    rows["parts split"].bytes_moved = words
    rows["samples split"].bytes_moved = 2 * made[0].edges * made[0].dtype.itemsize
    measure(
        {
            "local": lambda: run(made[0], threads=workers),
            "samples split": lambda: run(made[1], client=client, strategy="samples"),
            "parts split": lambda: run(made[2], client=client, strategy="parts"),
        },
        repeats,
        rows,
    )
    history = train(
        made[0].path,
        x,
        y,
        loss="mse",
        optimizer="sgd",
        lr=1e-9,
        epochs=1,
        batch_size=batch,
        memory=memory,
        client=client,
    )
    for row in rows.values():
        row.chosen = row.name in history.plan["strategy"]
    return list(rows.values())
