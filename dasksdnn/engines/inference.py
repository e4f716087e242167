"""`infer` and `plan`: datasets of any kind in, outputs as a lazy dask.array, or streamed into `out` and reductions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from time import perf_counter
from typing import Any

import numpy as np

from dasksdnn import config, host, markup
from dasksdnn.atomic import replacing
from dasksdnn.compiling import warm_up
from dasksdnn.engines import local, session
from dasksdnn.engines.loading import positions_dtype, sizes_of
from dasksdnn.engines.outputs import check_out, new_output
from dasksdnn.engines.passage import Alone, Passage
from dasksdnn.engines.sinks import ArraySink, CategorySink, ChunkedSink, Tee
from dasksdnn.engines.traffic import Traffic
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, announce, ignore
from dasksdnn.kernels import block, chain, panels
from dasksdnn.network import Array
from dasksdnn.plan.cluster import ClusterPlan
from dasksdnn.plan.schedule import Plan, plan_inference
from dasksdnn.store.reader import Store, open_store

#: Bytes of a dense block of samples, about, that is read from a dataset at once.
BLOCK_BYTES = 8 << 20
#: Without a budget, this share of the memory that is available now may be used.
DEFAULT_SHARE = 0.8

# One run at a time in a process: a budget is the process's, and one run uses all its threads.
_running = Lock()


class _Waiting:
    """Bytes of samples of chunks that wait for their turn in this process: resident by now."""

    def __init__(self) -> None:
        self._lock, self.nbytes = Lock(), 0

    @contextmanager
    def hold(self, nbytes: int) -> Iterator[None]:
        self._add(nbytes)
        try:
            yield
        finally:
            self._add(-nbytes)

    def _add(self, nbytes: int) -> None:
        with self._lock:
            self.nbytes += nbytes


_waiting = _Waiting()


@dataclass(frozen=True, slots=True)
class Result:
    """What a streamed run gave.

    Attributes
    ----------
    samples, edges : int
        Samples run, and stored weights of the network.
    seconds : float
        From the opened store and dataset to the written outputs; planning and compilation apart.
    categories : int array
        Samples with a non-zero output, 0-based, ascending.
    plan : Plan or ClusterPlan
    computed_edges : int
        Multiply-adds done: less than edges x samples where samples died.
    peak_rss : int
        The most memory that the process, or any worker of a cluster, has held, in bytes.
    traffic : Traffic or None
        What MPI ranks sent each other.
    """

    samples: int
    edges: int
    seconds: float
    categories: Array
    plan: Plan | ClusterPlan
    computed_edges: int
    peak_rss: int
    traffic: Traffic | None = None

    @property
    def edges_per_second(self) -> float:
        """The Graph Challenge's rate: samples x edges / seconds."""
        return self.samples * self.edges / self.seconds if self.seconds else 0.0

    def __repr__(self) -> str:
        return (
            f"<dasksdnn.Result: {self.samples:,} samples x {self.edges:,} edges in {self.seconds:.2f} s, "
            f"{self.edges_per_second:.3g} edges/s, {self.categories.size:,} categories, peak {host.format_bytes(self.peak_rss)}>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "samples": f"{self.samples:,}",
            "seconds": f"{self.seconds:.2f}",
            "edges/s": f"{self.edges_per_second:.3g}",
            "categories": f"{self.categories.size:,}",
            "peak memory": host.format_bytes(self.peak_rss),
        }
        moved = "" if self.traffic is None else markup.grid(self.traffic.HEADER, self.traffic.rows())
        return markup.card("dasksdnn.Result", markup.aside(markup.facts(rows), moved))


