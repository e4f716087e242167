"""Commands that run this project and its peers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dasksdnn import host
from dasksdnn.cli.options import JSON, OVERWRITE, PATH, Commands, names, number, numbers
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.tables import show, show_grid, write_json
from dasksdnn.errors import InputError

if TYPE_CHECKING:
    from dasksdnn.bench.compare import Comparison
    from dasksdnn.bench.machine import Bandwidth

#: Versions that a report names.
PACKAGES = ("dasksdnn", "numba", "numpy", "scipy", "torch", "python-graphblas")

CHART = click.option("--chart", metavar="FILE", type=PATH, help="Bar chart to make: .png or .svg.")


@click.group(cls=Commands, short_help="Run this project and its peers side by side.")
def bench() -> None:
    """Run this project and its peers (pip install "dasksdnn[bench]") side by side.

    They run interleaved, with the same number of threads, and only after each has given the reference's result. A peer
    that is not installed is named as missing.
    """


@bench.command(short_help="Products on panels, and training steps.")
@click.option("--only", metavar="NAMES", help="Cases, as in radixnet,random.  [default: all]")
@click.option("--neurons", metavar="N,N", help="Neurons of a layer.  [default: 1024,4096,16384,65536]")
@click.option("--threads", metavar="N,N", help="Numbers of threads.  [default: one, and all that may be used]")
@click.option(
    "--peers", default="scipy,torch,graphblas", show_default=True, metavar="NAMES", help="Whom to compare with."
)
@number("--samples", "Samples of a panel.", default=256)
@number("--repeats", "Rounds, in each of which every contender runs once.", default=7)
@CHART
@OVERWRITE
@JSON
def kernels(
    only: str | None,
    neurons: str | None,
    threads: str | None,
    peers: str,
    samples: int,
    repeats: int,
    chart: Path | None,
    overwrite: bool,
    json_path: Path | None,
) -> None:
    """Multiply panels of samples by consecutive layers, and train them.

    \b
    radixnet   RadiX-Net with random weights
    constant   the same with the Graph Challenge's weights, bias and bound
    random     32 weights a row, no structure
    community  like a pruned network, shuffled, at the largest number of neurons
    backward   the gradients of inputs and of weights, for radixnet and random
    training   steps (forward, loss, backward, update) at the smallest number:
               radixnet, random, and 95 to 99% sparse beside dense weights unmasked
    width1     one sample, more weights than caches hold
    parts      the local engine on a store of 1 part and of 8, at the smallest number

    "FMA peak" and "bandwidth" are shares of what the machine reached in the same run, in a compiled loop of
    multiply-adds and in one that copies memory (that reads it, for one sample).
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.bench.cases import NAMES, NEURONS, cases

    counts = numbers(threads, "threads", sorted({1, host.threads()}))
    chosen = cases(_cases(only, NAMES), numbers(neurons, "neurons", NEURONS), samples)
    others = _peers(peers, ("scipy", "torch", "graphblas"))
    report = _Report("bench kernels", repeats, chart, overwrite, json_path)
    report.measure_limits(sorted({1, *counts}))
    for case in chosen:
        # One sample is not split over threads.
        report.run(case.title, case.make, others, counts)
    report.write({"samples": samples, "repeats": repeats, "threads": counts})


@bench.command(short_help="The sparse DNN Graph Challenge, from samples in memory to categories.")
@click.option("--mnist", metavar="FILE", type=PATH, help="IDX file of pictures.  [default: scikit-learn's digits]")
@number("--neurons", "Neurons of each layer.", default=1024)
@number("--layers", "Number of layers.", default=120)
@number("--samples", "The first samples only.  [default: all]")
@number("--threads", "Threads.  [default: all processors that may be used]")
@number("--repeats", "Rounds, in each of which every contender runs once.", default=3)
@click.option(
    "--peers", default="graphblas", show_default=True, metavar="NAMES", help="Whom to compare with; scipy is slow."
)
@CHART
@OVERWRITE
@JSON
def graphchallenge(
    mnist: Path | None,
    neurons: int,
    layers: int,
    samples: int | None,
    threads: int | None,
    repeats: int,
    peers: str,
    chart: Path | None,
    overwrite: bool,
    json_path: Path | None,
) -> None:
    """Run the Graph Challenge: RadiX-Net with constant weights on handwritten digits, enlarged to its input.

    Edges are the challenge's, edges of the network x samples, whether or not a sample is alive still. The lists of
    categories have to be equal.
    """
    from dasksdnn.bench.challenge import PEERS, challenge
    from dasksdnn.engines.inference import check_threads

    count, others = check_threads(threads), _peers(peers, PEERS)
    report = _Report("bench graphchallenge", repeats, chart, overwrite, json_path, [] if mnist is None else [mnist])
    work = challenge(neurons, layers, mnist=mnist, samples=samples)
    title = f"{neurons:,} neurons x {layers} layers, {work.x.shape[0]:,} samples"
    report.run(title, lambda: work, others, [count])
    facts = {"neurons": neurons, "layers": layers, "samples": work.x.shape[0], "repeats": repeats, "threads": count}
    report.write(facts | {"input": "digits of scikit-learn" if mnist is None else mnist.name})


