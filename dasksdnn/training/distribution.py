"""`train` on a Dask cluster: one long-lived task a worker, each a rank of one run, which exchange arrays directly.

    client   --submit, watch-->  rank 0 on worker A, rank 1 on worker B, ...     <== shared memory, or comms ==>
       ^  progress, history            |
       '--- a worker is lost: the ranks that are left end, and the run goes on from its last checkpoint on the workers there are

Every attempt has a name of its own, so nothing of an earlier one is ever taken for its own; and since all of a step is
done again from the same checkpoint, no update counts twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn import config
from dasksdnn.engines.cluster import mailbox
from dasksdnn.engines.cluster.peers import join
from dasksdnn.engines.cluster.telemetry import Counters, counting, facts_of, is_watched, tell_crew, told
from dasksdnn.engines.cluster.workers import Worker, ask, least_budget, wait_for_workers, workers_of
from dasksdnn.engines.exchange import Grid, new_tally
from dasksdnn.engines.loading import sizes_of
from dasksdnn.engines.shares import grouped, share_of, whole
from dasksdnn.errors import ClusterError, DaskSDNNError, PeerLostError
from dasksdnn.events import Listener, Progress
from dasksdnn.plan.comm import words_between
from dasksdnn.plan.ranks import Layout, choose_layout
from dasksdnn.plan.training import Ranks
from dasksdnn.sources.blocks import shareable
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.store.checkpoints import writing
from dasksdnn.store.reader import Store, open_store
from dasksdnn.training.history import History
from dasksdnn.training.learning import Learning
from dasksdnn.training.loop import complete
from dasksdnn.training.options import Every, Options
from dasksdnn.training.planning import sizes_for
from dasksdnn.training.run import Run

#: Times that a run goes on without having come further, before it is given up.
ATTEMPTS = 4
#: Seconds between looks at the workers, and between what a rank tells of its progress.
LOOK, TELL = 0.5, 0.2
#: Seconds that ranks have to end, once they were told to.
ENDING = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """What every rank of an attempt is given.

    Attributes
    ----------
    run : str
        Of the attempt.
    path : str
    options, every, keep, resume : see `train`
    to : tuple of int
        The owner of each part.
    ranks : Ranks
    addresses : tuple of str
        Of each rank's worker.
    memory, threads, scratch : see `train`
    shared : bool
        Ranks of one host use shared memory.
    watched : str or None
        What whoever watches knows the run by, all its attempts together; None: nobody does.
    """

    run: str
    path: str
    options: Options
    every: Every
    keep: int
    resume: bool
    to: tuple[int, ...]
    ranks: Ranks
    addresses: tuple[str, ...]
    memory: int | None
    threads: int | None
    scratch: Any
    shared: bool
    watched: str | None


def train_on(
    client: Any,
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
    listener: Listener,
) -> History:
    """Train on the workers of a cluster; see `train`. Goes on by itself where workers are lost.

    Raises
    ------
    ClusterError
        No worker came, or the run does not come further because workers keep dying.
    """
    data = (_sendable(x), y, None if validation is None else (_sendable(validation[0]), validation[1]))
    began, reached, idle, attempts = store.digest, store.digest, 0, 0
    with writing(store), _told(client, store, options, data) as (watched, ended):
        while True:
            workers = wait_for_workers(client)
            budget = least_budget(workers, memory if memory is not None else config.get("memory"))
            left = strategy if len(workers) > 1 or attempts == 0 else None  # one that is left does what can be done
            layout = _layout(store, options, workers, budget, left)
            attempts += 1
            used = workers[: layout.ranks.size]
            going_on = resume if reached == began else True
            work = Work(
                uuid4().hex, str(store.path), options, every, keep, going_on, layout.to, layout.ranks,
                tuple(w.address for w in used), budget, threads, scratch, bool(config.get("shared-memory")),
                watched,
            )  # fmt: skip
            if watched is not None:
                _tell_layout(client, store, work)
            try:
                history = _attempt(client, work, data, listener)
                ended["epochs"] = [asdict(epoch) for epoch in history.epochs]
                return history
            except (PeerLostError, _LostError) as lost:
                now = open_store(store.path).digest
                idle = 0 if now != reached else idle + 1
                reached = now
                if idle >= ATTEMPTS:
                    raise ClusterError(
                        f"training lost workers {idle} times without coming further than its last checkpoint ({lost}): look at "
                        "the workers' logs, or give them more memory"
                    ) from lost
                logging.getLogger(__name__).warning("training goes on from its last checkpoint: %s", lost)


#: What Dask raises for a task whose worker died, or that was cancelled with it.
_DEATHS = ("KilledWorker", "FutureCancelledError", "CancelledError", "NoValidWorkerError")


class _LostError(Exception):
    """An attempt was lost with a worker."""


@contextmanager
def _told(client: Any, store: Store, options: Options, data: Any) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Tell whoever watches of a run until the block ends: give its name, None where nobody does, and what its end is to tell."""
    if not is_watched(client):
        yield None, {}
        return
    run, samples = uuid4().hex, int(as_dataset(data[0]).samples)
    looked_at = 0 if data[2] is None else int(as_dataset(data[2][0]).samples)
    facts = {"samples": samples * options.epochs, "epochs": options.epochs, "validation": looked_at}
    with told(client, run, task="train", **facts, **facts_of(store)) as ended:
        yield run, ended


