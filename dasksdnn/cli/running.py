"""Commands that plan, run and compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import config, host
from dasksdnn.cli.cluster import STRATEGY, check_engine, chosen_client, on_dask, on_engines, ranks
from dasksdnn.cli.options import JSON, MEMORY, OVERWRITE, PATH, STORE, THREADS, number
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import show, show_grid, some, write_json
from dasksdnn.errors import InputError, MemoryBudgetError


@click.command(short_help="Show how inference would run within a budget.")
@STORE
@number("--samples", "Number of samples.", required=True)
@MEMORY
@THREADS
@on_dask
@STRATEGY
@JSON
def plan(
    store: Path,
    samples: int,
    memory: str | None,
    threads: int | None,
    engine: str,
    scheduler: str | None,
    workers: int | None,
    strategy: str | None,
    json_path: Path | None,
) -> None:
    """Show how inference on STORE would run within a memory budget, and what else was considered.

    Slabs are runs of layers whose weights are loaded together; a tile is the samples that a thread works on at once, a
    batch those that are in flight.
    """
    from dasksdnn.engines.inference import plan as choose

    check_engine(engine, strategy)
    with progress() as listener, chosen_client(engine, scheduler, workers, memory, threads) as client:
        options: dict[str, Any] = {"memory": memory, "threads": threads, "strategy": strategy}
        chosen: Any = choose(store, samples, client=client, listener=listener, **options)
    facts = {"command": "plan", "store": str(store), "plan": chosen.as_dict(), "candidates": _candidates(chosen)}
    write_json(json_path, facts)
    rows = {
        "samples": f"{chosen.samples:,}",
        "budget": host.format_bytes(chosen.budget),
        "smallest budget": host.format_bytes(chosen.smallest),
        "projected peak": host.format_bytes(chosen.projected),
    }
    if client is not None:
        rows |= {"workers": _workers(chosen.cluster), "batch of a task": f"{chosen.batch:,} samples"}
    show(f"plan: {store}", rows)
    click.echo()
    show_grid(chosen.HEADER, chosen.rows())


def _workers(cluster: Any) -> str:
    s = "" if cluster.threads == 1 else "s"
    return f"{cluster.workers} of {cluster.threads} thread{s} and {host.format_bytes(cluster.budget)} each"


def _candidates(chosen: Any) -> list[dict[str, Any]]:
    """What was considered, as plain data."""
    from dasksdnn.plan.cluster import ClusterPlan

    if isinstance(chosen, ClusterPlan):
        return [
            {"strategy": c.strategy, "projected_bytes": c.projected, "predicted_seconds": c.seconds, "fits": c.fits}
            for c in chosen.candidates
        ]
    return [
        {
            "strategy": c.strategy,
            "tile": c.settings.tile,
            "batch": c.settings.batch,
            "slabs": len(c.settings.slabs),
            "projected_bytes": c.projection.total,
            "predicted_bytes_read": c.bytes_read,
            "predicted_seconds": c.seconds,
            "fits": c.fits,
        }
        for c in chosen.candidates
    ]


@click.command(short_help="Stream samples through a store.")
@STORE
@click.option(
    "--input",
    "source",
    metavar="X",
    type=PATH,
    required=True,
    help="Samples: .tsv (as in the Graph Challenge), .npz (SciPy), .npy, IDX (.gz too where it is text or IDX), or a "
    "Zarr array.",
)
@number("--samples", "Samples of a TSV file, where the last of them have no entry.")
@click.option(
    "--enlarge", is_flag=True, help="Pictures of an IDX file: enlarge them to the inputs, as for the Graph Challenge."
)
@click.option("--output", metavar="ARRAY", type=PATH, help="Zarr array of the outputs to make.")
@click.option(
    "--categories",
    metavar="FILE",
    type=PATH,
    help="List to make of the samples with a non-zero output, one a line, counted from 1.",
)
@MEMORY
@THREADS
@on_engines
@STRATEGY
@OVERWRITE
@JSON
def infer(
    store: Path,
    source: Path,
    samples: int | None,
    enlarge: bool,
    output: Path | None,
    categories: Path | None,
    memory: str | None,
    threads: int | None,
    engine: str,
    scheduler: str | None,
    workers: int | None,
    strategy: str | None,
    trace: Path | None,
    overwrite: bool,
    json_path: Path | None,
) -> None:
    """Stream samples through STORE within a memory budget.

    Keep the outputs with --output, the list of samples with a non-zero output with --categories; without either, the
    run is only measured. On Dask or with MPI, every worker or rank must see STORE and ARRAY.
    """
    from dasksdnn.engines.inference import infer as run
    from dasksdnn.store.reader import open_store

    start = perf_counter()
    check_engine(engine, strategy, trace)
    ours = None if engine == "dask" else memory  # on Dask the budget is each worker's, not this process's
    with ExitStack() as held:
        who = held.enter_context(ranks(engine))
        check_outputs(overwrite, stores=[output], files=[categories, trace], report=json_path, inputs=[store, source])
        opened = open_store(store)
        keep = held.enter_context(_categories(categories if who.leads else None, overwrite))
        dataset = held.enter_context(open_samples(source, opened.widths[0], samples, ours, enlarge))
        listener = held.enter_context(who.progress())
        client = held.enter_context(chosen_client(engine, scheduler, workers, memory, threads))
        options: dict[str, Any] = {"memory": memory, "threads": threads, "strategy": strategy, "overwrite": overwrite}
        result = run(
            opened,
            dataset,
            out="categories" if output is None else output,
            client=client,
            engine="mpi" if engine == "mpi" else None,
            trace=trace,
            listener=listener,
            **options,
        )
        keep(result.categories)
        leads = who.leads
    if not leads:
        return
    seconds = perf_counter() - start
    peak = host.peak_resident() if engine == "local" else result.peak_rss
    write_json(json_path, {"command": "infer", "store": str(store), **_ran_facts(result, seconds, peak)})
    show(f"infer: {store}", _ran(result, seconds, peak))
    if result.traffic is not None:
        click.echo()
        show_grid(result.traffic.HEADER, result.traffic.rows())


@contextmanager
def open_samples(
    source: Path, features: int, samples: int | None, memory: str | None, enlarge: bool = False
) -> Iterator[Any]:
    """Open a dataset that fits a network and a budget, until the block ends."""
    from dasksdnn.sources.datasets import open_dataset

    budget = host.parse_bytes(memory if memory is not None else config.get("memory"))
    held = host.resident()
    room = None if budget is None else max(0, budget - held)
    try:
        dataset = open_dataset(source, features=features, samples=samples, memory=room, enlarge=enlarge)
    except MemoryBudgetError as error:
        raise MemoryBudgetError(
            f"a memory budget of {host.format_bytes(budget or 0)} cannot work: {source} is loaded whole, which takes "
            f"{host.format_bytes(error.smallest)} beside the {host.format_bytes(held)} that the process holds already; "
            f"allow more than {host.format_bytes(held + error.smallest)}, or convert it to .npy or a Zarr array",
            held + error.smallest,
        ) from error
    with closing(dataset):
        yield dataset


@contextmanager
def _categories(path: Path | None, overwrite: bool) -> Iterator[Any]:
    """Give a function that keeps categories; the file appears when the block ends well."""
    from dasksdnn.atomic import replacing
    from dasksdnn.sources.graphchallenge import write_categories

    with nullcontext() if path is None else replacing(path, overwrite=overwrite) as temporary:

        def keep(found: Any) -> None:
            if temporary is not None:
                write_categories(temporary, found)

        yield keep


def _ran(result: Any, seconds: float, peak: int) -> dict[str, str]:
    from dasksdnn.plan.cluster import ClusterPlan

    chosen = result.plan
    if isinstance(chosen, ClusterPlan):
        plan = f"{chosen.chosen.strategy}, {chosen.worker.chosen.strategy}, batches of {chosen.batch:,} samples"
        more = {"plan": plan, "workers": _workers(chosen.cluster)}
    else:
        more = {
            "plan": f"{chosen.chosen.strategy}, {chosen.settings.batch:,} samples in flight in panels of {chosen.settings.tile}"
        }
    return {
        "samples": f"{result.samples:,}",
        "edges": f"{result.edges:,}",
        "seconds": f"{result.seconds:.3f} to run ({seconds:.1f} in all)",
        "edges/s": f"{result.edges_per_second:.3g}",
        **more,
        "peak memory": f"{host.format_bytes(peak)} of {host.format_bytes(chosen.budget)} "
        f"(projected {host.format_bytes(chosen.projected)})",
        "categories": f"{result.categories.size:,}",
    }


def _ran_facts(result: Any, seconds: float, peak: int) -> dict[str, Any]:
    return {
        "samples": result.samples,
        "edges": result.edges,
        "computed_edges": result.computed_edges,
        "seconds": result.seconds,
        "total_seconds": seconds,
        "edges_per_second": result.edges_per_second,
        "peak_rss_bytes": peak,
        "categories": (result.categories + 1).tolist(),
        "plan": result.plan.as_dict(),
        **({} if result.traffic is None else {"traffic": result.traffic.as_dict()}),
    }


@click.command(short_help="Compare outputs with labels or categories.")
@click.argument("outputs", type=PATH)
@click.option("--categories", metavar="FILE", type=PATH, help="The right categories, one a line, counted from 1.")
@click.option("--labels", metavar="FILE", type=PATH, help="The right classes: IDX, .npy, or one number a line.")
@JSON
@click.pass_context
def evaluate(
    context: click.Context, outputs: Path, categories: Path | None, labels: Path | None, json_path: Path | None
) -> None:
    """Compare OUTPUTS with labels or categories.

    OUTPUTS is a Zarr array that infer made, or, to compare categories, its list of them. The exit status is 1 where
    categories differ.
    """
    from dasksdnn.diagnostics.evaluation import accuracy, compare_categories

    if (categories is None) == (labels is None):
        raise InputError("evaluate: say what to compare with, either --categories or --labels")
    check_outputs(True, report=json_path, inputs=[outputs, *filter(None, (categories, labels))])
    if labels is not None:
        found = accuracy(outputs, labels)
        rows = {name: f"{found[name]:,}" for name in ("samples", "correct")}
        rows["accuracy"] = f"{found['accuracy']:.4f}"
    else:
        found = compare_categories(outputs, categories or "")
        rows = {"match": "yes" if found["match"] else "NO", **{n: f"{found[n]:,}" for n in ("found", "expected")}}
        rows |= {name: some(found[name]) for name in ("missing", "unexpected")}
    write_json(json_path, {"command": "evaluate", "outputs": str(outputs), **found})
    show(f"evaluate: {outputs}", rows)
    context.exit(0 if found.get("match", True) else 1)
