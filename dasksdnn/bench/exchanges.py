"""What exchanges of the MPI engine cost on this machine: of one sample, layer by layer, and of partitions, beside a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic_ns, perf_counter
from typing import Any

import numpy as np

from dasksdnn.bench.pingpong import ping_pong
from dasksdnn.bench.ranks import RATE, Case, Ranks
from dasksdnn.bench.rate import kernel_rate
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.passage import Panel, Together
from dasksdnn.engines.shares import Share
from dasksdnn.engines.trainer import Trainer
from dasksdnn.engines.transport import gather, tell
from dasksdnn.engines.weights import Weights
from dasksdnn.kernels.panels import LANES
from dasksdnn.kernels.routes import COMPUTING, MESSAGES, PACKING, WAITING, WORDS
from dasksdnn.kernels.update import SGD
from dasksdnn.network import Array, Network
from dasksdnn.partition.steptime import Machine, step_alone, step_time
from dasksdnn.plan.memory import Settings
from dasksdnn.plan.training import TrainingSettings
from dasksdnn.sources.generators import community, radixnet
from dasksdnn.store.reader import Store, open_store
from dasksdnn.training.loop import train
from dasksdnn.training.losses import SquaredError
from dasksdnn.training.watching import Sums, Watch

#: In a round: passes of one sample, and steps of each partition.
PASSES, STEPS = 100, 20
#: Compiled code notes at most so many events of a layer in a step.
NOTED = 12

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
#: What is measured, each with what the model says.
_BESIDE = ("exchange ms", "model", "step ms", "model")

#: What a pass took, and what of it is known to be computing, in nanoseconds, by its name.
Taken = dict[str, tuple[int, int]]


def single(ranks: Ranks, folder: Path, neurons: int, layers: int, repeats: int, memory: str) -> Iterator[Case]:
    """What an exchange costs where a pass has one sample: by compiled code, and by the same messages sent from Python."""
    store = open_store(ranks.made(radixnet(neurons, layers, weights="random", bias=0.0), folder)[0])
    share, wire = ranks.share(store), ranks.transport.wire
    assert wire is not None
    events = (repeats + 1) * PASSES * layers * NOTED
    with ExitStack() as held:
        settings = Settings(LANES, 1, ((0, layers),), True, False, 1, 1)
        weights = held.enter_context(closing(Weights(store, settings, share)))
        inferring, learning = {}, {}
        for name, how in (("compiled", replace(wire, events=events)), ("Python", None)):
            with _by(ranks, how):
                inferring[name] = _Inferring(Together(share, ranks.grid, settings, False), weights)
                learning[name] = held.enter_context(closing(_Learning(store, share, ranks.grid)))
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for some in (inferring, learning):
            _run_passes(some, repeats, found)
        rows = []
        for (name, what), taken in found.items():
            of = inferring if what.startswith("inference") else learning
            rows += _overheads(ranks, what, name, taken, found["compiled", what], share, of[name].events())
    header = ("pass of one sample", "by", "of", *(f"{n} us" for n in (*_QUANTILES, "mean")), "computing us a layer", "")
    shown = [(r["pass"], r["by"], r["of"], *(f"{r[n]:.2f}" for n in (*_QUANTILES, "mean", "computing"))) for r in rows]
    title = f"single: RadiX-Net {neurons} x {layers}, exchange and overhead a layer"
    note = f"{len(share.meets)} of {layers} layers exchange; values of all ranks; computing is what compiled code notes"
    yield Case(title, header, [(*row, "") for row in shown], rows, note)


def partitions(
    ranks: Ranks, folder: Path, neurons: int, layers: int, batch: int, repeats: int, memory: str
) -> Iterator[Case]:
    """A step of training with random rows and with hypergraph rows, beside what the model of a step says of them."""
    wire = ping_pong(ranks.transport) if ranks.transport.rank < 2 else None
    ranks.sleep()
    latency, bandwidth = tell(ranks.transport, wire)
    nets = {"RadiX-Net": radixnet(neurons, layers, weights="random", bias=0.0), "community": community(neurons, layers)}
    for name, net in nets.items():
        machine = Machine(ranks.alone(partial(kernel_rate, net, batch)), latency, bandwidth)
        record = _partitioned(ranks, folder, net, machine, batch, repeats, memory)
        header = ("rows", "words a sample", "messages a step", *_BESIDE, "one rank's / its", "")
        shown = [
            (
                row["rows"],
                f"{row['words']:,.0f}",
                f"{row['messages']:,.0f}",
                *(f"{1e3 * row[n]:.3f}" for n in ("exchange", "exchange_predicted", "step", "step_predicted")),
                f"{record[0]['step'] / row['step']:.2f}",
            )
            for row in record
        ]
        title = f"partition: {name} {neurons} x {layers}, batch {batch}, a step of training on {ranks.size} ranks"
        note = (
            f"model: {machine.rate / 1e9:.1f} G multiply-adds/s, {1e6 * latency:.2f} us a message, {bandwidth / 1e9:.2f} GB/s; "
            "exchange: packing and waiting of the busiest rank"
        )
        yield Case(title, header, [(*row, "") for row in shown], {"machine": asdict(machine), "rows": record}, note)


# -- one sample


@contextmanager
def _by(ranks: Ranks, wire: Any) -> Iterator[None]:
    """What is made meanwhile exchanges by this wire; without one, from Python."""
    held, ranks.transport.wire = ranks.transport.wire, wire
    try:
        yield
    finally:
        ranks.transport.wire = held


class _Inferring:
    """Passes of one sample through all layers."""

    def __init__(self, passage: Together, weights: Weights) -> None:
        self._passage, self._slab = passage, weights.slab(0)
        self._layers, inputs = len(weights.store), weights.store.widths[0]
        self._panel, self._tally = Panel(0, np.zeros(1, np.int64), 1), passage.exchange.tally
        self._x = np.random.default_rng(0).random(inputs, np.float32) / 32

    def run(self) -> Taken:
        buffer = self._passage.buffers[self._panel.place]
        buffer[...] = 0
        buffer[: self._x.size, 0] = self._x
        before, began = self._tally[0, :, COMPUTING].sum(), monotonic_ns()
        self._passage.advance(self._slab, (0, self._layers), [self._panel], 0, None)
        taken = monotonic_ns() - began
        return {"inference, forward": (taken, int(self._tally[0, :, COMPUTING].sum() - before))}

    def events(self) -> Array | None:
        return next(iter(self._passage.exchange.events()), None)


class _Learning:
    """Steps of training on one sample; the loss is no part of what a pass takes."""

    def __init__(self, store: Store, share: Share, grid: Grid) -> None:
        settings = TrainingSettings(LANES, 1, ((0, len(store)),), 1, 0, 1, False, 1)
        self._trainer = Trainer(store, settings, share=share, grid=grid)
        self._x = np.random.default_rng(0).random((1, store.widths[0]), np.float32) / 32
        self._told = (0, 0)

    def _outputs(self, y: Array, count: int, start: int, rows: Array, delta: Array | None) -> None:
        began = monotonic_ns()
        if delta is not None:
            delta[...] = 0
            delta[:, :count] = y[:, :count]
        self._told = began, monotonic_ns()

    def run(self) -> Taken:
        tally = self._trainer.exchange.tally[:2]
        before, began = tally[:, :, COMPUTING].sum(axis=1), monotonic_ns()
        self._trainer.step(self._x, self._outputs, SGD(RATE), 1)
        ended = monotonic_ns()
        forth, back = (tally[:, :, COMPUTING].sum(axis=1) - before).tolist()
        return {
            "training, forward": (self._told[0] - began, forth),
            "training, backward": (ended - self._told[1], back),
        }

    def events(self) -> Array | None:
        return next(iter(self._trainer.exchange.events()), None)

    def close(self) -> None:
        self._trainer.close()


def _run_passes(contenders: dict[str, Any], repeats: int, found: dict[tuple[str, str], list[tuple[int, int]]]) -> None:
    """Rounds in which each contender has some passes, after one that does not count."""
    rng = np.random.default_rng(0)
    for i in range(repeats + 1):
        for name in rng.permutation(list(contenders)).tolist():
            for _ in range(PASSES):
                for what, taken in contenders[name].run().items():
                    if i:
                        found.setdefault((name, what), []).append(taken)


def _overheads(
    ranks: Ranks,
    what: str,
    name: str,
    taken: list[tuple[int, int]],
    compiled: list[tuple[int, int]],
    share: Share,
    events: Array | None,
) -> list[dict[str, Any]]:
    """Rows of the table: of passes, and where events are known of each layer."""
    passes, known = np.array(taken, np.float64), np.array(compiled, np.float64)[:, 1]
    # From Python, the same kernels compute the same rows; what calling them takes is overhead.
    computing = passes[:, 1] if events is not None else np.full(len(passes), np.median(known))
    each = {"a pass's mean": (passes[:, 0] - computing) / max(1, len(share.meets))}
    if events is not None:
        # Passes that do not count come first.
        counted = gaps(events, share.meets, "backward" in what)[len(share.meets) * PASSES :]
        each = {"a layer": counted.astype(np.float64), **each}
    rows = []
    for of, mine in each.items():
        values = np.concatenate(gather(ranks.transport, mine)) / 1e3
        quantiles = {q: float(np.quantile(values, share)) if values.size else 0.0 for q, share in _QUANTILES.items()}
        rows.append(
            {
                "pass": what,
                "by": name,
                "of": of,
                **quantiles,
                "mean": float(values.mean()) if values.size else 0.0,
                "computing": float(np.median(computing)) / 1e3 / len(share.store),
            }
        )
    return rows


def gaps(events: Array, meets: tuple[int, ...], back: bool) -> Array:
    """Nanoseconds of exchanges in passes of one panel: between one layer's computing and the next one's.

    Parameters
    ----------
    events : int64 array of shape (events, 6)
        See `kernels.routes.EVENT`.
    meets : tuple of int
        Layers before which ranks exchange.
    back : bool
        Backward, a layer computes twice, and its messages depart between: what is between is counted, too.

    Returns
    -------
    int64 array of shape (passes * len(meets),)
        In the order in which they happened.
    """
    some = events[(events[:, 3] == COMPUTING) & (events[:, 1] == back)]
    between, change = some[1:, 4] - some[:-1, 5], np.diff(some[:, 0])
    if not back:
        found: Array = between[(change == 1) & np.isin(some[1:, 0], meets)]
        return found
    arrivals = np.flatnonzero((change == -1) & np.isin(some[:-1, 0], meets))
    both: Array = between[arrivals] + between[arrivals - 1]
    return both


# -- partitions


def _partitioned(
    ranks: Ranks, folder: Path, net: Network, machine: Machine, batch: int, repeats: int, memory: str
) -> list[dict[str, Any]]:
    """Rows of the table: one rank alone, random rows, hypergraph rows."""
    shape, size = (batch, net.widths[0]), (batch, net.widths[-1])
    x, y = ranks.written(folder, shape, 1 / 32), ranks.written(folder, size)
    how: dict[str, Any] = {
        "loss": "mse",
        "optimizer": "sgd",
        "lr": RATE,
        "epochs": 1,
        "batch_size": batch,
        "threads": 1,
    }
    each: dict[str, _Steps] = {}
    made = {method: ranks.made(net, folder, method) for method in ("random", "hypergraph")}
    metrics = {method: counts for method, (_, counts) in made.items()}
    alone_plan = ranks.alone(lambda: train(made["random"][0], x, y, memory=memory, **how).plan)
    plans = {method: train(path, x, y, engine="mpi", memory=memory, **how).plan for method, (path, _) in made.items()}
    stores = {method: open_store(path) for method, (path, _) in made.items()}
    with ExitStack() as held:
        for name, store in stores.items():
            steps = _Steps(store, plans[name], x, y, ranks.share(store), ranks.grid)
            each[name] = held.enter_context(closing(steps))
        if ranks.world.leads:
            each["one rank"] = held.enter_context(closing(_Steps(stores["random"], alone_plan, x, y)))
        rng = np.random.default_rng(0)
        for i in range(repeats + 1):
            for name in rng.permutation(["one rank", *metrics]).tolist():
                if name in each:
                    each[name].run(counts=i > 0)
                ranks.sleep()
        mine = {name: steps.found() for name, steps in each.items()}
    every = gather(ranks.transport, mine)
    alone = every[0]["one rank"]
    for name in metrics:
        if not np.isclose(every[0][name]["loss"], alone["loss"], rtol=1e-4):
            raise RuntimeError(f"{name} rows give another loss than one rank alone")
    paper = step_alone(sum(layer.weights.nnz for layer in net), machine, batch)
    rows = [{"rows": "one rank", **alone, "exchange_predicted": 0.0, "step_predicted": paper.total}]
    for name, counts in metrics.items():
        paper, of = step_time(counts, machine, batch, net.dtype.itemsize), [e[name] for e in every]
        rows.append(
            {
                "rows": name,
                "words": sum(e["words"] for e in of),
                "messages": sum(e["messages"] for e in of),
                "exchange": max(e["exchange"] for e in of),
                "step": max(e["step"] for e in of),
                "loss": of[0]["loss"],
                "exchange_predicted": paper.latency + paper.bandwidth,
                "step_predicted": paper.total,
                "predicted": paper.as_dict(),
            }
        )
    return rows


class _Steps:
    """Steps of training on one batch, and what they took."""

    def __init__(
        self, store: Store, plan: dict[str, Any], x: Path, y: Path, share: Share | None = None, grid: Grid | None = None
    ) -> None:
        self._store, self._x, self._y = store, np.load(x), np.load(y)
        self._trainer = Trainer(store, TrainingSettings.from_dict(plan["settings"]), share=share, grid=grid)
        self._tally = np.zeros_like(self._trainer.exchange.tally)
        self._seconds: list[float] = []
        self._sums = Sums()

    def run(self, counts: bool) -> None:
        watch = Watch(SquaredError(), self._store.activations[-1], self._y, self._sums)
        # Ranks that slept do not wake up together: the first step lets them meet.
        self._trainer.step(self._x, watch, SGD(RATE), 1)
        before, seconds = self._trainer.exchange.tally.copy(), []
        for _ in range(STEPS):
            start = perf_counter()
            self._trainer.step(self._x, watch, SGD(RATE), 1)
            seconds.append(perf_counter() - start)
        if counts:
            self._tally += self._trainer.exchange.tally - before
            self._seconds += seconds

    def found(self) -> dict[str, float]:
        """Of this rank, by step: words a sample, messages, seconds of exchanges and in all; and the mean loss."""
        steps = len(self._seconds)
        total = self._tally.sum(axis=(0, 1))
        return {
            "words": float(total[WORDS] / steps / len(self._x)),
            "messages": float(total[MESSAGES] / steps),
            "exchange": float((total[PACKING] + total[WAITING]) / steps / 1e9),
            "step": float(np.median(self._seconds)),
            "loss": self._sums.loss / self._sums.samples,
        }

    def close(self) -> None:
        self._trainer.close()