def _tell_layout(client: Any, store: Store, work: Work) -> None:
    """Tell which ranks there are, and what they are to send each other forward."""
    owners = work.ranks.owners
    if owners == 1:
        edges, words = [store.edges], np.zeros((1, 1), np.int64)
    else:
        edges = [sizes_of(store, share_of(store, work.to, owner)).edges for owner in range(owners)]
        words = words_between(store.comm_plan().coarsen(work.to))
    tell_crew(client, str(work.watched), work.addresses, work.to, edges, words)


def _sendable(x: Any) -> Any:
    """Samples as they may be sent to workers: files by their path, arrays whole."""
    dataset = as_dataset(x)
    return shareable(dataset) or dataset


def _layout(
    store: Store, options: Options, workers: Sequence[Worker], budget: int | None, strategy: str | None
) -> Layout:
    """How ranks share parts and samples."""
    owners = min(store.nparts, len(workers))
    to = grouped(store, owners)
    layers = store.comm_plan().coarsen(to).layers[1:] if owners > 1 else ()
    return choose_layout(
        sizes_for(store, whole(store), options, Ranks()),
        to,
        words=2 * sum(layer.volume for layer in layers),
        rounds=2 * sum(layer.messages > 0 for layer in layers),
        workers=len(workers),
        threads=min(w.threads for w in workers),
        hosts=len({w.host for w in workers}),
        batch=options.batch_size,
        budget=budget,
        forced=strategy,
    )