@bench.command("dask", short_help="The engines: local, and Dask workers on this machine.")
@click.option("--only", metavar="NAMES", help="inference, training.  [default: both]")
@click.option("--neurons", metavar="N,N", default="1024,16384", show_default=True, help="Of inference.")
@number("--layers", "Of inference.", default=120)
@number("--samples", "Of inference; none of them dies.", default=6000)
@number("--workers", "Worker processes of one thread; the local engine has as many threads.", default=2)
@number("--repeats", "Rounds, in each of which every engine runs once.", default=3)
@click.option("--memory", metavar="SIZE", default="4GiB", show_default=True, help="Budget of each process.")
@JSON
def on_dask(
    only: str | None,
    neurons: str,
    layers: int,
    samples: int,
    workers: int,
    repeats: int,
    memory: str,
    json_path: Path | None,
) -> None:
    """Infer and train with the local engine, and with Dask workers, samples split and parts split.

    The table says how long each took beside the local engine, what the plan says that crosses between workers, and how long
    parts split took beside computing as the local engine does and moving as fast as the workers' comms do.
    """
    import tempfile
    from dataclasses import asdict
    from functools import partial

    from dasksdnn.bench.clusters import HEADER, inference, table, training
    from dasksdnn.bench.machine import describe
    from dasksdnn.bench.report import machine_table
    from dasksdnn.cli.cluster import chosen_client

    chosen = _cases(only, ["inference", "training"])
    check_outputs(True, report=json_path, inputs=[])
    machine = describe(PACKAGES)
    show("bench dask", machine_table(machine))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, chosen_client("dask", None, workers, memory, 1) as client:
        cases: list[tuple[str, Callable[[], Any]]] = []
        if "inference" in chosen:
            cases += [
                (
                    f"inference: RadiX-Net {n} x {layers}, {samples:,} dense samples",
                    partial(inference, client, Path(folder), n, layers, samples, repeats, memory),
                )
                for n in numbers(neurons, "neurons", [1024, 16384])
            ]
        if "training" in chosen:
            cases += [
                (
                    f"training: RadiX-Net 1024 x {depth}, batch 256, a step",
                    partial(training, client, Path(folder), 1024, depth, 256, repeats, memory),
                )
                for depth in (12, 120)
            ]
        for title, run in cases:
            click.echo()
            show(title, {})
            rows = run()
            show_grid(HEADER, table(rows))
            found[title] = [asdict(row) for row in rows]
    write_json(json_path, {"command": "bench dask", "machine": machine, "cases": found})


@bench.command("mpi", short_help="The engines: local, and MPI ranks that mpiexec started.")
@click.option("--only", metavar="NAMES", help="inference, training, single, partition.  [default: all]")
@click.option("--neurons", metavar="N,N", help="[default: 16384 to infer, 1024 and 16384 to train, else 1024]")
@number("--layers", "Of every network.", default=120)
@click.option(
    "--samples", metavar="N,N", default="256,6000", show_default=True, help="Of inference; none of them dies."
)
@number("--repeats", "Rounds, in each of which every contender has its turn.", default=5)
@click.option("--memory", metavar="SIZE", default="4GiB", show_default=True, help="Budget of each process.")
@JSON
def on_mpi(
    only: str | None,
    neurons: str | None,
    layers: int,
    samples: str,
    repeats: int,
    memory: str,
    json_path: Path | None,
) -> None:
    """Measure the MPI engine; all ranks run this: mpiexec -n 2 dasksdnn bench mpi.

    \b
    inference  with as many ranks of one thread as the local engine has threads
    training   a step at batch 256, likewise
    single     microseconds of exchange and overhead a layer where a pass has one
               sample: from compiled code, and the same messages from Python
    partition  a step at batch 64 with random and with hypergraph rows: words,
               messages and seconds, beside what the model of a step says

    Rank 0 alone prints, and writes the report.
    """  # noqa: D301 - \b tells click to leave the lines as they are
    import tempfile
    from functools import partial

    from dasksdnn.bench import exchanges
    from dasksdnn.bench import ranks as kinds
    from dasksdnn.bench.machine import describe
    from dasksdnn.bench.report import machine_table
    from dasksdnn.engines.mpi.world import World

    with World().together() as world, ExitStack() as held:
        ranks = kinds.Ranks(world)
        chosen, counts = _cases(only, kinds.KINDS), numbers(samples, "samples", [])
        if repeats < 1:
            raise InputError(f"repeats is {repeats}: it must be at least 1")
        many = numbers(neurons, "neurons", [])
        machine = describe((*PACKAGES, "mpi4py"))
        if world.leads:
            show("bench mpi", {**machine_table(machine), "ranks": str(ranks.size)})
        folder = Path(ranks.alone(lambda: held.enter_context(tempfile.TemporaryDirectory())))
        cases = {
            "inference": [partial(kinds.inference, ranks, folder, n, layers, counts) for n in many or [16384]],
            "training": [partial(kinds.training, ranks, folder, n, layers, 256) for n in many or [1024, 16384]],
            "single": [partial(exchanges.single, ranks, folder, n, layers) for n in many or [1024]],
            "partition": [partial(exchanges.partitions, ranks, folder, n, layers, 64) for n in many or [1024]],
        }
        found: dict[str, dict[str, Any]] = {kind: {} for kind in chosen}
        for kind in chosen:
            for work in cases[kind]:
                for case in work(repeats, memory):
                    found[kind][case.title] = case.record
                    if world.leads:
                        click.echo()
                        show(case.title, {})
                        show_grid(case.header, case.rows)
                        click.echo(f"  {case.note}" if case.note else "", nl=bool(case.note))
        if world.leads:
            write_json(json_path, {"command": "bench mpi", "machine": machine, "ranks": ranks.size, "cases": found})


