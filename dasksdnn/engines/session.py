"""What a process keeps from one chunk of a lazy result, or one batch of a Dask worker, to the next: a plan and its weights.

    chunk 0 --plan, load--> [ plan | weights ] --run-->        chunk 1 --run--> ...        idle for a minute --drop-->

A process holds one such session, so that a budget is one process's: it goes when another store, budget or larger chunk
comes, when a run of its own begins, and on request. Whoever calls these functions holds the lock of runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, Timer
from time import monotonic
from typing import Any

from dasksdnn.engines.weights import Weights
from dasksdnn.plan.schedule import Plan
from dasksdnn.store.reader import Store

#: Seconds without a run after which a session is dropped.
IDLE = 60.0


@dataclass(slots=True)
class Session:
    """A plan for chunks of up to `plan.samples` samples, and weights loaded as it says.

    Attributes
    ----------
    key : tuple
        What the plan was made for: path and digest of the store, budget, threads.
    plan : Plan
    weights : Weights
    used : float
        When it served last, by the monotonic clock.
    """

    key: tuple[Any, ...]
    plan: Plan
    weights: Weights
    used: float

    def serves(self, key: tuple[Any, ...], dataset: Any, sink: Any) -> bool:
        """Whether its plan has room for a dataset and a sink."""
        settings, projection = self.plan.settings, self.plan.chosen.projection
        samples = int(dataset.samples)
        return (
            self.key == key
            and samples <= self.plan.samples
            and 2 * int(dataset.block_bytes(min(settings.rows, samples))) <= projection.input
            and int(sink.nbytes(settings)) <= projection.output
        )


_lock = Lock()
_held: Session | None = None
_timer: Timer | None = None


def take(
    store: Store, dataset: Any, sink: Any, key: tuple[Any, ...], choose: Callable[[], Plan]
) -> tuple[Session, bool]:
    """The session that is held where it serves, else a new one; give it back with `keep`.

    Parameters
    ----------
    store : Store
    dataset : Dataset
    sink : Sink
    key : tuple
        Budget and threads, as the caller gave them.
    choose : callable
        Plans; called when nothing is held any more, so that no weights are counted twice.

    Returns
    -------
    Session
    bool
        Whether it was held before.
    """
    global _held
    key = (str(store.path), store.digest, *key)
    with _lock:
        session, _held = _held, None
    if session is not None:
        if session.serves(key, dataset, sink):
            return session, True
        session.weights.close()
        session = None  # its memory is free before the next plan looks at what the process holds
    plan = choose()
    return Session(key, plan, Weights(store, plan.settings), monotonic()), False


def keep(session: Session) -> None:
    """Hold a session for the next chunk, until nothing has used it for a minute."""
    global _held, _timer
    session.used = monotonic()
    with _lock:
        _held = session
        if _timer is None:
            _timer = _start_timer(IDLE)


def nbytes() -> int:
    """Bytes of the weights that are held: a run that they do not serve drops them before it takes memory of its own."""
    with _lock:
        return _held.weights.nbytes if _held is not None else 0


def release() -> None:
    """Drop what this process keeps; a run that goes on is not disturbed."""
    global _held
    with _lock:
        session, _held = _held, None
    if session is not None:
        session.weights.close()


def _start_timer(seconds: float) -> Timer:
    timer = Timer(seconds, _drop_if_idle)
    timer.daemon = True
    timer.start()
    return timer


def _drop_if_idle() -> None:
    global _timer
    with _lock:
        idle = IDLE if _held is None else monotonic() - _held.used
        _timer = None if idle >= IDLE else _start_timer(IDLE - idle)
    if idle >= IDLE:
        release()


@dataclass(frozen=True, slots=True)
class Scheduler:
    """What runs the task that this thread is in.

    Attributes
    ----------
    concurrency : int
        Tasks that it runs in this process at a time.
    threads : int or None
        Threads that they may use together; None: all that the process may.
    memory : int or None
        Bytes that the process may hold by its scheduler's limit; None where there is no limit.
    """

    concurrency: int
    threads: int | None
    memory: int | None


def scheduler() -> Scheduler:
    """The Dask worker that this thread runs a task of, else Dask's scheduler of threads as it is set."""
    if "distributed.worker" in sys.modules:  # else no worker can be in this process
        from dasksdnn.engines.cluster.workers import budget_of, current_worker

        if (worker := current_worker()) is not None:
            return Scheduler(worker.threads, worker.threads, budget_of(worker))
    return Scheduler(_dask_threads(), None, None)


def _dask_threads() -> int:
    import dask.config
    from dask.system import CPU_COUNT

    chosen = dask.config.get("scheduler", None)
    if isinstance(chosen, str) and chosen.lower() in ("sync", "synchronous", "single-threaded", "processes"):
        return 1
    pool = dask.config.get("pool", None)
    count = getattr(pool, "_max_workers", None) or dask.config.get("num_workers", None) or CPU_COUNT
    return max(1, int(count))