def _attempt(client: Any, work: Work, data: Any, listener: Listener) -> History:
    """Run all ranks to their end."""
    topic = f"sdnn-{work.run}"
    client.subscribe_topic(topic, lambda event: listener(Progress(*event[1])))
    try:
        ask(client, _attend, workers=work.addresses)
        given = client.scatter(data, hash=False, direct=False)
    except OSError as error:  # a worker went meanwhile: no connection, or none in time
        raise _LostError(str(error)) from error
    futures = [
        client.submit(
            _rank,
            work,
            rank,
            given,
            key=f"sdnn-train-{work.run}-{rank}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        for rank, address in enumerate(work.addresses)
    ]
    try:
        return _watched(client, work, futures)
    finally:
        _end(client, work, futures)
        client.unsubscribe_topic(topic)


def _watched(client: Any, work: Work, futures: list[Any]) -> History:
    """Wait for all ranks; the first failure that is not the loss of another rank is what went wrong."""
    found: dict[int, Any] = {}
    looked, gone = monotonic(), set[str]()
    while len(found) < len(futures):
        sleep(0.02)
        if monotonic() - looked > LOOK:
            looked, gone = monotonic(), set(work.addresses) - {w.address for w in workers_of(client)}
        found |= {rank: _outcome(f) for rank, f in enumerate(futures) if rank not in found and f.done()}
        if gone or any(isinstance(outcome, BaseException) for outcome in found.values()):
            _let_end(client, work, futures)
            found |= {rank: _outcome(f) for rank, f in enumerate(futures) if rank not in found and f.done()}
            for error in found.values():
                if isinstance(error, BaseException) and not isinstance(error, PeerLostError | _LostError):
                    raise error
            raise _LostError(f"a worker was lost ({', '.join(sorted(gone)) or 'its rank ended'})")
    history: History = found[0]
    return history


def _outcome(future: Any) -> Any:
    """What a rank gave: a history, nothing, or an error."""
    if future.status == "finished":
        try:
            return future.result(timeout=ENDING)
        except Exception as error:  # its worker went with it
            return _LostError(str(error))
    if future.status == "error":
        what = future.exception()
        return _LostError(str(what)) if type(what).__name__ in _DEATHS else what
    return _LostError(f"the task is {future.status}")


def _let_end(client: Any, work: Work, futures: list[Any]) -> None:
    """Tell the ranks that are left to end, and wait until they have."""
    end = monotonic() + ENDING
    alive = {w.address for w in workers_of(client)}
    ask(client, mailbox.abort, work.run, workers=[a for a in work.addresses if a in alive])
    while monotonic() < end and any(
        f.status == "pending" and a in alive for f, a in zip(futures, work.addresses, strict=True)
    ):
        sleep(0.05)
        alive = {w.address for w in workers_of(client)}


def _end(client: Any, work: Work, futures: list[Any]) -> None:
    """Leave nothing of an attempt on the workers, whatever ended it."""
    if client.status == "running":
        if any(f.status == "pending" for f in futures):
            _let_end(client, work, futures)
        client.cancel(futures, force=True)


def _attend(dask_worker: Any) -> None:
    mailbox.attend(dask_worker)


def _rank(work: Work, rank: int, data: Any) -> History | DaskSDNNError | None:
    """One rank, on its worker; gives an error that was to be expected, which Dask would log with all that led to it."""
    try:
        return _run_rank(work, rank, data)
    except DaskSDNNError as error:
        return error


def _run_rank(work: Work, rank: int, data: Any) -> History | None:
    from distributed import get_worker, secede

    worker = get_worker()
    key = worker.get_current_task()
    secede()  # tasks of other runs, and those that read the samples, have the worker's threads
    peers = join(work.run, rank, work.addresses, work.shared)
    try:
        listener = _Telling(worker, key, work, rank)
        run = listener.run = Run(
            open_store(work.path),
            work.options,
            work.every,
            work.keep,
            work.resume,
            listener,
            Grid(peers, work.ranks.owners),
            work.to,
        )
        threads = work.threads or worker.state.nthreads
        x, y, validation = data
        with _counted(worker, work, rank, run):
            history = complete(run, x, y, validation, work.memory, threads, work.scratch)
        return history if rank == 0 else None
    finally:
        peers.close()


def _counted(worker: Any, work: Work, rank: int, run: Run) -> AbstractContextManager[None]:
    """Tell of a rank's counters until the block ends, where somebody watches."""
    if work.watched is None:
        return nullcontext()
    layers = len(run.store)
    none = Counters(new_tally(layers), np.zeros(work.ranks.owners, np.int64))

    def counters() -> Counters:
        engine = run.engine  # another one, where the pattern has changed; none in between
        sums = none if engine is None else Counters(engine.exchange.tally, engine.exchange.sent)
        return Counters(sums.tally + run.tally, sums.sent + run.sent)

    return counting(worker, work.watched, rank, counters, budget=work.memory or 0)


class _Telling:
    """Tells the client of rank 0's progress, now and then; and ends a rank that nobody waits for any more."""

    run: Run

    def __init__(self, worker: Any, key: Any, work: Work, rank: int) -> None:
        self._worker, self._key, self._run, self._rank = worker, key, work.run, rank
        self._learning = None if work.watched is None or rank else Learning(worker, work.watched)
        self._told = 0.0

    def __call__(self, event: Progress) -> None:
        now = monotonic()
        if now - self._told < TELL and event.done < event.total:
            return
        self._told = now
        task = self._worker.state.tasks.get(self._key)
        if self._run in mailbox.aborted or task is None or task.state == "cancelled":
            raise PeerLostError(f"rank {self._rank} was told to end: its client has gone, or another rank was lost")
        if self._rank == 0:
            self._worker.log_event(f"sdnn-{self._run}", (event.task, event.done, event.total, event.unit))
        if self._learning is not None and event.task == "train":
            self._learning.tell(self.run)
