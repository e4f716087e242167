"""The command that trains."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.cluster import STRATEGY, check_engine, chosen_client, on_engines, ranks
from dasksdnn.cli.options import JSON, MEMORY, PATH, SEED, STORE, THREADS, number
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.cli.running import open_samples
from dasksdnn.diagnostics.tables import show, show_grid, write_json


@click.command(short_help="Train the network in a store.")
@STORE
@click.option(
    "--data",
    metavar="X",
    type=PATH,
    required=True,
    help="Samples: IDX (.gz too), .npz (SciPy), .npy, .tsv, or a Zarr array.",
)
@click.option(
    "--labels",
    metavar="Y",
    type=PATH,
    required=True,
    help="Classes from 0 up: IDX, .npy, or one number a line; for mse and bce an array of values.",
)
@number("--epochs", "Times that every sample is seen.", default=5)
@number("--batch-size", "Samples of a step.", default=64)
@click.option(
    "--loss",
    type=click.Choice(["softmax", "mse", "bce"]),
    default="softmax",
    show_default=True,
    help="Cross-entropy of classes, squared error, or cross-entropy of each output.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "momentum", "adam", "adamw"]),
    default="adam",
    show_default=True,
    help="How weights follow their gradient.",
)
@number("--lr", "Learning rate.", float, default=1e-3)
@number("--momentum", "Of the optimizer momentum.", float, default=0.9)
@click.option("--nesterov", is_flag=True, help="Nesterov's momentum.")
@number("--weight-decay", "Weight decay.", float, default=0.0)
@click.option(
    "--schedule", type=click.Choice(["constant", "step", "cosine"]), default="constant", show_default=True,
    help="Of the learning rate.",
)  # fmt: skip
@number("--warmup", "Steps in which the learning rate rises.", default=0)
@number("--dropout", "Share of hidden outputs that a step drops.", float, default=0.0)
@number("--clip-norm", "The most that the norm of a gradient may be.", float)
@number("--patience", "End after so many epochs without a lower loss, and return to the best.")
@click.option(
    "--evolve",
    type=click.Choice(["magnitude", "set", "rigl"]),
    help="Change the pattern between epochs: prune to --target-density, or drop and regrow, at random or by gradient.",
)
@number("--evolve-every", "Epochs from one change of the pattern to the next.", default=1)
@number("--drop", "Share of each row's weights that set and rigl replace at first.", float, default=0.3)
@number("--target-density", "What magnitude prunes all layers but the last to.", float)
@click.option(
    "--new-communication/--no-new-communication",
    default=True,
    help="Whether edges may grow where a part has to receive what it did not before.",
)
@click.option("--init", type=click.Choice(["he", "glorot"]), help="Draw the weights anew first, by each row's degree.")
@click.option("--validation", nargs=2, metavar="X Y", type=PATH, help="Samples and labels to look at after each epoch.")
@click.option(
    "--checkpoint-every",
    metavar="EVERY",
    default="1",
    show_default=True,
    help="Epochs, or '500 steps', '10 min': how often a checkpoint becomes the store's content.",
)
@number("--keep", "Newest checkpoints that are kept, besides the best and the state before training.", default=2)
@click.option("--resume", is_flag=True, help="Go on from the store's checkpoint, where it has one.")
@click.option(
    "--scratch", metavar="FOLDER", type=PATH, help="For what does not fit in memory.  [default: the system's]"
)
@number("--shuffle-buffer", "Samples that are shuffled together.  [default: 64 MiB of them]")
@click.option("--chart", metavar="FILE", type=PATH, help="Draw loss and accuracy (.png or .svg; needs matplotlib).")
@SEED
@MEMORY
@THREADS
@on_engines
@STRATEGY
@JSON
def train(
    store: Path,
    data: Path,
    labels: Path,
    validation: tuple[Path, Path] | None,
    chart: Path | None,
    memory: str | None,
    json_path: Path | None,
    resume: bool,
    threads: int | None,
    engine: str,
    scheduler: str | None,
    workers: int | None,
    strategy: str | None,
    trace: Path | None,
    **options: Any,
) -> None:
    """Train the network in STORE by backprop, within a memory budget.

    Every checkpoint is a new generation of the store and counts at once; killed at any moment, the last one is whole, and
    --resume goes on from it to the same bits. On Dask, every worker must be able to write STORE; where workers are lost,
    training goes on by itself from the last checkpoint. With MPI, a rank that fails ends all, and --resume goes on.
    """
    from dasksdnn.bench.chart import check_chart, save_figure
    from dasksdnn.diagnostics.plots import history as draw
    from dasksdnn.store.reader import open_store
    from dasksdnn.training.loop import train as run

    check_chart(chart)
    start = perf_counter()
    check_engine(engine, strategy, trace)
    ours = None if engine == "dask" else memory  # on Dask the budget is each worker's, not this process's
    with ExitStack() as held:
        who = held.enter_context(ranks(engine))
        inputs = [store, data, labels, *(validation or ())]
        check_outputs(False, files=[chart, trace], report=json_path, inputs=inputs)
        features = open_store(store).widths[0]
        x = held.enter_context(open_samples(data, features, None, ours))
        looked_at = None
        if validation:
            looked_at = (held.enter_context(open_samples(validation[0], features, None, ours)), validation[1])
        listener = held.enter_context(who.progress())
        client = held.enter_context(chosen_client(engine, scheduler, workers, memory, threads))
        history = run(
            store,
            x,
            labels,
            validation=looked_at,
            resume=resume,
            memory=memory,
            threads=threads,
            client=client,
            engine="mpi" if engine == "mpi" else None,
            strategy=strategy,
            trace=trace,
            listener=listener,
            **options,
        )
        leads = who.leads
    if not leads:
        return
    after = open_store(store)
    seconds = perf_counter() - start
    peak = host.peak_resident() if engine == "local" else history.plan["peak_rss_bytes"]
    facts = {
        "command": "train",
        "store": str(store),
        "generation": after.generation,
        "total_seconds": seconds,
        "peak_rss_bytes": peak,
        "plan": history.plan,
        **history.as_dict(),
    }
    write_json(json_path, facts)
    if chart is not None:
        save_figure(draw(history), chart)
    header, *rows = history.rows()
    show(f"train: {store}", _rows(history, after.generation, seconds, peak))
    click.echo()
    show_grid(header, rows)


def _rows(history: Any, generation: int, seconds: float, peak: int) -> dict[str, str]:
    plan, last = history.plan, history.epochs[-1]
    rows = {
        "epochs": str(last.epoch),
        "loss": f"{last.loss:.4f}" + ("" if last.accuracy is None else f", accuracy {last.accuracy:.4f}"),
        "seconds": f"{sum(e.seconds for e in history.epochs):.2f} to train ({seconds:.1f} in all)",
        "generation": str(generation),
        "peak memory": f"{host.format_bytes(peak)}",
    }
    if history.changes:
        first, last = history.changes[0], history.changes[-1]
        rows["pattern"] = (
            f"{len(history.changes)} changes, edges {first['edges_before']:,} -> {last['edges_after']:,}, "
            f"volume {first['volume_before']:,} -> {last['volume_after']:,}"
        )
    if plan:
        rows["plan"] = plan["strategy"]
        rows["peak memory"] += (
            f" of {host.format_bytes(plan['budget'])} (projected {host.format_bytes(plan['projected'])})"
        )
    return rows
