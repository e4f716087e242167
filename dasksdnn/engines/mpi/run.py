"""`infer` among the ranks of an MPI launcher; and who of them does what, for inference and training alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np

from dasksdnn.atomic import check_target
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.inference import Result, check_threads
from dasksdnn.engines.member import room
from dasksdnn.engines.mpi.world import World
from dasksdnn.engines.shares import grouped
from dasksdnn.engines.together import infer_together
from dasksdnn.engines.trace import write_trace
from dasksdnn.engines.transport import exchange, gather, tell
from dasksdnn.errors import InputError
from dasksdnn.events import Listener
from dasksdnn.kernels.routes import EVENT
from dasksdnn.network import Array
from dasksdnn.plan.cluster import NO_PARTS
from dasksdnn.sources.datasets import as_dataset, check_features
from dasksdnn.store.reader import Store, open_store

#: Events of a rank that a trace keeps: the first.
EVENTS = 1 << 18


def enter_world(trace: str | os.PathLike[str] | None = None) -> AbstractContextManager[World]:
    """The world, while a run in it lasts; see `World.together`."""
    return World(EVENTS if trace is not None else 0).together()


def layout(world: World, store: Store, strategy: str | None) -> tuple[Grid, tuple[int, ...]]:
    """Give parts to owners, and samples to replicas of them: as many owners as there are parts, where ranks suffice.

    Parameters
    ----------
    world : World
    store : Store
    strategy : {"samples", "parts"}, optional
        "samples" gives every rank all parts, and its own samples.

    Returns
    -------
    grid : Grid
    to : tuple of int
        The owner of each part.

    Raises
    ------
    InputError
        Parts are to be split, and there is only one, or no way to do so evenly.
    """
    ranks = world.transport.size
    if strategy not in (None, "samples", "parts"):
        raise InputError(f"strategy is {strategy!r}: choose 'samples' or 'parts', or leave the choice to the engine")
    if strategy == "parts" and min(ranks, store.nparts) < 2:
        raise InputError(NO_PARTS)
    most = 1 if strategy == "samples" else min(ranks, store.nparts)
    owners = next(n for n in range(most, 0, -1) if ranks % n == 0)
    if strategy == "parts" and owners == 1:
        raise InputError(
            f"{store.nparts} parts cannot be split over {ranks} ranks evenly: start at most {store.nparts} ranks, or a "
            "multiple of a number up to that"
        )
    return Grid(world.transport, owners), grouped(store, owners)


def agree_on(world: World, store: Store, **asked: Any) -> None:
    """All ranks must have opened the same content, and ask for the same: others would wait for what never comes.

    Raises
    ------
    InputError
    """
    every = gather(world.transport, (store.digest, asked))
    for rank, (digest, others) in enumerate(every):
        if digest != every[0][0]:
            raise InputError(
                f"{store.path}: rank {rank} sees another content there than rank 0: give a path that all ranks share"
            )
        for name, value in others.items():
            if value != every[0][1][name]:
                raise InputError(
                    f"rank {rank} was called with another {name} ({value}) than rank 0 ({every[0][1][name]}): all ranks make "
                    "the same call"
                )


@contextmanager
def traced(world: World, trace: str | os.PathLike[str] | None) -> Iterator[list[Array]]:
    """Give a list to put this rank's events into; behind the block, rank 0 writes those of all."""
    refused: InputError | None = None
    if trace is not None and world.leads:
        try:
            check_target(Path(os.path.abspath(trace)), overwrite=True)
        except InputError as error:
            refused = error
    if (refused := tell(world.transport, refused)) is not None:
        raise refused
    origin, held = monotonic_ns(), list[Array]()
    yield held
    if trace is None:
        return
    # A network whose pattern changed was run by several engines, one after the other.
    events = np.concatenate([np.empty((0, EVENT), np.int64), *held])
    if world.leads:
        write_trace(trace, _every(world, events, origin))
    else:
        exchange(world.transport, [(0, np.array([origin, len(events)], np.int64)), (0, events)], [])


def _every(world: World, events: Array, origin: int) -> Iterator[tuple[Array, int]]:
    """Events and origins of all ranks, one after the other, at rank 0."""
    yield events, origin
    for rank in range(1, world.transport.size):
        head: Array = np.empty(2, np.int64)
        exchange(world.transport, [], [(rank, head)])
        theirs: Array = np.empty((int(head[1]), EVENT), np.int64)
        exchange(world.transport, [], [(rank, theirs)])
        yield theirs, int(head[0])


def infer_by_ranks(
    store: Store | str | Path,
    x: Any,
    *,
    out: Any,
    overwrite: bool = False,
    memory: str | int | None = None,
    threads: int | None = None,
    strategy: str | None = None,
    trace: str | os.PathLike[str] | None = None,
    listener: Listener,
) -> Result:
    """Run samples through a stored network, as one of the ranks of an MPI launcher, which all make this call; see `infer`."""
    with enter_world(trace) as world:
        if out is None:
            raise InputError("the MPI engine has no lazy result: give out=, a path or 'categories'")
        opened = store if isinstance(store, Store) else open_store(store)
        dataset = as_dataset(x)
        check_features(dataset, opened.widths[0])
        kind = "an array" if not isinstance(out, str | Path) else "categories" if out == "categories" else "a path"
        count, traces = int(dataset.samples), trace is not None
        agree_on(world, opened, samples=count, out=kind, strategy=strategy, trace=traces)
        grid, to = layout(world, opened, strategy)
        count = world.threads() if threads is None else check_threads(threads)
        limits = room(memory, count, world.local)
        with traced(world, trace) as events:
            return infer_together(
                opened, dataset, grid, to, limits, out=out, overwrite=overwrite, listener=listener, events=events
            )
