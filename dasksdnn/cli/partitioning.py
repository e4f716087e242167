"""The command that cuts a network into parts."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.describe import describe, facts
from dasksdnn.cli.options import JSON, OUT, OVERWRITE, PATH, SEED, STORE, number
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import show, write_json

_SAID = click.core.ParameterSource.COMMANDLINE


@click.command(short_help="Assign rows to parts, and write the store anew.")
@STORE
@number("--nparts", "Number of parts.")
@click.option(
    "--method",
    metavar="NAME",
    default="hypergraph",
    show_default=True,
    help="hypergraph (the better of mtkahypar and metis, layer by layer), mtkahypar, kahypar, metis, block or random.",
)
@number("--epsilon", "Allowed imbalance of a layer's nonzeros.", float, default=0.03)
@SEED
@click.option("--no-cache", is_flag=True, help="Neither take the partition from the cache nor keep it there.")
@click.option(
    "--owner",
    type=PATH,
    metavar="FILE",
    help="Use this partition: of --save-owner, or .npy or .npz with the part of each neuron, layer after layer.",
)
@click.option("--save-owner", type=PATH, metavar="FILE", help="Save the partition as a file (.npz), too.")
@OUT
@OVERWRITE
@click.option(
    "--resume", is_flag=True, help="Go on where the same command was stopped; if stopped, keep what is written."
)
@JSON
@click.pass_context
def partition(
    context: click.Context,
    store: Path,
    nparts: int | None,
    method: str,
    epsilon: float,
    seed: int,
    no_cache: bool,
    owner: Path | None,
    save_owner: Path | None,
    out: Path,
    overwrite: bool,
    resume: bool,
    json_path: Path | None,
) -> None:
    """Assign the rows of every layer of STORE to parts, and write it anew, laid out by them.

    Volume counts the words that the parts send each other for a sample, messages the pairs of parts that exchange
    something in a layer. Both are counted by code that the partitioners do not share.
    """
    from dasksdnn.partition.partition import Partition
    from dasksdnn.partition.partition import partition as assign
    from dasksdnn.store.reader import open_store
    from dasksdnn.store.writer import save

    _check_choice(context, owner)
    given = [] if owner is None else [owner]
    check_outputs(overwrite, stores=[out], files=[save_owner], report=json_path, inputs=given)
    start = perf_counter()
    net = open_store(store).network
    with progress() as listener:
        if owner is not None:
            made = Partition.load(owner, net)
        else:
            assert nparts is not None
            how: dict[str, Any] = {"method": method, "epsilon": epsilon, "seed": seed, "cache": not no_cache}
            made = assign(net, nparts, listener=listener, **how)
        written = save(net, out, partition=made, overwrite=overwrite, resume=resume, listener=listener)
    if save_owner is not None:
        made.save(save_owner, overwrite=overwrite)
    seconds, peak = perf_counter() - start, host.peak_resident_tree()
    rows = {
        **describe(written),
        "seconds": f"{seconds:.2f} ({made.seconds:.2f} partitioning{', reused' * made.reused})",
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
            "reused": made.reused,
            "seconds": seconds,
            "peak_rss_bytes": peak,
        },
    )
    show(f"partition: {out}", rows)


#: Options that go with a partition that is given.
_BESIDE_OWNER = ("store", "owner", "save_owner", "out", "overwrite", "resume", "json_path")


def _check_choice(context: click.Context, owner: Path | None) -> None:
    """A partition is either given or made."""
    said = [p for p in context.command.params if context.get_parameter_source(p.name or "") == _SAID]
    surplus = [p.opts[0] for p in said if p.name not in _BESIDE_OWNER]
    if owner is not None and surplus:
        raise click.UsageError(f"--owner gives the partition: leave out {', '.join(surplus)}", context)
    if owner is None and context.params["nparts"] is None:
        raise click.UsageError("Missing option '--nparts', or '--owner' for a partition that is given", context)
