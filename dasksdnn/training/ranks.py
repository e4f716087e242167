"""`train` among the ranks of an MPI launcher: each is a rank of one run, see `run`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from dasksdnn.engines.inference import check_threads
from dasksdnn.engines.member import room
from dasksdnn.engines.mpi.run import agree_on, layout, traced
from dasksdnn.engines.mpi.world import World
from dasksdnn.engines.together import led
from dasksdnn.events import Listener, ignore
from dasksdnn.store.checkpoints import writing
from dasksdnn.store.reader import Store
from dasksdnn.training.history import History
from dasksdnn.training.loop import complete
from dasksdnn.training.options import Every, Options
from dasksdnn.training.run import Run


def train_by_ranks(
    world: World,
    store: Store,
    options: Options,
    every: Every,
    keep: int,
    resume: bool,
    x: Any,
    y: Any,
    validation: tuple[Any, Any] | None,
    *,
    memory: str | int | None,
    threads: int | None,
    scratch: Any,
    strategy: str | None,
    trace: Any,
    listener: Listener,
) -> History:
    """Train as one of the ranks, which all make this call; see `train`."""
    asked = {
        "checkpoint_every": every,
        "keep": keep,
        "resume": resume,
        "strategy": strategy,
        "trace": trace is not None,
    }
    agree_on(world, store, **options.as_dict(), **asked, validation=validation is not None)
    grid, to = layout(world, store, strategy)
    count = world.threads() if threads is None else check_threads(threads)
    limits = room(memory, count, world.local)
    with ExitStack() as held:
        led(grid, lambda: _lock(held, store))
        with traced(world, trace) as events:
            run = Run(store, options, every, keep, resume, listener if world.leads else ignore, grid, to)
            history = complete(run, x, y, validation, limits.budget, count, scratch)
            events += run.events
            return history


def _lock(held: ExitStack, store: Store) -> None:
    held.enter_context(writing(store))