def plan(
    store: Store | str | Path,
    samples: Any,
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    client: Any = None,
    engine: str | None = None,
    strategy: str | None = None,
    listener: Listener = announce,
) -> Plan | ClusterPlan:
    """Choose how to run inference, without running it.

    Parameters
    ----------
    store : Store or path
    samples : int or dataset
        How many samples, or anything that `infer` takes.
    memory : str or int, optional
        Budget of the process at its peak ("512MiB"); by default 80% of what is available now.
    threads : int, optional
        By default all processors that the process may use.
    client, engine, strategy : optional
        See `infer`: how a cluster would run it.
    listener : callable
        Told where kernels have to be compiled first.

    Returns
    -------
    Plan or ClusterPlan
        Its text is the table of what was considered.

    Raises
    ------
    MemoryBudgetError
        The budget cannot work; says the smallest that would.

    Examples
    --------
    >>> import dasksdnn as sdnn, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = sdnn.save(sdnn.radixnet(neurons=64, layers=4), folder.name + "/net.zarr")
    >>> sdnn.plan(store, samples=1000, memory="8 GiB").chosen.strategy
    'weights stay'
    >>> folder.cleanup()
    """
    from dasksdnn.sources.datasets import as_dataset

    opened = store if isinstance(store, Store) else open_store(store)
    dataset: Any
    if isinstance(samples, int | np.integer):
        if samples < 0:
            raise InputError(f"samples is {samples}: it must not be negative")
        dataset = _Nothing(int(samples), opened.widths[0])
    else:
        dataset = as_dataset(samples)
    if (client := check_engine(engine, client, strategy)) is not None:
        from dasksdnn.engines.cluster import infer as cluster

        return cluster.plan_on(client, opened, dataset, cluster.Asked.of(memory, threads, strategy))
    return plan_for(opened, dataset, CategorySink(), memory, threads, listener)


@dataclass(frozen=True, slots=True)
class _Nothing:
    """A dataset of a size, for planning only; as if it were a file."""

    samples: int
    features: int
    block: int = 1 << 20
    name: str = "nothing"
    shared: bool = True

    def block_bytes(self, samples: int) -> int:
        return samples * self.features * 4


