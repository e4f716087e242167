"""The command that cuts a network into parts."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.comparing import modelling, refuse_modelling, show_modelled
from dasksdnn.cli.describe import describe, facts
from dasksdnn.cli.options import JSON, OVERWRITE, PATH, SEED, STORE, number, numbers
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import show, write_json
from dasksdnn.errors import InputError


@click.command(short_help="Assign rows to parts, and write the store anew.")
@STORE
@click.option("--nparts", metavar="N", required=True, help="Number of parts.")
@click.option(
    "--method",
    metavar="NAME",
    default="hypergraph",
    show_default=True,
    help="hypergraph (the better of mtkahypar and metis, layer by layer), mtkahypar, kahypar, metis, block or random.",
)
@number("--epsilon", "Allowed imbalance of a layer's nonzeros.", float, default=0.03)
@SEED
@click.option("--out", type=PATH, metavar="STORE", help="Store to make; without --compare and --predict, required.")
@OVERWRITE
@JSON
@modelling
def partition(
    store: Path,
    nparts: str,
    method: str,
    epsilon: float,
    seed: int,
    out: Path | None,
    overwrite: bool,
    json_path: Path | None,
    **modelled: Any,
) -> None:
    """Assign the rows of every layer of STORE to parts, and write it anew, laid out by them.

    Volume counts the words that the parts send each other for a sample, messages the pairs of parts that exchange
    something in a layer. Both are counted by code that the partitioners do not share.

    With --compare, methods are counted side by side instead; with --predict, steps of SGD are modelled from what is
    counted: what computing, messages and words take of one on a cluster with a core for each part.
    """
    counts = numbers(nparts, "nparts", ())
    if modelled["compare"] or modelled["predict"]:
        outputs: dict[str, Any] = {"out": out, "overwrite": overwrite, "json_path": json_path}
        show_modelled(store, counts, epsilon=epsilon, seed=seed, **outputs, **modelled)
        return
    refuse_modelling(**modelled)
    if out is None:
        raise click.UsageError("Missing option '--out'.", click.get_current_context())
    if len(counts) > 1:
        raise InputError(f"nparts {nparts}: a store has one number of parts; --compare and --predict take several")
    _write(store, counts[0], method, epsilon, seed, out, overwrite, json_path)


def _write(
    store: Path, nparts: int, method: str, epsilon: float, seed: int, out: Path, overwrite: bool, json_path: Path | None
) -> None:
    from dasksdnn.partition.partition import partition as assign
    from dasksdnn.store.reader import open_store
    from dasksdnn.store.writer import save

    check_outputs(overwrite, stores=[out], report=json_path)
    start = perf_counter()
    net = open_store(store).network
    with progress() as listener:
        made = assign(net, nparts, method=method, epsilon=epsilon, seed=seed, listener=listener)
        written = save(net, out, partition=made, overwrite=overwrite, listener=listener)
    seconds, peak = perf_counter() - start, host.peak_resident_tree()
    rows = {
        **describe(written),
        "seconds": f"{seconds:.2f} ({made.seconds:.2f} partitioning)",
        "peak memory": host.format_bytes(peak),
    }
    write_json(
        json_path,
        {
            "command": "partition",
            "store": str(out),
            **facts(written),
            "recount": made.metrics.as_dict(),
            "partition_seconds": made.seconds,
            "seconds": seconds,
            "peak_rss_bytes": peak,
        },
    )
    show(f"partition: {out}", rows)
