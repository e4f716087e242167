"""Ways to assign rows to parts, side by side: what each sends, how even it is, how long it takes, and what a step would cost.

The table is that of Demirci and Ferhatosmanoglu (arXiv 2104.11805) for random rows and hypergraphs, for any network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from dasksdnn import markup
from dasksdnn.diagnostics.tables import grid
from dasksdnn.errors import InputError, PartitionerError
from dasksdnn.events import Listener, Progress, announce
from dasksdnn.network import Network
from dasksdnn.partition.metrics import Metrics
from dasksdnn.partition.partition import partition
from dasksdnn.partition.start import check_method
from dasksdnn.partition.steptime import Machine, StepTime, step_time

NPARTS = (4, 8, 32)
METHODS = ("random", "block", "metis", "mtkahypar", "hypergraph")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One method at one number of parts.

    Attributes
    ----------
    nparts, method : int, str
    metrics : Metrics or None
        The recount, who sends how much to whom included; None where the method failed.
    seconds : float
        To partition (where it is reused: when it was made), or to fail.
    step : StepTime or None
        Modelled; None where the method failed or no machine is given.
    why : str
        What failed.
    notes : tuple of str
        What failed and was done without (see `Partition.notes`).
    """

    nparts: int
    method: str
    metrics: Metrics | None
    seconds: float
    step: StepTime | None = None
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def best_imbalance(self) -> float:
        """No partition into whole rows has less in its worst layer; 1.0 where the method failed."""
        return 1.0 if self.metrics is None else float(self.metrics.best_imbalance_per_layer.max(initial=1.0))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; without the matrix of who sends to whom, which is large."""
        record: dict[str, Any] = {"nparts": self.nparts, "method": self.method, "seconds": self.seconds}
        if self.metrics is None:
            return {**record, "failed": self.why}
        counts = {name: value for name, value in self.metrics.as_dict().items() if name not in ("send", "nparts")}
        step = None if self.step is None else self.step.as_dict()
        return {
            **record,
            **counts,
            "best_imbalance": self.best_imbalance,
            "step_seconds": step,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comparison:
    """Methods on one network; made by `compare`, its repr is the table.

    Attributes
    ----------
    network : str
    edges : int
        Nonzeros of all layers.
    itemsize : int
        Bytes of a word.
    epsilon, seed : float, int
    machine : Machine or None
        Of the modelled steps.
    batch : int
        Likewise.
    rows : tuple of Row
        By number of parts, then by method.
    """

    network: str
    edges: int
    itemsize: int
    epsilon: float
    seed: int
    machine: Machine | None
    batch: int
    rows: tuple[Row, ...]

    HEADER = (
        "method",
        "parts",
        "volume",
        "max send",
        "messages",
        "max messages",
        "imbalance",
        "least",
        "seconds",
        "step ms",
        "",
    )

    def table(self) -> Iterator[tuple[str, ...]]:
        """Rows under `HEADER`."""
        for row in self.rows:
            m, step = row.metrics, "-" if row.step is None else f"{row.step.total * 1e3:,.3f}"
            if m is None:
                yield (row.method, f"{row.nparts:,}", *["-"] * (len(self.HEADER) - 3), f"failed: {row.why}")
                continue
            counts = (f"{n:,}" for n in (row.nparts, m.volume, m.max_send, m.messages, m.max_messages))
            balance = (f"{m.imbalance:.3f}", f"{row.best_imbalance:.3f}")
            yield (row.method, *counts, *balance, f"{row.seconds:.1f}", step, "")

    def __repr__(self) -> str:
        head = f"<dasksdnn.Comparison of partitions: {self.network}, {self.edges:,} edges, epsilon {self.epsilon:g}, seed {self.seed}>"
        return "\n".join([head, *grid(self.HEADER, self.table())])

    def _repr_html_(self) -> str:
        return markup.card(f"dasksdnn.Comparison of partitions: {self.network}", markup.grid(self.HEADER, self.table()))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "network": self.network,
            "edges": self.edges,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "machine": None if self.machine is None else asdict(self.machine),
            "batch": self.batch,
            "rows": [row.as_dict() for row in self.rows],
        }

    def counted(self, nparts: int | None = None) -> dict[str, Metrics]:
        """The metrics by method, at one number of parts (by default the largest); methods that failed are left out.

        Raises
        ------
        InputError
            If nothing was counted at that number of parts.
        """
        known = [row.nparts for row in self.rows if row.metrics is not None]
        chosen = max(known, default=0) if nparts is None else nparts
        found = {row.method: row.metrics for row in self.rows if row.nparts == chosen and row.metrics is not None}
        if not found:
            raise InputError(f"no method was counted at {chosen} parts: use one of {sorted(set(known))}")
        return found

    def chart(self, path: str | Path, *, nparts: int | None = None, overwrite: bool = False) -> None:
        """Draw who sends how much to whom, at random and at best, and every method's volume layer by layer.

        Parameters
        ----------
        path : path
            Ends in .png or .svg; it appears whole or not at all.
        nparts : int or None
            The number of parts to draw; the largest by default.
        overwrite : bool
            Replace what stands there.

        Raises
        ------
        InputError, OutputExistsError
            Of another suffix, without matplotlib (extra `[plot]`), or at a number of parts that was not counted.
        """
        from dasksdnn.bench.chart import check_chart, save_figure
        from dasksdnn.diagnostics.compared import draw

        check_chart(Path(path))
        save_figure(draw(self, nparts), Path(path), overwrite=overwrite)


def compare(
    net: Network,
    nparts: Sequence[int] = NPARTS,
    methods: Sequence[str] = METHODS,
    *,
    epsilon: float = 0.03,
    seed: int = 0,
    machine: Machine | None = None,
    batch: int = 1,
    listener: Listener = announce,
    **how: Any,
) -> Comparison:
    """Partition a network in several ways, and recount each.

    Parameters
    ----------
    net : Network
    nparts : sequence of int
        Numbers of parts.
    methods : sequence of str
        As `partition` takes them.
    epsilon, seed : float, int
        As `partition` takes them.
    machine : Machine or None
        What to model a step on, of SGD on `batch` samples; None models none.
    batch : int
    listener : callable
        Told of each finished layer: `Progress("partition", done, all, "layers")`, over everything.
    **how
        What else `partition` takes: effort, objective, cache and so on. For the objective "time", the machine's latency
        and bandwidth and the batch are handed on.

    Returns
    -------
    Comparison
        A method whose library is missing or fails is a row that says so.

    Raises
    ------
    InputError
        For arguments that cannot work, before any work where they can be told then.
    """
    for name in methods:
        check_method(name)
    if not nparts or not methods:
        raise InputError("nothing to compare: name at least one number of parts and one method")
    if batch < 1:
        raise InputError(f"batch {batch} is too small: give at least 1")
    if how.get("objective") == "time":
        how = {"latency": machine.latency, "bandwidth": machine.bandwidth, **how} if machine else how
        how = {"batch": batch, **how}
    # The largest number first: where it is too large, it is refused before any work.
    pairs = [(n, name) for n in sorted(set(nparts), reverse=True) for name in dict.fromkeys(methods)]
    rows = []
    for done, (n, name) in enumerate(pairs):
        told = _Shifted(listener, done, len(pairs))
        rows.append(_row(net, n, name, machine, batch, {"epsilon": epsilon, "seed": seed, "listener": told, **how}))
    rows.sort(key=lambda row: row.nparts)
    return Comparison(net.name, net.edges, net.dtype.itemsize, epsilon, seed, machine, batch, tuple(rows))


def _row(net: Network, nparts: int, method: str, machine: Machine | None, batch: int, how: dict[str, Any]) -> Row:
    start = perf_counter()
    try:
        made = partition(net, nparts, method=method, **how)
    except PartitionerError as error:
        return Row(nparts, method, None, perf_counter() - start, why=str(error))
    step = None if machine is None else step_time(made.metrics, machine, batch, net.dtype.itemsize)
    return Row(nparts, method, made.metrics, made.seconds, step, notes=made.notes)


@dataclass(frozen=True, slots=True)
class _Shifted:
    """Progress of one of several partitions, as that of all."""

    listener: Listener
    before: int
    total: int

    def __call__(self, event: Progress) -> None:
        done, total = self.before * event.total + event.done, self.total * event.total
        if event.unit == "%":
            done, total = done // self.total, event.total
        self.listener(Progress(event.task, done, total, event.unit))