def plan_for(
    store: Store,
    dataset: Any,
    sink: Any,
    memory: str | int | None,
    threads: int | None,
    listener: Listener,
    room: int = 0,
) -> Plan:
    """Plan a run in this process for a dataset and a sink, beside `room` bytes that are held for other reasons."""
    count = check_threads(threads)
    named = host.parse_bytes(memory if memory is not None else config.get("memory"))
    sizes = sizes_of(store)
    prepare(store, listener)
    rows = max(1, min(int(dataset.block), BLOCK_BYTES // (store.widths[0] * store.dtype.itemsize)))
    reserved = host.resident() - session.nbytes()
    budget = named or reserved + int(DEFAULT_SHARE * host.memory_available())
    return plan_inference(
        sizes,
        int(dataset.samples),
        budget,
        reserved=reserved,
        threads=count,
        caches=host.caches(),
        input_bytes=lambda n: int(dataset.block_bytes(n)) + n * store.widths[0] * store.dtype.itemsize,
        output_bytes=lambda settings: int(sink.nbytes(settings)) + room,
        rows=rows,
    )


def check_ranks_only(client: Any, batch: int | None = None) -> None:
    """Refuse what means nothing among MPI's ranks."""
    for name, value in (("client", client), ("batch", batch)):
        if value is not None:
            raise InputError(f"{name} is for the Dask engine: leave it out with engine='mpi'")


def check_engine(engine: str | None, client: Any, strategy: str | None) -> Any:
    """The client to run on; None for the local engine.

    Raises
    ------
    InputError
        What was asked for does not go together, or there is no client.
    """
    if engine not in (None, "local", "dask"):
        raise InputError(f"engine is {engine!r}: choose 'local', 'dask', or for infer and train 'mpi'")
    if client is None and engine != "dask":
        if strategy is not None:
            raise InputError(
                f"strategy is {strategy!r}, which is for engines of many processes: give client=, or engine='dask' or 'mpi'"
            )
        return None
    if engine == "local":
        raise InputError("engine is 'local', and a client is given: leave one of them out")
    from dasksdnn.engines.cluster.workers import find_client

    return find_client(client)


def check_threads(threads: int | None) -> int:
    """The number of threads to use, checked."""
    threads = threads if threads is not None else config.get("threads")
    if threads is None:
        return host.threads()
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise InputError(f"threads is {threads}: it must be at least 1")
    return int(threads)


def prepare(store: Store, listener: Listener = ignore) -> None:
    """Compile, or load from the cache, what a store needs, so that its memory and time are not part of the run."""
    positions = positions_dtype(store)
    calls = [*chain.warm_up_calls(store.dtype, positions), *panels.warm_up_calls(store.dtype)]
    warm_up([*block.warm_up_calls(positions), *calls], listener)


def infer(
    store: Store | str | Path,
    x: Any,
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    out: Any = None,
    overwrite: bool = False,
    batch: int | None = None,
    client: Any = None,
    engine: str | None = None,
    strategy: str | None = None,
    trace: str | Path | None = None,
    listener: Listener = announce,
) -> Any:
    """Run samples through a stored network.

    Parameters
    ----------
    store : Store or path
    x : array-like of shape (samples, inputs)
        NumPy (memory-mapped or not), SciPy sparse, PyData sparse, Zarr or dask array, a Dataset, or a path to one.
    memory : str or int, optional
        Budget: the most that the process may hold, what it holds at the call included ("4 GiB"). By default 80% of
        the memory that is available is added to what the process holds.
    threads : int, optional
        By default all processors that the process may use (affinity and cgroup respected).
    out : optional
        The streaming path, which carries the memory promise. A path: a Zarr array is made there. A NumPy or Zarr array
        of shape (samples, outputs): it is written. "categories": outputs are only reduced.
    overwrite : bool
        Replace what stands at the path `out`.
    batch : int, optional
        Samples of a chunk of the lazy result, by default chosen from the width of the outputs; on Dask, samples of a task of
        the streaming path, too (whole chunks of `out`).
    client : distributed.Client, optional
        The Dask cluster to run on. Its workers must see the store, and the path `out`. `memory` and `threads` are then each
        worker's: by default 60% of its memory limit, and its threads. What a worker loses is run again by another.
    engine : {"local", "dask", "mpi"}, optional
        By default "dask" where a client is given. "dask" alone takes Dask's current client. "mpi": among the processes that
        `mpiexec` started, which all make the same call with an `out` that all can reach, and get the same result; `memory`
        and `threads` are then each one's.
    strategy : {"samples", "parts"}, optional
        Every worker runs its own samples, or its own parts of the network. On Dask by default what is predicted to be faster;
        with MPI parts, as far as there are ranks, and samples over groups of ranks that have all parts.
    trace : path, optional
        With MPI: a timeline of all ranks that is to be written there, for chrome://tracing or Perfetto.
    listener : callable
        Told of progress: of the run on the streaming path, of kernels that have to be compiled first on both.

    Returns
    -------
    dask.array or Result
        Without `out`, a lazy `dask.array` of shape (samples, outputs) whose chunks are batches. With it, a `Result`.

    Raises
    ------
    InputError, StoreError, OutputExistsError, MemoryBudgetError

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = sdnn.save(sdnn.radixnet(neurons=64, layers=4, bias=0.0), folder.name + "/net.zarr")
    >>> y = sdnn.infer(store, np.ones((10, 64), np.float32))
    >>> y.shape, float(y[0, 0].compute())
    ((10, 64), 16.0)
    >>> folder.cleanup()
    """
    from dasksdnn.sources.datasets import as_dataset, check_features

    if engine == "mpi":
        from dasksdnn.engines.mpi.run import infer_by_ranks

        check_ranks_only(client, batch)
        how: dict[str, Any] = {"memory": memory, "threads": threads, "strategy": strategy, "trace": trace}
        return infer_by_ranks(store, x, out=out, overwrite=overwrite, listener=listener, **how)
    if trace is not None:
        raise InputError("trace is for the MPI engine: leave it out, or say engine='mpi'")
    opened = store if isinstance(store, Store) else open_store(store)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1):
        raise InputError(f"batch is {batch!r}: it must be a whole number of at least 1")
    dataset = as_dataset(x)
    check_features(dataset, opened.widths[0])
    client = check_engine(engine, client, strategy)
    if out is None:
        from dasksdnn.engines.lazy import lazy_infer

        return lazy_infer(
            opened,
            x,
            dataset,
            memory=memory,
            threads=threads,
            batch=batch,
            listener=listener,
            client=client,
            strategy=strategy,
        )
    if client is not None:
        from dasksdnn.engines.cluster import infer as cluster

        asked = cluster.Asked.of(memory, threads, strategy, batch)
        return cluster.stream_on(client, opened, dataset, asked, out=out, overwrite=overwrite, listener=listener)
    return stream(opened, dataset, out=out, overwrite=overwrite, memory=memory, threads=threads, listener=listener)


def stream(
    store: Store,
    dataset: Any,
    *,
    out: Any = None,
    overwrite: bool = False,
    memory: str | int | None = None,
    threads: int | None = None,
    listener: Listener = announce,
) -> Result:
    """Stream a dataset through a store; see `infer` for the parameters (`out` None or "categories": no outputs kept)."""
    if out is None or (isinstance(out, str) and out == "categories"):
        return _stream(store, dataset, [], memory, threads, listener)
    if isinstance(out, str | Path):
        with replacing(out, overwrite=overwrite) as temporary:
            array = new_output(temporary, int(dataset.samples), store.widths[-1], store.dtype)
            return _into_chunks(store, dataset, array, temporary.parent, memory, threads, listener)
    check_out(store, dataset, out)
    if isinstance(out, np.ndarray):
        return _stream(store, dataset, [ArraySink(out)], memory, threads, listener)
    return _into_chunks(store, dataset, out, None, memory, threads, listener)


def _into_chunks(
    store: Store,
    dataset: Any,
    array: Any,
    scratch: Path | None,
    memory: str | int | None,
    threads: int | None,
    listener: Listener,
) -> Result:
    sink = ChunkedSink(array, scratch)
    try:
        return _stream(store, dataset, [sink], memory, threads, listener)
    finally:
        sink.close()


def _stream(
    store: Store, dataset: Any, sinks: list[Any], memory: str | int | None, threads: int | None, listener: Listener
) -> Result:
    found = CategorySink()
    sink = Tee(found, *sinks)
    nested = local.computing()  # the dataset of the run that holds the lock: it waits for us
    with nullcontext() if nested else _running:
        if not nested:
            session.release()  # what lazy chunks left would count as held already
        chosen = plan_for(store, dataset, sink, memory, 1 if nested else threads, listener)
        start = perf_counter()
        report = local.run(store, dataset, sink, chosen.settings, listener)
        seconds = perf_counter() - start
    return _result(store, dataset, found, chosen, report, seconds)


def stream_kept(
    store: Store,
    dataset: Any,
    sink: Any = None,
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    room: int = 0,
    waiting: int = 0,
    stop: Event | None = None,
    watch: Callable[[Passage, Plan], AbstractContextManager[None]] | None = None,
) -> Result:
    """Stream a chunk of samples, with the weights that the chunk before has left in this process, and leave them to the next.

    Parameters
    ----------
    store : Store
    dataset : Dataset
    sink : callable, optional
        Makes what takes the outputs, when it is this chunk's turn: chunks that wait hold none. By default categories only.
    memory, threads : optional
        See `infer`; by default what the Dask worker has whose task this is, where it is one.
    room : int
        Bytes that other chunks hold, or will: those that wait for this one, and those that are done.
    waiting : int
        Bytes of this chunk's samples that are resident while it waits, to be taken off other chunks' `room`.
    stop : Event, optional
        Ends the run when it is set.
    watch : callable, optional
        Gives the context that the run is to be in, from what takes its panels through layers, and counts, and its plan.
    """
    found = CategorySink()
    if local.computing():  # as a dataset of the run that holds the lock
        return _stream(store, dataset, [sink()] if sink else [], memory, threads, ignore)
    here = session.scheduler()
    memory = memory if memory is not None else config.get("memory") or here.memory
    threads = threads if threads is not None else config.get("threads") or here.threads
    with _waiting.hold(waiting):
        _running.acquire()
    try:
        tee = Tee(found, *([sink()] if sink else []))

        def choose() -> Plan:  # what waits now counts among what the process holds
            return plan_for(store, dataset, tee, memory, threads, ignore, max(0, room - _waiting.nbytes))

        held, _ = session.take(store, dataset, tee, (memory, threads), choose)
        try:
            start = perf_counter()
            passage = Alone(store, held.plan.settings)
            with nullcontext() if watch is None else watch(passage, held.plan):
                report = local.run(
                    store, dataset, tee, held.plan.settings, weights=held.weights, stop=stop, passage=passage
                )
            seconds = perf_counter() - start
        except BaseException:
            held.weights.close()
            raise
        session.keep(held)
    finally:
        _running.release()
    return _result(store, dataset, found, held.plan, report, seconds)


def _result(
    store: Store, dataset: Any, found: CategorySink, chosen: Plan, report: local.RunReport, seconds: float
) -> Result:
    return Result(
        int(dataset.samples), store.edges, seconds, found.categories, chosen, report.edges, host.peak_resident()
    )
