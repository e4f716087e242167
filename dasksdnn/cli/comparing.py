"""`dasksdnn partition` with --compare or --predict: partitions that are counted and shown, and no store is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from dasksdnn import host
from dasksdnn.cli.describe import shape
from dasksdnn.cli.options import PATH, names, number, numbers
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import count, show, show_grid, write_json
from dasksdnn.errors import InputError

if TYPE_CHECKING:
    from dasksdnn.diagnostics.comparison import Comparison
    from dasksdnn.diagnostics.prediction import Prediction
    from dasksdnn.network import Network
    from dasksdnn.partition.steptime import Machine

_OPTIONS = (
    click.option("--compare", is_flag=True, help="Show methods side by side; --nparts may be several, as in 4,8,32."),
    click.option("--predict", is_flag=True, help="Show modelled times of a step of SGD; --nparts likewise."),
    click.option(
        "--methods", metavar="NAMES", help="Methods to show.  [default: all but kahypar; to predict, random,hypergraph]"
    ),
    number(
        "--rate", "Modelled multiply-adds a second of a part.  [default: measured on a core of this machine]", float
    ),
    number("--latency", "Seconds a message, modelled.  [default: 1.5e-6]", float),
    number("--bandwidth", "Bytes a second that a part can send, modelled.  [default: 12.5e9]", float),
    click.option(
        "--batch",
        metavar="N,N",
        help="Samples of a step that is modelled.  [default: 1; to predict, 1,64; to store a partition of --objective time, 64]",
    ),
    click.option("--chart", metavar="FILE", type=PATH, help="Picture of a comparison to make: .png or .svg."),
)
#: What only a comparison or a prediction takes, and what goes with them.
MODELS = ("methods", "rate", "latency", "bandwidth", "batch", "chart")
#: What a partition that makes time least takes, too.
TIMED = ("latency", "bandwidth", "batch")
BESIDE_MODELS = (
    *MODELS,
    "effort",
    "objective",
    "training",
    "time_limit",
    "store",
    "nparts",
    "compare",
    "predict",
    "epsilon",
    "seed",
    "no_cache",
    "overwrite",
    "json_path",
)


def modelling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `show_modelled` to a command, which gets their values as keywords."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def show_modelled(
    store: Path,
    nparts: Sequence[int],
    how: dict[str, Any],
    *,
    overwrite: bool,
    json_path: Path | None,
    compare: bool,
    predict: bool,
    methods: str | None,
    batch: str | None,
    chart: Path | None,
    **machine: float | None,
) -> None:
    """Count partitions of the network of a store, print what was asked for, and write its JSON and its chart.

    Raises
    ------
    InputError
        For options that do not go together, before any work.
    """
    from dasksdnn.bench.chart import check_chart
    from dasksdnn.diagnostics.comparison import METHODS
    from dasksdnn.diagnostics.comparison import compare as count_all
    from dasksdnn.store.reader import open_store

    batches = numbers(batch, "batch", (1, 64) if predict else (1,))
    chosen = names(methods, ("random", "hypergraph") if predict else METHODS)
    _check_together(compare, predict, chart, batches)
    check_chart(chart)
    check_outputs(overwrite, files=[chart], report=json_path, inputs=[store])
    start = perf_counter()
    net = open_store(store).network
    steps = [_Step(n, _machine(net, n, **machine), machine["rate"] is None) for n in batches]
    with progress() as listener:
        found = count_all(
            net,
            nparts,
            chosen,
            machine=steps[0].machine,
            batch=batches[0],
            listener=listener,
            **how,
        )
    record = _show_predictions(store, net, found, steps) if predict else _show_comparison(store, net, found, steps[0])
    if chart is not None:
        found.chart(chart, overwrite=overwrite)
    took = {"seconds": perf_counter() - start, "peak_rss_bytes": host.peak_resident_tree()}
    write_json(json_path, {"command": "partition", "store": str(store), **record, **took})


def _check_together(compare: bool, predict: bool, chart: Path | None, batches: list[int]) -> None:
    if compare and predict:
        raise InputError("--compare and --predict are two commands: give one of them at a time")
    if predict and chart is not None:
        raise InputError(f"--chart {chart}: there is a picture of a comparison only; use --compare, or leave it out")
    if compare and len(batches) > 1:
        raise InputError(f"batch: --compare models one batch size, not {len(batches)}; --predict takes several")


@dataclass(frozen=True, slots=True)
class _Step:
    """What is modelled."""

    batch: int
    machine: Machine
    measured: bool

    @property
    def title(self) -> str:
        return f"a step of SGD on {count(self.batch, 'sample')}, modelled"

    @property
    def rows(self) -> dict[str, str]:
        origin = "measured on a core of this machine" if self.measured else "given"
        return {
            "a part": f"one core: {self.machine.rate / 1e9:,.3g} G multiply-adds/s, {origin}",
            "network": f"{self.machine.latency * 1e6:,.3g} us a message, {self.machine.bandwidth / 1e9:,.3g} GB/s a part",
        }


def _machine(net: Network, batch: int, rate: float | None, latency: float | None, bandwidth: float | None) -> Machine:
    from dasksdnn.bench.rate import kernel_rate
    from dasksdnn.partition.steptime import BANDWIDTH, LATENCY, Machine

    given = (LATENCY if latency is None else latency, BANDWIDTH if bandwidth is None else bandwidth)
    Machine(1.0 if rate is None else rate, *given)  # what cannot be is refused before it is measured
    return Machine(kernel_rate(net, batch) if rate is None else rate, *given)


def _counted(net: Network, found: Comparison) -> dict[str, str]:
    return {
        "network": f"{net.name}: {shape(net.widths)}",
        "edges": f"{net.edges:,}",
        "counted": f"partitions of epsilon {found.epsilon:g}, seed {found.seed}; words a sample, messages a batch, forward",
    }


def _show_comparison(store: Path, net: Network, found: Comparison, step: _Step) -> dict[str, Any]:
    show(f"partition --compare: {store}", _counted(net, found))
    click.echo()
    show(step.title, step.rows)
    click.echo()
    show_grid(found.HEADER, found.table())
    return {"compare": found.as_dict(), "rate_measured": step.measured}


def _show_predictions(store: Path, net: Network, found: Comparison, steps: Sequence[_Step]) -> dict[str, Any]:
    from dasksdnn.diagnostics.prediction import predict

    show(f"partition --predict: {store}", _counted(net, found))
    told: list[Prediction] = []
    for step in steps:
        made = predict(found, step.machine, step.batch)
        click.echo()
        show(step.title, step.rows)
        show_grid(made.HEADER, made.table())
        for method, words in made.crossovers().items():
            click.echo(f"  {method}: {words}")
        told.append(made)
    return {"counts": found.as_dict(), "predict": [made.as_dict() for made in told], "rate_measured": steps[0].measured}
