"""`infer` among the ranks of an MPI launcher; and who of them does what, for inference and training alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any

from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.inference import Result, check_threads
from dasksdnn.engines.member import room
from dasksdnn.engines.mpi.world import World
from dasksdnn.engines.shares import grouped
from dasksdnn.engines.together import infer_together
from dasksdnn.engines.transport import gather
from dasksdnn.errors import InputError
from dasksdnn.events import Listener
from dasksdnn.kernels.routes import EVENT
from dasksdnn.network import Array
from dasksdnn.plan.cluster import NO_PARTS
from dasksdnn.sources.datasets import as_dataset, check_features
from dasksdnn.store.reader import Store, open_store

#: Events of a rank that a trace keeps: the first.
EVENTS = 1 << 20


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
        Parts are to be split, and there is only one.
    """
    ranks = world.transport.size
    if strategy not in (None, "samples", "parts"):
        raise InputError(f"strategy is {strategy!r}: choose 'samples' or 'parts', or leave the choice to the engine")
    if strategy == "parts" and min(ranks, store.nparts) < 2:
        raise InputError(NO_PARTS)
    most = 1 if strategy == "samples" else min(ranks, store.nparts)
    owners = next(n for n in range(most, 0, -1) if ranks % n == 0)
    return Grid(world.transport, owners), grouped(store, owners)


def agree_on(world: World, store: Store) -> None:
    """All ranks must have opened the same content.

    Raises
    ------
    InputError
    """
    digests = gather(world.transport, store.digest)
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            raise InputError(
                f"{store.path}: rank {rank} sees another content there than rank 0: give a path that all ranks share"
            )


@contextmanager
def traced(world: World, trace: str | os.PathLike[str] | None) -> Iterator[list[Array]]:
    """Give a list to put this rank's events into; behind the block, rank 0 writes those of all."""
    gather(world.transport, None)
    origin, held = monotonic_ns(), list[Array]()
    yield held
    if trace is None:
        return
    from dasksdnn.engines.trace import write_trace

    every = gather(world.transport, (held[0] if held else None, origin))
    if world.leads:
        import numpy as np

        none = np.zeros((0, EVENT), np.int64)
        write_trace(trace, [none if e is None else e for e, _ in every], [o for _, o in every])


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
        agree_on(world, opened)
        grid, to = layout(world, opened, strategy)
        count = world.threads() if threads is None else check_threads(threads)
        limits = room(memory, count, world.local)
        with traced(world, trace) as events:
            return infer_together(
                opened, dataset, grid, to, limits, out=out, overwrite=overwrite, listener=listener, events=events
            )