class _Report:
    """What is printed as it is measured, and written at the end; everything is checked at the start."""

    def __init__(
        self,
        command: str,
        repeats: int,
        chart: Path | None,
        overwrite: bool,
        json_path: Path | None,
        inputs: Sequence[Path] = (),
    ) -> None:
        from dasksdnn.bench.chart import check_chart
        from dasksdnn.bench.machine import describe
        from dasksdnn.bench.report import machine_table

        if repeats < 1:
            raise InputError(f"repeats is {repeats}: it must be at least 1")
        check_chart(chart)
        check_outputs(overwrite, files=[chart], report=json_path, inputs=inputs)
        self.command, self.repeats = command, repeats
        self.chart, self.overwrite, self.json_path = chart, overwrite, json_path
        self.machine = describe(PACKAGES)
        self.found: list[Comparison] = []
        self.limits: dict[int, Bandwidth] = {}
        self.rows = machine_table(self.machine)

    def measure_limits(self, threads: Sequence[int]) -> None:
        """Measure the memory with each number of threads."""
        from dasksdnn.bench.contender import Crew
        from dasksdnn.bench.machine import bandwidth
        from dasksdnn.bench.report import limits_table

        with ExitStack() as stack:
            self.limits = bandwidth([stack.enter_context(Crew(n)) for n in threads])
        self.rows |= limits_table(self.limits)

    def run(self, title: str, make: Callable[[], Any], peers: Sequence[str], threads: Sequence[int]) -> None:
        """Say what is compared, compare, and print the table."""
        from dasksdnn.bench.compare import compare
        from dasksdnn.bench.report import HEADER, summary, table

        if not self.found:
            show(self.command, self.rows)
        click.echo()
        show(title, {})  # before the work: some of it takes minutes
        found = compare(title, make(), peers, threads, self.repeats, self.limits)
        self.found.append(found)
        show_grid(HEADER, table(found))
        click.echo(f"  {summary(found)}")

    def write(self, settings: dict[str, Any]) -> None:
        """Write the report and the chart that were asked for."""
        from dataclasses import asdict

        from dasksdnn.bench.chart import write_chart

        memory = {str(threads): asdict(limit) for threads, limit in self.limits.items()}
        record = {"command": self.command, "machine": self.machine, "bandwidth": memory, "settings": settings}
        write_json(self.json_path, {**record, "cases": [found.as_dict() for found in self.found]})
        write_chart(self.chart, self.found, overwrite=self.overwrite)


def _cases(text: str | None, known: Sequence[str]) -> list[str]:
    chosen = names(text, known)
    if not chosen:
        raise InputError(f"only: no case is named; use some of {','.join(known)}, or leave it out")
    for name in chosen:
        if name not in known:
            raise InputError(f"only: {name!r} is not known; use some of {','.join(known)}")
    return chosen


def _peers(text: str, known: Sequence[str]) -> list[str]:
    chosen = names(text, known)
    for name in chosen:
        if name not in known:
            raise InputError(f"peers: {name!r} is not known; use some of {','.join(known)}")
    return chosen
